"""Columns of reliance: a row under a condition against the row itself."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MEASURES, SEEDS
from matplotlib.figure import Figure

from lavish.config.hashing import canonical_json
from lavish.errors import LavishError
from lavish.reporting.figures import reliance, write_figure
from lavish.reporting.statistics import clip_values, holm, paired_test, simultaneous
from lavish.reporting.tables import write_table

AVE, S4 = "event_localization", "segmentation_s4"
THRESHOLD = "mIoU_validation_threshold"
CLIPS = [f"-clip{index // 2}" for index in range(60)]
"""Two units each."""
CONDITIONS: dict[str, dict[str, Any]] = {
    name: {
        "title": title,
        "stream": stream,
        "effect": f"effect of {name}",
        "folder": f"test-{name}-12345678",
        "definition": {"name": name, "condition": {"kind": kind}, "code": "abc"},
    }
    for name, title, stream, kind in (
        ("silence", "Silence", "audio", "silence"),
        ("dark", "Darkened", "visual", "darken"),
    )
}
VARIANTS = ("lavish", "frozen", "deaf")


def origin(name: str) -> dict[str, Any]:
    """Return what an evaluation states, with the title that the table leaves out."""
    definition = CONDITIONS[name]["definition"]
    return {"condition": definition | {"condition": definition["condition"] | {"title": "Former title"}}}


@pytest.fixture
def scores() -> dict[tuple[str, str], np.ndarray]:
    """By variant and condition; 'test' is none."""
    generator = np.random.default_rng(2)
    losses = {"test": 0.0, "silence": 0.2, "dark": 0.05}
    return {
        (variant, name): np.clip(generator.random((3, 60)) - loss * (variant == "lavish"), 0, 1)
        for variant in VARIANTS
        for name, loss in losses.items()
    }


@pytest.fixture
def spec(make_run: Any, scores: dict[tuple[str, str], np.ndarray]) -> dict[str, Any]:
    for variant in VARIANTS:
        make_run(variant, scores[variant, "test"], clips=CLIPS)
        make_run(f"{variant}_s4", scores[variant, "test"], columns={THRESHOLD: scores[variant, "test"] / 2})
        for name in ("silence", "dark") if variant != "deaf" else ("dark",):
            for index, seed in enumerate(SEEDS):
                under = {"folder": CONDITIONS[name]["folder"], "origin": origin(name)}
                values = scores[variant, name][index]
                make_run.evaluation(make_run.root / variant / f"seed{seed}", values, CLIPS, **under)
                columns = {THRESHOLD: values / 2}
                make_run.evaluation(make_run.root / f"{variant}_s4" / f"seed{seed}", values, columns=columns, **under)

    def row(variant: str, *tasks: str) -> dict[str, Any]:
        streams = {"streams": ["visual"]} if variant == "deaf" else {}
        folders = {AVE: variant, S4: f"{variant}_s4"}
        runs = {task: {"folder": str(make_run.root / folders[task]), **streams} for task in tasks}
        return {"variant": variant, "label": variant.capitalize(), "task": AVE, "runs": runs}

    rows = [row("lavish", AVE, S4), row("frozen", AVE, S4), row("deaf", AVE)]
    values = {
        "name": "small",
        "title": "Small",
        "task": AVE,
        "titles": {AVE: "AVE", S4: "S4"},
        "measures": MEASURES,
        "baseline": "lavish",
        "columns": ["mean", "reliance:silence", "reliance:dark", f"reliance:silence:{THRESHOLD}@{S4}"],
        "seeds": list(SEEDS),
        "conditions": CONDITIONS,
        "sections": [{"title": "Rows", "rows": rows}, {"title": "Again", "rows": rows[:1]}],
        "figures": {"figure": {"kind": "reliance", "title": "A figure", "section": ["Rows", "Again"],
                               "conditions": ["silence", "dark"]}},
    }  # fmt: skip
    return json.loads(canonical_json(values))


def written(spec: dict[str, Any], folder: Path) -> tuple[str, dict[str, list[str]], dict[str, dict[str, str]]]:
    """Return the markdown text, its rows by label and the lines of the CSV by variant."""
    write_table(spec, folder / "table")
    text = (folder / "table.md").read_text()
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    found = csv.DictReader((folder / "table.csv").read_text().splitlines())
    return text, rows, {line["variant"]: line for line in found}


def printed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def test_a_change_is_that_of_the_row_itself_tested_over_clips_and_seeds(
    spec: dict[str, Any], scores: dict[tuple[str, str], np.ndarray], tmp_path: Path
) -> None:
    _, rows, lines = written(spec, tmp_path)
    tests = [
        paired_test(clip_values(scores[variant, "silence"], CLIPS), clip_values(scores[variant, "test"], CLIPS))
        for variant in ("lavish", "frozen")
    ]
    corrected, wider = holm([test.p for test in tests]), simultaneous(tests)
    for variant, test, p, ends in zip(("lavish", "frozen"), tests, corrected, wider, strict=True):
        cell = rows[variant.capitalize()][1]
        assert cell == f"{printed(test.difference)} [{printed(test.low)}, {printed(test.high)}]"
        found = {
            name.removeprefix("event_localization_reliance_silence_"): value for name, value in lines[variant].items()
        }
        expected = {
            "difference": test.difference,
            "difference_low": test.low,
            "difference_high": test.high,
            "difference_simultaneous_low": ends[0],
            "difference_simultaneous_high": ends[1],
            "p": test.p,
            "p_holm": p,
        }
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(value, rel=1e-6), name
    assert tests[0].difference < -0.1 and rows["Lavish"][2] == "< 0.001"


def test_columns_are_a_family_each(
    spec: dict[str, Any], scores: dict[tuple[str, str], np.ndarray], tmp_path: Path
) -> None:
    _, _, lines = written(spec, tmp_path)
    tests = [
        paired_test(clip_values(scores[variant, "dark"], CLIPS), clip_values(scores[variant, "test"], CLIPS))
        for variant in VARIANTS
    ]
    for variant, p in zip(VARIANTS, holm([test.p for test in tests]), strict=True):
        found = float(lines[variant]["event_localization_reliance_dark_p_holm"])
        assert found == pytest.approx(p, rel=1e-6)


def test_a_measure_of_another_task(
    spec: dict[str, Any], scores: dict[tuple[str, str], np.ndarray], tmp_path: Path
) -> None:
    _, rows, lines = written(spec, tmp_path)
    assert rows["Variant"] == [
        "Accuracy (%), AVE", "Silence: change (points), AVE", "p (Holm), AVE", "Darkened: change (points), AVE",
        "p (Holm), AVE", "Silence: change in mIoU validation threshold (points), S4", "p (Holm), S4",
    ]  # fmt: skip
    test = paired_test(scores["lavish", "silence"] / 2, scores["lavish", "test"] / 2)
    assert rows["Lavish"][5].startswith(f"{printed(test.difference)} [")
    field = f"segmentation_s4_reliance_silence_{THRESHOLD}_difference"
    assert float(lines["lavish"][field]) == pytest.approx(test.difference, rel=1e-6)
    assert rows["Deaf"][5:] == ["–", "–"]


def test_a_row_without_the_stream_has_a_dash_with_a_reason_and_is_whole(spec: dict[str, Any], tmp_path: Path) -> None:
    _, rows, lines = written(spec, tmp_path)
    assert rows["Deaf"][1:3] == ["– (hears nothing)", "–"]
    assert rows["Deaf"][3].endswith("]")
    assert lines["deaf"]["event_localization_reliance_silence_difference"] == ""
    assert lines["deaf"]["status"] == "ok"


def test_a_note_says_what_each_condition_does(spec: dict[str, Any], tmp_path: Path) -> None:
    text, _, _ = written(spec, tmp_path)
    [note] = [line for line in text.splitlines() if line.startswith("- Changes under conditions")]
    assert "('Silence': effect of silence; 'Darkened': effect of dark)" in note
    assert "Holm-corrected for all rows of one column" in note


def test_an_evaluation_that_is_missing_is_a_reason(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    (make_run.root / "frozen/seed1/test-dark-12345678/metrics.json").unlink()
    _, rows, lines = written(spec, tmp_path)
    assert rows["Frozen"][3] == "not run: seed1/test-dark-12345678/metrics.json is missing"
    assert rows["Frozen"][1].endswith("]")
    assert lines["frozen"]["status"].startswith("not run: seed1/test-dark")


def test_a_row_that_was_not_run(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    (make_run.root / "frozen/seed1/test/metrics.json").unlink()
    _, rows, _ = written(spec, tmp_path)
    assert rows["Frozen"][1] == rows["Frozen"][0] == "not run: seed1/test/metrics.json is missing"


def test_an_evaluation_under_another_condition_is_refused(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    file = make_run.root / "lavish/seed2/test-dark-12345678/metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"origin": origin("silence")}))
    with pytest.raises(LavishError, match=r"seed2/test-dark-12345678/metrics\.json: key 'origin\.condition' is"):
        write_table(spec, tmp_path / "table")


def test_an_evaluation_of_other_clips_is_not_compared(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    for seed in SEEDS:
        folder = make_run.root / f"frozen/seed{seed}"
        under = {"folder": "test-dark-12345678", "origin": origin("dark")}
        make_run.evaluation(folder, np.linspace(0, 1, 59), CLIPS[:59], **under)
    _, rows, _ = written(spec, tmp_path)
    assert rows["Frozen"][3] == "not compared: other test clips without the condition"


def test_environments_of_evaluations_under_conditions_are_compared(
    spec: dict[str, Any], make_run: Any, tmp_path: Path
) -> None:
    file = make_run.root / "frozen/seed0/test-dark-12345678/metrics.json"
    values = json.loads(file.read_text())
    values["origin"]["device"] = "NVIDIA H200"
    file.write_text(json.dumps(values))
    text, _, _ = written(spec, tmp_path)
    assert "device cpu, but NVIDIA H200 in 'Frozen'" in text


# --- the figure ---


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    seen: list[Figure] = []

    def spy(*arguments: Any, draw: Any = reliance.draw) -> Any:
        canvas = draw(*arguments)
        seen.append(canvas.figure)
        return canvas

    monkeypatch.setattr(reliance, "draw", spy)
    return seen


def test_each_stream_has_a_panel_and_each_row_a_point_with_its_interval(
    spec: dict[str, Any], scores: dict[tuple[str, str], np.ndarray], tmp_path: Path, drawn: list[Figure]
) -> None:
    write_figure(spec, "figure", tmp_path / "a.svg")
    heard, seen = drawn[0].axes
    assert [axes.get_xlabel().split(":")[0] for axes in (heard, seen)] == ["Sound disturbed", "Picture disturbed"]
    # A row that is repeated in another section is drawn once.
    assert [label.get_text() for label in heard.get_yticklabels()] == ["Lavish", "Frozen", "Deaf"]
    assert [text.get_text().strip() for text in heard.texts] == ["hears nothing"]
    assert not seen.texts
    for axes, name, variants in ((heard, "silence", VARIANTS[:2]), (seen, "dark", VARIANTS)):
        [points] = axes.containers
        line, _, [bars] = points.lines
        tests = [
            paired_test(clip_values(scores[variant, name], CLIPS), clip_values(scores[variant, "test"], CLIPS))
            for variant in variants
        ]
        np.testing.assert_allclose(np.asarray(line.get_xdata(), float), [100 * test.difference for test in tests])
        ends = [segment[:, 0] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [(100 * test.low, 100 * test.high) for test in tests])


def test_one_stream_is_one_panel_and_rows_without_it_are_listed(
    spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    spec["figures"]["figure"]["conditions"] = ["silence"]
    write_figure(spec, "figure", tmp_path / "a.svg")
    [axes] = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Lavish", "Frozen"]
    note = " ".join(drawn[0].get_supxlabel().split())
    assert "Silence: effect of silence." in note and "Not drawn: Deaf (hears nothing)." in note


def test_a_measure_is_drawn_in_its_task(spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    spec["figures"]["figure"] |= {"task": S4, "measure": THRESHOLD, "conditions": ["silence"]}
    write_figure(spec, "figure", tmp_path / "a.svg")
    assert drawn[0].axes[0].get_xlabel() == "Sound disturbed: change in mIoU validation threshold (points)"


def test_small_changes_do_not_fill_the_panel(
    spec: dict[str, Any], make_run: Any, tmp_path: Path, drawn: list[Figure]
) -> None:
    for variant in VARIANTS:
        for seed in SEEDS:
            folder = make_run.root / variant / f"seed{seed}"
            clean = json.loads((folder / "test/metrics.json").read_text()) | {"origin": origin("dark")}
            (folder / "test-dark-12345678/metrics.json").write_text(json.dumps(clean))
            predictions = (folder / "test/predictions.parquet").read_bytes()
            (folder / "test-dark-12345678/predictions.parquet").write_bytes(predictions)
    spec["figures"]["figure"]["conditions"] = ["dark"]
    write_figure(spec, "figure", tmp_path / "a.svg")
    low, high = drawn[0].axes[0].get_xlim()
    assert low <= -1 and high >= 1


def test_the_figure_is_the_same_twice(spec: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(spec, "figure", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_no_result_at_all_is_an_error(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    spec["figures"]["figure"]["conditions"] = ["silence"]
    for variant in ("lavish", "frozen"):
        (make_run.root / variant / "seed0/test-silence-12345678/metrics.json").unlink()
    with pytest.raises(LavishError, match="no row has a result: Lavish"):
        write_figure(spec, "figure", tmp_path / "a.svg")
