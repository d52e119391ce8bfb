"""Figures of several measures, and of predicted masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MEASURES
from matplotlib.figure import Figure

from lavish.errors import LavishError
from lavish.reporting.figures import breakdown, learning_curve, predicted_masks, write_figure
from lavish.reporting.statistics import interval

TASK, MASKS = "question_answering", "segmentation_s4"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are written."""
    seen: list[Figure] = []
    for module in (breakdown, learning_curve, predicted_masks):

        def spy(*arguments: Any, draw: Any = module.draw) -> Any:
            canvas = draw(*arguments)
            seen.append(canvas.figure)
            return canvas

        monkeypatch.setattr(module, "draw", spy)
    return seen


def table(figure: dict[str, Any], *rows: dict[str, Any]) -> dict[str, Any]:
    section = {"title": "Rows", "rows": list(rows)}
    figure = {"title": "A figure", "section": "Rows", **figure}
    return {
        "name": "small", "title": "", "task": TASK, "measures": MEASURES,
        "baseline": rows[0]["variant"], "columns": ["metric"],
        "seeds": [0, 1, 2], "sections": [section], "figures": {"figure": figure},
    }  # fmt: skip


def row(name: str, task: str, folder: Path) -> dict[str, Any]:
    return {"variant": name, "label": f"Row {name}", "task": TASK, "runs": {task: {"folder": str(folder)}}}


# --- breakdown ---


@pytest.fixture
def questions(make_run: Any) -> dict[str, Any]:
    scores = np.random.default_rng(0).random((3, 40))
    of_type = np.where(np.arange(40) < 20, scores, np.nan)
    run = make_run("a", scores, columns={"accuracy_audio": of_type}, whole={"F_score": [0.1, 0.2, 0.3]})
    figure = {"kind": "breakdown", "measures": ["metric", "accuracy_audio", "F_score"]}
    return table(figure, row("a", TASK, run), row("b", TASK, make_run.root / "absent"), row("c", MASKS, run))


def test_each_measure_is_a_point_with_its_interval(
    questions: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    write_figure(questions, "figure", tmp_path / "a.svg")
    [axes] = drawn[0].axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Accuracy", "audio", "F\nscore"]
    [points] = axes.containers
    line, _, [bars] = points.lines
    scores = np.random.default_rng(0).random((3, 40))
    expected = [interval(scores), interval(scores[:, :20])]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [*(100 * found.mean for found in expected), 20.0])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends[:2], [(100 * found.low, 100 * found.high) for found in expected])
    # A number of the whole split has no interval.
    np.testing.assert_allclose(ends[2], [20.0, 20.0])


