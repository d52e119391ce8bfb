"""Tables with several tasks and measures: their cells, comparisons and notes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MEASURES

from lavish.config.hashing import canonical_json
from lavish.errors import LavishError
from lavish.reporting.comparison import Reads, compare, parse_spec
from lavish.reporting.power import minimum_detectable_difference
from lavish.reporting.statistics import clip_values, holm, interval, paired_test
from lavish.reporting.tables import write_table

AVE, S4, AVQA = "event_localization", "segmentation_s4", "question_answering"
VIDEOS = [f"video{index // 3}" for index in range(60)]
"""Three questions each."""


@pytest.fixture
def scores() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {name: generator.random((3, 60)) for name in ("ave", "ave_frozen", "s4", "s4_frozen", "avqa", "avqa_frozen")}


@pytest.fixture
def counting(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Questions of a type: every third one, of 15 of the 20 videos."""
    counted = (np.arange(60) % 3 == 0) & (np.arange(60) < 45)
    return {name: np.where(counted, scores[name], np.nan) for name in ("avqa", "avqa_frozen")}


@pytest.fixture
def spec(make_run: Any, scores: dict[str, np.ndarray], counting: dict[str, np.ndarray]) -> dict[str, Any]:
    make_run("ave", scores["ave"])
    make_run("ave_frozen", scores["ave_frozen"], macs=0)
    make_run("ave_audio", scores["ave_frozen"] / 2)
    for name, value in (("s4", 0.6), ("s4_frozen", 0.3)):
        make_run(
            name,
            scores[name],
            macs=5_000_000,
            metric="mIoU",
            columns={"mIoU_validation_threshold": scores[name] / 2, "F_score_published": scores[name]},
            whole={"F_score": [value, value + 0.1, value + 0.2]},
        )
    for name in ("avqa", "avqa_frozen"):
        make_run(name, scores[name], clips=VIDEOS, columns={"accuracy_audio_counting": counting[name]})

    def row(variant: str, label: str, **folders: str) -> dict[str, Any]:
        names = {"ave": AVE, "s4": S4, "avqa": AVQA}
        runs = {names[task]: {"folder": str(make_run.root / folder)} for task, folder in folders.items()}
        return {"variant": variant, "label": label, "task": AVE, "runs": runs}

    values = {
        "name": "several",
        "title": "Several tasks",
        "task": AVE,
        "titles": {AVE: "AVE", S4: "S4", AVQA: "AVQA"},
        "measures": MEASURES,
        "baseline": "lavish",
        "columns": ["metric", "difference", f"metric@{S4}", f"difference@{S4}", f"mean:F_score@{S4}"],
        "seeds": [0, 1, 2],
        "sections": [
            {
                "title": "Rows",
                "rows": [
                    row("lavish", "LAVISH", ave="ave", s4="s4", avqa="avqa"),
                    row("frozen", "Frozen", ave="ave_frozen", s4="s4_frozen", avqa="avqa_frozen"),
                    row("audio", "Audio only", ave="ave_audio"),
                ],
            }
        ],
    }
    return json.loads(canonical_json(values))  # as the workflow hands it over, which sorts keys


def written(spec: dict[str, Any], folder: Path) -> tuple[str, dict[str, list[str]], list[dict[str, str]]]:
    """Return the markdown text, its rows by label and the lines of the CSV."""
    write_table(spec, folder / "table")
    text = (folder / "table.md").read_text()
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    rows = {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}
    return text, rows, list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def test_each_column_has_the_results_of_its_task(
    spec: dict[str, Any], scores: dict[str, np.ndarray], tmp_path: Path
) -> None:
    _, rows, _ = written(spec, tmp_path)
    assert rows["Variant"] == [
        "Accuracy (%), AVE", "95 % interval, AVE", "Difference (points), AVE", "p (Holm), AVE",
        "mIoU (%), S4", "95 % interval, S4", "Difference (points), S4", "p (Holm), S4", "F score (%), S4",
    ]  # fmt: skip
    ave, s4 = interval(scores["ave"], limits=(0, 1)), interval(scores["s4"], limits=(0, 1))
    assert rows["LAVISH"][0].startswith(f"{100 * ave.mean:.1f} ± ")
    assert rows["LAVISH"][4].startswith(f"{100 * s4.mean:.1f} ± ")
    assert rows["LAVISH"][5] == f"[{100 * s4.low:.1f}, {100 * s4.high:.1f}]"
    difference = paired_test(scores["s4_frozen"], scores["s4"])
    assert rows["Frozen"][6].startswith(f"{100 * difference.difference:+.1f}".replace("-", "−"))
    assert rows["LAVISH"][8] == "70.0 ± 10.0"


