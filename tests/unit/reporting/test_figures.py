"""Figures: deterministic files, their content, and labels that do not overlap."""

from __future__ import annotations

import copy
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from lavish.errors import LavishError
from lavish.reporting.figures import metric_against_cost, write_figure

TASK = "event_localization"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect the figures that are written."""
    seen: list[Figure] = []
    draw = metric_against_cost._draw

    def spy(*arguments: Any) -> Any:
        canvas = draw(*arguments)
        seen.append(canvas.figure)
        return canvas

    monkeypatch.setattr(metric_against_cost, "_draw", spy)
    return seen


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_svg_is_the_same_twice_and_without_dates(table_spec: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(table_spec, "cost", tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "<dc:date>" not in text
    assert "<text" not in text


def test_png_by_suffix(table_spec: dict[str, Any], tmp_path: Path) -> None:
    write_figure(table_spec, "cost", tmp_path / "new" / "a.png")
    image = Image.open(tmp_path / "new" / "a.png")
    assert image.size == (1080, 690)
    assert "Software" not in image.info


def test_rows_are_labelled_and_the_baseline_is_marked(
    table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    assert sorted(labels(drawn[0])) == ["LAVISH (baseline)", "frozen backbone", "no cross-modal attention"]
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "Test accuracy (%)"
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert len(diamonds) == 1
    # The run without adapters has no cost, which a log scale cannot show: it is the dashed line.
    assert [line.get_linestyle() for line in axes.lines if line.get_xdata()[0] == 0] == ["--"]  # type: ignore[index]


def test_trainable_parameters_as_cost(table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    table_spec["figures"]["cost"]["cost"] = "trainable_params"
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    axes = drawn[0].axes[0]
    assert "Trainable parameters" in axes.get_xlabel()
    markers = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in "Do")  # type: ignore[index]
    # Equal costs: drawn side by side around the true one.
    assert len(set(markers)) == 3
    assert np.exp(np.mean(np.log(markers))) == pytest.approx(0.17)


def test_labels_do_not_overlap(table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    section = table_spec["sections"][0]
    for number in range(3):
        row = copy.deepcopy(section["rows"][1])
        row |= {"variant": f"copy_{number}", "label": f"another row with a long label {number}"}
        section["rows"].append(row)
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    figure = drawn[0]
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 6
    assert not [pair for pair in combinations(boxes, 2) if metric_against_cost._overlap(*pair) > 0]
    frame = figure.axes[0].get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_rows_without_a_result_are_listed(table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]) -> None:
    table_spec["figures"]["cost"]["section"] = "Selection & more"
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    note = " ".join(drawn[0].get_supxlabel().split())
    assert "Not drawn: audio → visual (not run: seed0/record.json is missing)." in note
    assert "† selected on the test split." in note
    assert "LAVISH, 50% | test †" in labels(drawn[0])


def test_the_style_is_restored(table_spec: dict[str, Any], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("change", "name", "suffix", "message"),
    [
        ({}, "costs", "svg", "no figure 'costs' .did you mean 'cost'"),
        ({"section": "Fusio"}, "cost", "svg", "figures.cost.section.: no section 'Fusio' .did you mean 'Fusion'"),
        ({"colour": "red"}, "cost", "svg", "unknown key 'figures.cost.metric_against_cost.colour'"),
        ({}, "cost", "jpg", "written as .svg or .png, not '.jpg'"),
    ],
)
def test_invalid_requests_are_named(
    table_spec: dict[str, Any], tmp_path: Path, change: dict[str, str], name: str, suffix: str, message: str
) -> None:
    table_spec["figures"]["cost"] |= change
    with pytest.raises(LavishError, match=message):
        write_figure(table_spec, name, tmp_path / f"a.{suffix}")


def test_no_result_at_all_is_an_error(table_spec: dict[str, Any], tmp_path: Path) -> None:
    for row in table_spec["sections"][0]["rows"]:
        row["runs"]["event_localization"]["folder"] = str(tmp_path / row["variant"])
    table_spec["sections"] = table_spec["sections"][:1]
    with pytest.raises(LavishError, match=r"no row has a result: LAVISH .not run: seed0/record.json is missing"):
        write_figure(table_spec, "cost", tmp_path / "a.svg")


def on_front(figure: Figure) -> set[float]:
    """Return the means of the points that are drawn filled."""
    points = [line for line in figure.axes[0].lines if line.get_marker() in "Do"]
    return {float(point.get_ydata()[0]) for point in points if point.get_markerfacecolor() != "white"}  # type: ignore[index]


@pytest.mark.parametrize("cost", ["trainable_params", "adapter_gmacs", "total_gmacs"])
def test_the_pareto_front_is_marked(
    make_run: Any, table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure], cost: str
) -> None:
    numbers = {"cheap": (1, 0.5), "worse": (2, 0.4), "better": (3, 0.7), "dear": (4, 0.7), "best": (5, 0.8)}
    rows = []
    for name, (spent, mean) in numbers.items():
        folder = make_run(name, np.resize([mean - 0.01, mean + 0.01], (3, 80)), macs=10**6 * spent)
        counted = json.loads((folder / "cost.json").read_text())
        (folder / "cost.json").write_text(json.dumps(counted | {"trainable_params": 10**5 * spent}))
        rows.append({"variant": name, "label": name, "task": TASK, "runs": {TASK: {"folder": str(folder)}}})
    table_spec["sections"] = [{"title": "Fusion", "rows": rows}]
    table_spec |= {"baseline": "cheap"}
    table_spec["figures"]["cost"] |= {"front": True, "cost": cost}
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    assert sorted(round(mean, 3) for mean in on_front(drawn[0])) == [50.0, 70.0, 80.0]
    assert "Pareto front: no row with" in drawn[0].get_supxlabel()
    front = next(line for line in drawn[0].axes[0].lines if line.get_drawstyle() == "steps-post")
    assert [round(float(mean), 3) for mean in front.get_ydata()] == [50.0, 70.0, 80.0]  # type: ignore[union-attr]
    points = [line for line in drawn[0].axes[0].lines if line.get_marker() in "Do"]
    # 'dear' reaches no more than 'better' does, at a higher cost.
    hollow = [float(point.get_ydata()[0]) for point in points if point.get_markerfacecolor() == "white"]  # type: ignore[index]
    assert sorted(round(mean, 3) for mean in hollow) == [40.0, 70.0]


def test_each_section_has_a_colour_and_repeated_rows_are_drawn_once(
    table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    table_spec["figures"]["cost"]["section"] = ["Fusion", "Selection & more"]
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    assert sorted(labels(drawn[0])) == [
        "LAVISH (baseline)", "LAVISH, 50% | test †", "frozen backbone", "no cross-modal attention",
    ]  # fmt: skip
    points = {line.get_color() for line in drawn[0].axes[0].lines if line.get_marker() in "Do"}
    assert len(points) == 2
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["Fusion", "Selection & more"]


def test_several_rows_without_cost_stand_above_zero(
    make_run: Any, table_spec: dict[str, Any], tmp_path: Path, drawn: list[Figure]
) -> None:
    folder = make_run("also_free", np.resize([0.4, 0.6], (3, 80)), macs=0)
    row = {"variant": "also_free", "label": "also free", "task": TASK, "runs": {TASK: {"folder": str(folder)}}}
    table_spec["sections"][0]["rows"].append(row)
    write_figure(table_spec, "cost", tmp_path / "a.svg")
    axes = drawn[0].axes[0]
    drawn[0].canvas.draw()
    ticks = dict(zip((label.get_text() for label in axes.get_xticklabels()), axes.get_xticks(), strict=True))
    places = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in "Do")  # type: ignore[index]
    assert len(places) == 4
    assert (places[0] * places[1]) ** 0.5 == pytest.approx(ticks["0"])
    assert not [line for line in axes.lines if line.get_linestyle() == "--"]
