"""`lavish compare`: the verdict of each value of two tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from lavish.cli.main import main
from lavish.errors import LavishError
from lavish.reporting.agreement import compare, report, worst

ROW: dict[str, Any] = {
    "section": "Methods", "variant": "lavish", "label": "LAVISH", "metric": "accuracy",
    "mean": "0.60", "std": "0.01", "low": "0.58", "high": "0.62", "seed0": "0.60",
    "difference": "0.05", "difference_low": "0.01", "difference_high": "0.09", "p": "0.02", "p_holm": "0.04",
    "trainable_params": "100", "step_milliseconds_median": "7.1", "runs": "results/runs/lavish-1/seed0",
}  # fmt: skip
OWN = {"section": "", "variant": "", "label": "Others", "mean": "", "published_value": "81.1"}


def written(path: Path, *rows: dict[str, Any]) -> Path:
    pandas.DataFrame(rows).to_csv(path, index=False)
    return path


def verdicts(tmp_path: Path, **changes: str) -> dict[str, str]:
    first = written(tmp_path / "first.csv", ROW, OWN)
    second = written(tmp_path / "second.csv", ROW | changes, OWN | {"published_value": "81.2"})
    there, back = compare(first, second), compare(second, first)
    assert [cell.verdict for cell in there] == [cell.verdict for cell in back], "the order does not matter"
    return {cell.column: cell.verdict for cell in there}


def test_equal_tables_are_identical_whatever_the_machine_and_the_runs_names(tmp_path: Path) -> None:
    found = verdicts(tmp_path, step_milliseconds_median="9.9", runs="results/runs/lavish-2/seed0")
    assert found == dict.fromkeys(("mean", "difference", "trainable_params"), "identical")


@pytest.mark.parametrize(
    ("changes", "column", "verdict"),
    [
        ({"mean": "0.61", "low": "0.59", "high": "0.63"}, "mean", "within"),
        ({"seed0": "0.61"}, "mean", "within"),
        ({"std": "0.02"}, "mean", "within"),
        ({"mean": "0.63", "low": "0.59", "high": "0.67"}, "mean", "differs"),  # outside the first one's
        ({"mean": "0.61", "low": "0.605", "high": "0.615"}, "mean", "differs"),  # the first one outside this
        ({"low": "", "high": ""}, "mean", "differs"),
        ({"mean": ""}, "mean", "missing"),
        ({"difference": "0.06"}, "difference", "within"),
        ({"p_holm": "0.06"}, "difference", "within"),
        ({"difference": "-0.01", "difference_low": "-0.1", "difference_high": "0.1"}, "difference", "differs"),
        ({"trainable_params": "101"}, "trainable_params", "differs"),
        ({"trainable_params": ""}, "trainable_params", "missing"),
    ],
)
def test_verdicts(changes: dict[str, str], column: str, verdict: str, tmp_path: Path) -> None:
    found = verdicts(tmp_path, **changes)
    assert found.pop(column) == verdict
    assert set(found.values()) == {"identical"}


def test_a_row_of_one_table_is_missing_in_the_other(tmp_path: Path) -> None:
    first, second = (
        written(tmp_path / "first.csv", ROW),
        written(tmp_path / "second.csv", ROW, ROW | {"label": "Other"}),
    )
    [cell] = [cell for cell in compare(first, second) if cell.verdict != "identical"]
    assert (cell.row, cell.verdict) == ("Methods / Other", "missing")


def test_tables_that_two_folders_share_are_compared(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        written(folder / "table_ave.csv", ROW)
    written(folders[0] / "table_avs.csv", ROW)
    assert {cell.table for cell in compare(*folders)} == {"table_ave"}
    (folders[1] / "table_ave.csv").unlink()
    with pytest.raises(LavishError, match=r"have no table_\*\.csv in common"):
        compare(*folders)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file or folder"),
        ("a,b\n1,2\n", "no column 'section': give the CSV file of a table"),
        ("", "no CSV file"),
        ('a,"b\n1,2', "no CSV file"),
    ],
)
def test_what_is_no_table_is_one_message(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LavishError, match=rf"table\.csv: {message}"):
        compare(written(tmp_path / "first.csv", ROW), path)
    with pytest.raises(LavishError, match="give two CSV files or two folders"):
        compare(tmp_path, tmp_path / "first.csv")


def test_the_report_counts_and_lists(tmp_path: Path) -> None:
    first = written(tmp_path / "first.csv", ROW)
    cells = compare(first, written(tmp_path / "second.csv", ROW | {"mean": "0.61", "trainable_params": "101"}))
    text = report(cells)
    assert "| first   | 1           | 1        | 1         | 0         |" in text
    assert "| first   | Methods / LAVISH | mean             | 0.60    | 0.61     | within    |" in text
    assert worst(cells) == "differs"
    assert "Verdict" in text and "Verdict" not in report(compare(first, first))


@pytest.mark.parametrize(
    ("changes", "options", "status"),
    [
        ({}, ["--strict"], 0),
        ({"mean": "0.61"}, [], 0),
        ({"mean": "0.61"}, ["--strict"], 1),
        ({"mean": "0.7"}, [], 1),
        ({"trainable_params": ""}, [], 1),
    ],
)
def test_the_command(changes: dict[str, str], options: list[str], status: int, tmp_path: Path) -> None:
    first, second = written(tmp_path / "first.csv", ROW), written(tmp_path / "second.csv", ROW | changes)
    out = tmp_path / "cells.json"
    assert main(["compare", str(first), str(second), "--json", str(out), *options]) == status
    assert [cell["column"] for cell in json.loads(out.read_text())] == ["mean", "difference", "trainable_params"]