def test_a_task_that_does_not_apply_is_a_dash(spec: dict[str, Any], tmp_path: Path) -> None:
    text, rows, lines = written(spec, tmp_path)
    assert rows["Audio only"][4:] == ["–"] * 5
    assert rows["Audio only"][0] != "–"
    assert "a task or setting that does not apply" in text
    assert lines[2]["status"] == "ok"
    assert lines[2][f"{S4}_mean"] == lines[2][f"{S4}_F_score_mean"] == ""


def test_holm_corrects_within_a_measure_of_a_task(
    spec: dict[str, Any], scores: dict[str, np.ndarray], tmp_path: Path
) -> None:
    text, _, lines = written(spec, tmp_path)
    p = [paired_test(scores["ave_frozen"] / part, scores["ave"]).p for part in (1, 2)]
    found = [float(line[f"{AVE}_p_holm"]) for line in lines[1:]]
    assert found == pytest.approx(holm(p), rel=1e-5)
    assert float(lines[1][f"{S4}_p_holm"]) == pytest.approx(paired_test(scores["s4_frozen"], scores["s4"]).p, rel=1e-5)
    assert (
        "Holm-corrected for all comparisons of one measure of one task in this table: 2 comparisons of Accuracy, "
        in text
    )
    assert "1 comparison of mIoU, S4" in text


def test_a_section_has_its_own_baseline(spec: dict[str, Any], scores: dict[str, np.ndarray], tmp_path: Path) -> None:
    spec["columns"] = ["metric", "difference"]
    (section,) = spec["sections"]
    rows = [{**row, "baseline": "frozen"} for row in section["rows"]]
    spec["sections"] = [section, {"title": "Against frozen", "rows": rows}]
    write_table(spec, tmp_path / "table")
    lines = {
        (line["section"], line["variant"]): line
        for line in csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    }
    there, back = lines["Rows", "frozen"], lines["Against frozen", "lavish"]
    expected = paired_test(scores["ave"], scores["ave_frozen"])
    assert float(back["difference"]) == pytest.approx(expected.difference, rel=1e-6) == -float(there["difference"])
    assert float(back["p"]) == pytest.approx(expected.p, rel=1e-6)
    text = (tmp_path / "table.md").read_text()
    first, second = text.split("## Against frozen")
    assert re.search(r"\| LAVISH .* baseline \|", first) and re.search(r"\| Frozen .* baseline \|", second)
    assert "Differences to 'LAVISH' or 'Frozen', by section, are in percentage points" in text
    assert "Holm-corrected for the 4 comparisons of this table" in text
    assert text.count("Variance of the baseline's mean") == 1
    spec["sections"].pop()
    write_table(spec, tmp_path / "table")
    assert "Differences to 'LAVISH' are in percentage points" in (tmp_path / "table.md").read_text()


def test_rows_of_one_label_are_named_with_their_section(spec: dict[str, Any], tmp_path: Path) -> None:
    """In notes, as in the warning of seeds that dominate."""
    spec["columns"] = ["metric"]
    lavish, frozen, audio = spec["sections"][0]["rows"]
    spec["sections"] = [
        {"title": "One", "rows": [lavish, {**frozen, "label": "Same"}]},
        {"title": "Two", "rows": [{**audio, "label": "Same"}]},
    ]
    runs = compare(parse_spec(spec), {AVE: Reads(measures=frozenset({None}))}).runs(None)
    assert [*runs] == ["LAVISH", "Same (One)", "Same (Two)"]


def test_variants_with_the_same_run_are_one_comparison(spec: dict[str, Any], tmp_path: Path) -> None:
    rows = spec["sections"][0]["rows"]
    rows += [{**rows[0], "variant": "lavish_vit", "label": "On ViT"}, {**rows[1], "variant": "again", "label": "Again"}]
    text, cells, _ = written(spec, tmp_path)
    assert cells["On ViT"][2] == "baseline"
    assert cells["Again"] == cells["Frozen"]
    assert "2 comparisons of Accuracy" in text