def test_rows_without_a_result_or_of_another_task(
    questions: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    write_figure(questions, "figure", tmp_path / "a.svg")
    note = " ".join(drawn[0].get_supxlabel().split())
    assert "Not drawn: Row b (not run: seed0/record.json is missing)." in note
    assert "Row c" not in note
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["Row a"]


def test_breakdown_is_the_same_twice(questions: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(questions, "figure", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# --- learning curves ---


@pytest.fixture
def curves(make_run: Any) -> dict[str, Any]:
    """Two methods on a quarter and on all of 80 clips, and one that has not been run."""
    generator = np.random.default_rng(2)
    sections = []
    for fraction in (0.25, 1.0):
        rows = []
        for number, name in enumerate(("A method", "Another one")):
            folder = make_run(f"{number}_{fraction}", np.clip(generator.normal(0.5 * fraction, 0.05, (3, 40)), 0, 1))
            for path in folder.glob("seed*/record.json"):
                path.write_text(json.dumps(json.loads(path.read_text()) | {"training_clips": int(80 * fraction)}))
            rows.append(row(f"{number}_{fraction:g}".replace(".", "_"), TASK, folder) | {"label": name})
            rows[-1]["runs"][TASK]["settings"] = {"fraction": fraction}
        sections.append({"title": f"Clips: {fraction}", "rows": rows})
    sections[0]["rows"].append(row("absent", TASK, make_run.root / "absent"))
    values = table({"kind": "learning_curve"}, *sections[0]["rows"])
    titles = [section["title"] for section in sections]
    values["figures"]["figure"]["section"] = titles
    return values | {"sections": sections}


def test_a_line_goes_through_the_rows_of_a_label(curves: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    write_figure(curves, "figure", tmp_path / "a.svg")
    [axes] = drawn[0].axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["20\n25 %", "80\n100 %"]
    assert [line.get_label() for line in axes.containers] == ["A method", "Another one"]
    generator = np.random.default_rng(2)
    scores = [np.clip(generator.normal(0.5 * fraction, 0.05, (3, 40)), 0, 1) for fraction in (0.25, 0.25, 1.0, 1.0)]
    for number, container in enumerate(axes.containers):
        line, _, [bars] = container.lines
        expected = [interval(scores[number]), interval(scores[2 + number])]
        np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [100 * found.mean for found in expected])
        np.testing.assert_allclose(np.asarray(line.get_xdata(), float), [20, 80], rtol=0.02)
        ends = [segment[:, 1] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [(100 * found.low, 100 * found.high) for found in expected])
    note = " ".join(drawn[0].get_supxlabel().split())
    assert "Not drawn: Row absent, Clips: 0.25 (not run: seed0/record.json is missing)." in note


def test_labels_of_lines_do_not_overlap(curves: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    write_figure(curves, "figure", tmp_path / "a.svg")
    canvas = drawn[0].canvas
    canvas.draw()
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert len(boxes) == 2
    low, high = sorted(boxes, key=lambda box: box.y0)
    assert low.y1 <= high.y0, "both lines end at about the same accuracy"
    assert max(box.x1 for box in boxes) <= drawn[0].bbox.x1


def test_learning_curves_are_the_same_twice(curves: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(curves, "figure", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


# --- examples ---


def write_examples(run: Path, clips: list[str], predicted: int = 255, **changes: Any) -> Path:
    """Write what `lavish examples` writes, for clips of two segments of 4 x 6 pixels; the truth is the left half."""
    shape = (len(clips), 2, 4, 6)
    truth = np.zeros(shape, np.uint8)
    truth[..., :3] = 1
    arrays = {
        "clips": np.array(clips),
        "frames": np.full((*shape, 3), 100, np.uint8),
        "truth": truth,
        "predicted": np.full(shape, predicted, np.uint8),
        **changes,
    }
    path = run / "seed0/test/examples.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return run


@pytest.fixture
def masks(tmp_path: Path) -> dict[str, Any]:
    figure = {"kind": "predicted_masks", "task": MASKS, "clips": 2, "segment": 1}
    runs = [write_examples(tmp_path / name, ["x", "y", "z"], value) for name, value in (("a", 255), ("b", 0))]
    return table(figure, row("a", MASKS, runs[0]), row("b", MASKS, runs[1]), row("c", TASK, runs[0]))


def test_a_row_of_the_grid_has_frame_truth_and_predicted_masks(
    masks: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    write_figure(masks, "figure", tmp_path / "a.svg")
    grid = drawn[0].axes
    assert len(grid) == 2 * 4
    assert [axes.get_title() for axes in grid[:4]] == ["Frame", "Truth", "Row a", "Row b"]
    frame, truth, a, b = (np.asarray(axes.images[0].get_array()) for axes in grid[:4])
    assert (frame == 100).all()
    assert (truth[:, :3] == a[:, :3]).all()
    assert (truth[:, 3:] == b[:, 3:]).all()
    assert (a != b).all(axis=-1).all()


def test_missing_examples_are_listed(masks: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    (tmp_path / "b/seed0/test/examples.npz").unlink()
    write_figure(masks, "figure", tmp_path / "a.svg")
    assert "Not drawn: Row b" in " ".join(drawn[0].get_supxlabel().split())
    (tmp_path / "a/seed0/test/examples.npz").unlink()
    with pytest.raises(LavishError, match=r"no row has a result: Row a .not run: seed0/test/examples.npz is missing"):
        write_figure(masks, "figure", tmp_path / "a.svg")


def test_a_segment_without_annotation(tmp_path: Path, drawn: list[Figure]) -> None:
    run = write_examples(tmp_path / "a", ["x"], truth=np.full((1, 2, 4, 6), 255, np.uint8))
    write_figure(table({"kind": "predicted_masks", "task": MASKS}, row("a", MASKS, run)), "figure", tmp_path / "a.svg")
    assert [text.get_text() for text in drawn[0].axes[1].texts] == ["not\nannotated"]


def test_examples_of_other_clips_are_an_error(masks: dict[str, Any], tmp_path: Path) -> None:
    write_examples(tmp_path / "b", ["x", "y", "other"])
    with pytest.raises(LavishError, match="the examples of 'Row b' are of other clips"):
        write_figure(masks, "figure", tmp_path / "a.svg")


def test_a_segment_that_clips_do_not_have(masks: dict[str, Any], tmp_path: Path) -> None:
    masks["figures"]["figure"]["segment"] = 2
    with pytest.raises(LavishError, match="asks for segment 2, but clips have 2 segments"):
        write_figure(masks, "figure", tmp_path / "a.svg")


@pytest.mark.parametrize("broken", [b"nothing", None])
def test_broken_examples_are_named(masks: dict[str, Any], tmp_path: Path, broken: bytes | None) -> None:
    if broken:
        (tmp_path / "b/seed0/test/examples.npz").write_bytes(broken)
    else:
        write_examples(tmp_path / "b", ["x", "y", "z"], frames=np.zeros((3, 4, 6), np.uint8))
    with pytest.raises(LavishError, match=r"b/seed0/test/examples.npz: .*remove it and run its job again"):
        write_figure(masks, "figure", tmp_path / "a.svg")
