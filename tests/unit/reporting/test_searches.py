"""What a table says of hyperparameter searches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.errors import LavishError
from lavish.reporting.figures import write_figure
from lavish.reporting.searches import expected_best, read_tuning
from lavish.reporting.tables import write_table

TASK = "event_localization"
RATE = "training.lr_adapter"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_expected_best_of_ranks_has_a_closed_form(count: int) -> None:
    ranks = list(np.random.default_rng(0).permutation(count) + 1.0)
    drawn = range(1, count + 1)
    assert expected_best(ranks, 0.0) == pytest.approx([k * (count + 1) / (k + 1) for k in drawn])
    lowest = expected_best(ranks, 0.0, higher_is_better=False)
    assert lowest == pytest.approx([(count + 1) / (k + 1) for k in drawn])


def test_the_expected_best_is_that_of_draws_without_replacement() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(6)
    drawn = [np.mean([rng.permutation(values)[:k].max() for _ in range(20_000)]) for k in range(1, 7)]
    assert expected_best(list(values), 0.0) == pytest.approx(drawn, abs=0.01)


def test_a_trial_that_diverged_counts_as_the_worst() -> None:
    assert expected_best([0.5, None, 0.7], 0.0) == pytest.approx([0.4, (0.5 + 0.7 + 0.7) / 3, 0.7])


def test_a_damaged_result_of_a_search_is_an_error_and_a_missing_one_is_not(tmp_path: Path) -> None:
    assert read_tuning(tmp_path) is None
    (tmp_path / "tuning.json").write_text('{"values": {}}')
    with pytest.raises(LavishError, match=r"tuning.json: not the result of a search"):
        read_tuning(tmp_path)


@pytest.fixture
def spec(make_run: Any) -> dict[str, Any]:
    scores = np.random.default_rng(2).random((3, 40))
    rows = []
    for name in ("lavish", "lora", "untuned"):
        run = make_run(name, scores)
        config: dict[str, Any] = {"training": {"lr_adapter": 0.008, "epochs": 3}}
        if name != "untuned":
            config |= {"tuning": {"trials": 3}}
            values = {RATE: 0.0123} | ({"adapter.options.alpha": 16.0} if name == "lora" else {})
            trials = [{"value": value, "values": values} for value in (0.5, None, 0.8)]
            result = {"values": values, "trials": trials, "seeds": [1000], "at_edge": {RATE: "highest"}}
            (run / "tuning.json").write_text(json.dumps(result))
            for record in run.glob("seed*/record.json"):
                recorded = {"training": {"lr_adapter": 0.0123, "epochs": 3}}
                record.write_text(
                    json.dumps(json.loads(record.read_text()) | {"recipe_version": 4, "config": recorded})
                )
        settings = {"learning_rate": 0.008, "learning_rate_head": 0.003}
        described = {"folder": str(run), "settings": settings, "config": config if name != "untuned" else {}}
        rows.append({"variant": name, "label": name, "task": TASK, "runs": {TASK: described}})
    return {
        "name": "tuned",
        "title": "Tuned",
        "task": TASK,
        "baseline": "lavish",
        "columns": ["metric", "learning_rate", "tuning", "validation"],
        "seeds": [0, 1, 2],
        "sections": [{"title": "Rows", "rows": rows}],
        "figures": {"trials": {"kind": "expected_best", "title": "Trials", "section": "Rows"}},
    }


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavish.reporting.origins.RECIPE_VERSION", 4)


def test_a_table_prints_trials_what_was_chosen_and_where_an_edge_was_reached(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    write_table(spec, tmp_path / "table")
    text = (tmp_path / "table.md").read_text()
    lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in text.splitlines()
             if line.startswith(("| l", "| untuned"))}  # fmt: skip
    assert lines["lora"][4:7] == ["0.0123", "3 (1 diverged)", "lr_adapter 0.0123 △; alpha 16.0"]
    assert lines["untuned"][4:7] == ["0.008", "–", "–"]
    assert re.search(r"3 trials .* with seed 1000, not reported", text)
    scores = np.random.default_rng(2).random((3, 40))
    assert lines["lora"][7:9] == ["80.0", f"+{100 * (0.8 - scores.mean()):.1f}"]
    [header, line, *_] = (tmp_path / "table.csv").read_text().splitlines()
    fields = dict(zip(header.split(","), line.split(","), strict=False))
    assert fields["chosen"] == "training.lr_adapter=0.0123"
    assert fields["at_edge"] == "training.lr_adapter=highest"


def test_a_record_with_other_values_than_the_chosen_ones_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(spec["sections"][0]["rows"][0]["runs"][TASK]["folder"])
    record = folder / "seed1/record.json"
    values = json.loads(record.read_text())
    values["config"]["training"]["lr_adapter"] = 0.008
    record.write_text(json.dumps(values))
    with pytest.raises(LavishError, match=r"'config.training.lr_adapter' is 0.008, but the table's is 0.0123"):
        write_table(spec, tmp_path / "table")


def test_the_figure_of_trials_is_drawn_of_tuned_rows_only(spec: dict[str, Any], tmp_path: Path) -> None:
    write_figure(spec, "trials", tmp_path / "trials.svg")
    write_figure(spec, "trials", tmp_path / "again.svg")
    assert (tmp_path / "trials.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    for row in spec["sections"][0]["rows"]:
        row["runs"][TASK]["config"] = {}
    with pytest.raises(LavishError, match=r"no row has a result: lavish \(not tuned\)"):
        write_figure(spec, "trials", tmp_path / "none.svg")