def test_seeds_and_detectable_differences_are_those_of_each_measure_and_task(
    spec: dict[str, Any], scores: dict[str, np.ndarray], tmp_path: Path
) -> None:
    text, _, lines = written(spec, tmp_path)
    assert [float(lines[0][f"{S4}_F_score_seed{seed}"]) for seed in (0, 1, 2)] == pytest.approx([0.6, 0.7, 0.8])
    assert [float(lines[1][f"{S4}_seed{seed}"]) for seed in (0, 1, 2)] == pytest.approx(
        scores["s4_frozen"].mean(axis=1)
    )
    assert lines[2][f"{S4}_seed0"] == ""
    for measure, task, name, rows in (("Accuracy", "AVE", "ave", (1, 2)), ("mIoU", "S4", "s4", (1,))):
        tests = [paired_test(scores[f"{name}_frozen"] / part, scores[name]) for part in rows]
        median = np.median([minimum_detectable_difference(test.components) for test in tests])
        assert f"- {measure}, {task}: a true difference of {100 * median:.1f} points to 'LAVISH'" in text
    assert "(median of 1 comparison;" in text
    assert "- F score" not in text  # not a mean over units


def test_fields_of_several_tasks_begin_with_the_task(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["columns"] += ["trainable_params", f"adapter_gmacs@{S4}"]
    _, rows, lines = written(spec, tmp_path)
    assert rows["Variant"][-2:] == ["Trainable params (M), AVE", "Adapter GMACs, S4"]
    assert list(lines[0])[:4] == ["section", "variant", "label", "seeds"]
    assert {f"{AVE}_metric", f"{S4}_metric", f"{S4}_F_score_std", f"{S4}_adapter_macs"} <= set(lines[0])
    assert {"metric", "mean"}.isdisjoint(lines[0])
    assert (lines[0][f"{AVE}_metric"], lines[0][f"{S4}_metric"]) == ("accuracy", "mIoU")
    assert lines[0][f"{S4}_adapter_macs"] == "5000000"
    assert len(lines[0]["runs"].split(";")) == 9
    assert lines[0]["runs"].split(";")[6].endswith("/s4/seed0")  # tasks are in alphabetical order


def test_the_csv_has_the_costs_of_every_task(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["columns"] = ["metric", "trainable_params", f"metric@{S4}"]
    _, _, lines = written(spec, tmp_path)
    frozen = lines[1]
    assert (frozen[f"{AVE}_adapter_macs"], frozen[f"{S4}_adapter_macs"]) == ("0", "5000000")
    for field in ("trainable_params", "total_params", "adapter_macs", "total_macs"):
        assert frozen[f"{AVE}_{field}"] and frozen[f"{S4}_{field}"], field
        assert lines[2][f"{S4}_{field}"] == "", field


def test_notes_give_the_number_of_units_of_each_task(spec: dict[str, Any], tmp_path: Path) -> None:
    text, _, _ = written(spec, tmp_path)
    assert "selected on the validation split, by accuracy (AVE) and mIoU (S4); results are on the test split" in text
    assert "3 seeds (0, 1, 2), 60 test clips (AVE); 60 test clips (S4)." in text
    assert "'F score, S4': computed over the whole test split, not a mean over its units" in text


def test_a_measure_of_units_has_an_interval_and_a_test(
    spec: dict[str, Any], scores: dict[str, np.ndarray], tmp_path: Path
) -> None:
    measure = "mIoU_validation_threshold"
    spec |= {"columns": [f"metric:{measure}@{S4}", f"difference:{measure}@{S4}", f"mean:F_score_published@{S4}"]}
    text, rows, lines = written(spec, tmp_path)
    assert rows["Variant"] == [
        "mIoU validation threshold (%), S4", "95 % interval, S4",
        "Difference in mIoU validation threshold (points), S4", "p (Holm), S4", "F score as published ‡ (%), S4",
    ]  # fmt: skip
    expected = interval(scores["s4"] / 2, limits=(0, 1))
    assert rows["LAVISH"][1] == f"[{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
    assert float(lines[0][f"{S4}_{measure}_low"]) == pytest.approx(expected.low, rel=1e-6)
    test = paired_test(scores["s4_frozen"] / 2, scores["s4"] / 2)
    assert float(lines[1][f"{S4}_{measure}_p"]) == pytest.approx(test.p, rel=1e-6)
    assert "'F score as published ‡': computed as in published code" in text


def test_questions_are_resampled_by_their_video(
    spec: dict[str, Any], scores: dict[str, np.ndarray], counting: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for row in spec["sections"][0]["rows"][:2]:
        row |= {"task": AVQA, "runs": {AVQA: row["runs"][AVQA]}}
    del spec["sections"][0]["rows"][2]
    spec |= {"task": AVQA, "columns": ["metric", "difference", "metric:accuracy_audio_counting"]}
    text, rows, lines = written(spec, tmp_path)
    assert rows["Variant"][4] == "Accuracy audio counting (%)"
    expected = interval(clip_values(scores["avqa"], VIDEOS), limits=(0, 1))
    assert float(lines[0]["low"]) == pytest.approx(expected.low, rel=1e-6)
    of_type = interval(clip_values(counting["avqa"], VIDEOS), limits=(0, 1))
    assert float(lines[0]["accuracy_audio_counting_high"]) == pytest.approx(of_type.high, rel=1e-6)
    test = paired_test(clip_values(scores["avqa_frozen"], VIDEOS), clip_values(scores["avqa"], VIDEOS))
    assert float(lines[1]["p"]) == pytest.approx(test.p, rel=1e-6)
    assert "60 test units of 20 clips." in text
    assert "clips are resampled, each with all its units" in text
    assert "Some measures are over fewer units: 15 test clips for 'Accuracy audio counting'." in text


def test_a_number_of_the_whole_split_cannot_be_tested(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["columns"] = [f"metric:F_score@{S4}", f"difference:F_score@{S4}"]
    _, rows, lines = written(spec, tmp_path)
    assert rows["Frozen"] == ["40.0 ± 10.0", "–", "not tested: not a mean over test units", "–"]
    assert lines[1]["status"] == "not tested: not a mean over test units"


def test_a_measure_without_units(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["columns"] = [f"mean:accuracy_visual@{AVQA}"]
    _, rows, _ = written(spec, tmp_path)
    assert rows["LAVISH"] == ["no test units"]


def test_measures_and_predictions_of_different_evaluations_are_an_error(spec: dict[str, Any], tmp_path: Path) -> None:
    path = Path(spec["sections"][0]["rows"][0]["runs"][S4]["folder"]) / "seed1/test/metrics.json"
    values = json.loads(path.read_text())
    values["measures"]["mIoU_validation_threshold"] += 0.1
    path.write_text(json.dumps(values))
    with pytest.raises(LavishError, match=r"key 'measures.mIoU_validation_threshold' is .* have the mean"):
        written(spec, tmp_path)


def test_rows_of_a_cost_table_may_have_their_own_task(spec: dict[str, Any], tmp_path: Path) -> None:
    row = spec["sections"][0]["rows"][1]
    row |= {"task": S4, "runs": {S4: row["runs"][S4]}}
    spec["columns"] = ["trainable_params", "adapter_gmacs"]
    _, rows, lines = written(spec, tmp_path)
    assert rows["Variant"] == ["Trainable params (M)", "Adapter GMACs"]
    assert rows["Frozen"] == ["0.170", "0.00500"]
    assert lines[1]["cost"].endswith("/s4_frozen/cost.json")


def test_methods_with_published_numbers_only_have_a_section(spec: dict[str, Any], tmp_path: Path) -> None:
    def number(id: str, table: str, metric: str, value: str) -> dict[str, str]:
        method = {"method": "TPAVI", "encoders": "PVT-v2", "selection": "", "source": "its paper"}
        return {"id": id, "table": table, "metric": metric, "value": value, **method}

    published = [number("a", "avs_s4", "miou", "78.7"), number("b", "avs_ms3", "miou", "54.0")]
    published.append(number("c", "avs_s4", "fscore", "87.9"))
    row = {"variant": "", "label": "TPAVI", "task": AVE, "runs": {}, "published": published}
    spec["sections"].append({"title": "Published, other methods", "rows": [row]})
    spec["columns"].append("published")
    text, rows, lines = written(spec, tmp_path)
    assert "## Published, other methods\n\n| Variant   | Published" in text
    assert rows["TPAVI"] == [
        "AVS-S4 mIoU 78.7, selection not stated [1]; AVS-MS3 mIoU 54.0, selection not stated [2]; "
        "F-score 87.9, selection not stated [3]"
    ]
    assert (lines[-1]["variant"], lines[-1]["status"], lines[-1]["runs"]) == ("", "published", "")
    assert lines[-1]["published_value"] == "78.7 | 54.0 | 87.9"
    assert len(re.findall("TPAVI +&", (tmp_path / "table.tex").read_text())) == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("metric:F_score:", "is not a column: write name, name:measure, name@task or name:measure@task"),
        (
            "trainable_params:F_score",
            "only 'metric', 'mean', 'difference', 'variance_share', 'reliance' have a measure",
        ),
        (f"published@{S4}", "published numbers do not depend on the task"),
        (f"metrc@{S4}", "unknown column 'metrc' (did you mean 'metric'?)"),
    ],
)
def test_invalid_columns_are_named(spec: dict[str, Any], column: str, message: str) -> None:
    spec["columns"].append(column)
    with pytest.raises(LavishError) as caught:
        parse_spec(spec)
    assert "key 'columns.5': " in str(caught.value)
    assert message in str(caught.value)


def decibels(spec: dict[str, Any], make_run: Any, **further: Any) -> dict[str, np.ndarray]:
    """Give the rows of the main task a metric in decibels, between -3 and 20."""
    measure = {"name": "SI_SDR", "unit": "dB", "limits": (None, None), **further}
    spec["measures"] = {AVE: [measure]}
    spec["columns"] = ["metric", "difference"]
    generator = np.random.default_rng(7)
    scores = {name: generator.uniform(low, 20, (3, 60)) for name, low in (("ave", 0), ("ave_frozen", -3))}
    for name, values in {**scores, "ave_audio": scores["ave"] - 20}.items():
        make_run(name, values, metric="SI_SDR")
    return scores


def test_a_metric_that_is_no_fraction_keeps_its_unit_and_limits(
    spec: dict[str, Any], make_run: Any, tmp_path: Path
) -> None:
    scores = decibels(spec, make_run)
    text, rows, lines = written(spec, tmp_path)
    assert rows["Variant"] == ["SI SDR (dB)", "95 % interval", "Difference (dB)", "p (Holm)"]
    found = interval(scores["ave"])
    assert found.low < found.mean < found.high
    assert rows["LAVISH"][:2] == [f"{found.mean:.2f} ± {found.std:.2f}", f"[{found.low:.2f}, {found.high:.2f}]"]
    test = paired_test(scores["ave_frozen"], scores["ave"])
    assert rows["Frozen"][2].startswith(f"−{-test.difference:.2f} [")
    assert rows["Audio only"][0].startswith("−")
    assert "percentage points" not in text
    assert float(lines[0]["mean"]) == pytest.approx(scores["ave"].mean())


def test_an_interval_keeps_within_the_limits_of_its_measure(
    spec: dict[str, Any], make_run: Any, tmp_path: Path
) -> None:
    scores = decibels(spec, make_run, limits=(9.9, None))
    _, rows, _ = written(spec, tmp_path)
    assert interval(scores["ave"]).low < 9.9
    assert rows["LAVISH"][1].startswith("[9.90, ")


def test_a_table_says_of_which_measures_less_is_better(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    decibels(spec, make_run, higher_is_better=False)
    assert "Lower is better: 'SI SDR'." in written(spec, tmp_path)[0]


def test_a_measure_that_was_evaluated_otherwise_is_refused(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    decibels(spec, make_run)
    path = make_run.root / "ave/seed0/test/metrics.json"
    values = json.loads(path.read_text())
    other = {"name": "SI_SDR", "unit": "dB", "limits": [0.0, None], "higher_is_better": True, "threshold": "none"}
    path.write_text(json.dumps(values | {"definitions": {"SI_SDR": other}}))
    with pytest.raises(LavishError, match=r"ave: 'SI_SDR' was evaluated as Measure.*limits=\(0.0, None\)"):
        written(spec, tmp_path)
