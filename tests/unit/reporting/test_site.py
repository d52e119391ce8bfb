"""The files of the results page; tests/browser opens them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lavish.cli.main import main
from lavish.errors import LavishError
from lavish.reporting.columns import COLUMNS
from lavish.reporting.comparison import compare, parse_spec
from lavish.reporting.site import page
from lavish.reporting.site.runs import views
from lavish.reporting.site.view import view
from lavish.reporting.tables import reads_of

FILES = ["datatables.js", "index.html", "site.js", "vega.js"]


@pytest.fixture(autouse=True)
def no_bundling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the bundle of Vega-Lite takes seconds; tests/browser draws with it."""
    monkeypatch.setattr(page.vl_convert, "javascript_bundle", lambda snippet, version: f"// {version}: {snippet}")


def comparison(spec: dict[str, Any]) -> Any:
    table = parse_spec(spec)
    return compare(table, reads_of(table))


def test_the_command_writes_few_files_that_need_no_other(table_spec: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(table_spec))
    out = tmp_path / "results/site"
    assert main(["site", "--table", str(tmp_path / "spec.json"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    html = (out / "index.html").read_text()
    scripts = re.findall(r'<script src="([^"]+)"', html)
    assert set(scripts) <= set(FILES)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    assert not re.findall(r"@import|url\((?!['\"]?data:)", html)


def test_the_same_results_give_the_same_page(table_spec: dict[str, Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        page.write_site([table_spec], tmp_path / name)
    assert (tmp_path / "one/index.html").read_bytes() == (tmp_path / "two/index.html").read_bytes()


def test_every_heading_has_its_cells(table_spec: dict[str, Any]) -> None:
    table_spec["columns"] += ["backbone", "size", "learning_rate", "tuning", "validation", "step_time", "mean"]
    shown = view(comparison(table_spec))
    assert {len(line.cells) for line in shown.lines} == {len(shown.headings)}
    assert len(shown.headings) > len(table_spec["columns"])
    main_columns = [heading.text for heading in shown.headings if heading.shown]
    assert main_columns[:2] == ["Accuracy (%)", "Difference (points)"]
    plotted = {heading.text: heading.higher_is_better for heading in shown.headings if heading.plotted}
    assert plotted["Accuracy (%)"] and not plotted["Adapter GMACs"] and not plotted["Step (ms)"]
    assert "Backbone" not in plotted and "95 % interval" not in plotted


def test_numbers_are_read_from_the_cells(table_spec: dict[str, Any]) -> None:
    shown = view(comparison(table_spec))
    line = next(line for line in shown.lines if line.label == "frozen backbone")
    accuracy, interval, difference = line.cells[:3]
    assert accuracy.text.startswith(f"{accuracy.number} ±")
    assert interval.text == f"[{accuracy.low}, {accuracy.high}]"
    assert difference.number is not None and difference.number < 0 and difference.mark == "**"
    assert difference.low is not None and difference.high is not None
    assert difference.low < difference.number < difference.high < 0
    assert accuracy.bar is not None and accuracy.bar[0] <= accuracy.bar[2] <= accuracy.bar[1]
    assert accuracy.run == "frozen"


def test_a_row_that_was_not_run_says_so(table_spec: dict[str, Any]) -> None:
    shown = view(comparison(table_spec))
    cell = shown.lines[-1].cells[0]
    assert cell.text == "not run: seed0/record.json is missing"
    assert (cell.number, cell.bar) == (None, None)
    [run] = [run for run in views([comparison(table_spec)], "") if run.name == "absent"]
    assert [training.missing for training in run.trainings] == [
        f"not run: seed{seed}/record.json is missing" for seed in table_spec["seeds"]
    ]


def test_the_best_row_is_not_one_selected_on_test(table_spec: dict[str, Any]) -> None:
    [best] = view(comparison(table_spec)).best
    assert best.label in ("LAVISH", "no cross-modal attention")
    assert best.rows == "3 of 5"
    assert "significantly better than LAVISH" in best.verdict or best.verdict.startswith("no row is better")


def test_where_lower_is_better_the_lowest_is_best(table_spec: dict[str, Any]) -> None:
    measure = table_spec["measures"]["event_localization"][0]
    measure["higher_is_better"] = False
    [best] = view(comparison(table_spec)).best
    assert best.label == "frozen backbone"
    assert best.verdict.startswith("significantly better than LAVISH")


def test_runs_of_several_tables_are_listed_once(table_spec: dict[str, Any]) -> None:
    costs = {**table_spec, "name": "cost", "title": "Costs", "columns": ["trainable_params"], "figures": {}}
    runs = views([comparison(costs), comparison(table_spec)], "--configfile config/a.yaml")
    assert [run.name for run in runs] == ["absent", "frozen", "full", "no_fusion", "on_test"]
    full = runs[2]
    assert full.used == (("Costs", "LAVISH"), ("Ablation of LAVISH", "LAVISH"))
    assert [training.seed for training in full.trainings] == table_spec["seeds"]
    assert full.repeat.endswith("full/seed2/test/metrics.json --forcerun train --configfile config/a.yaml")
    [only_counted] = [run for run in views([comparison(costs)], "") if run.name == "full"]
    assert only_counted.repeat.endswith("full/cost.json --forcerun cost")


def test_labels_are_no_markup(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec["sections"][0]["rows"][0]["label"] = "<script>alert(1)</script>"
    page.write_site([table_spec], tmp_path)
    assert "<script>alert" not in (tmp_path / "index.html").read_text()


def test_a_damaged_history_is_named(table_spec: dict[str, Any], make_run: Any, draw_scores: Any) -> None:
    run = make_run("full", draw_scores(1.0, 1))
    (run / "seed1/history.csv").write_text("epoch,selection_accuracy\nx,y\n")
    table_spec["sections"][0]["rows"] = [
        {**row, "runs": {"event_localization": {"folder": str(run)}}}
        for row in table_spec["sections"][0]["rows"]
        if row["variant"] == "full"
    ]
    del table_spec["sections"][1]
    table_spec["figures"] = {}
    with pytest.raises(LavishError, match=r"seed1/history.csv: no history of a training"):
        views([comparison(table_spec)], "")


def test_every_column_can_be_shown(table_spec: dict[str, Any]) -> None:
    table_spec["columns"] = [name for name in COLUMNS if name not in ("published", "reliance")]  # a condition is needed
    shown = view(comparison(table_spec))
    assert len(shown.headings) >= len(table_spec["columns"])
