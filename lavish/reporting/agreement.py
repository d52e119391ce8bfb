"""`lavish compare`: whether two results, as tables in CSV files, say the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas
import tabulate

from lavish.errors import LavishError

Verdict = Literal["identical", "within", "differs", "missing"]
MEANINGS: dict[Verdict, str] = {
    "identical": "equal to the last digit",
    "within": "each value lies in the other's 95 % interval",
    "differs": "a value lies outside the other's interval, or has none",
    "missing": "in one of the two only",
}
_ROW = ["section", "variant", "label"]
_EXACT = ("_params", "_macs", "learning_rate", "_size")


@dataclass(frozen=True)
class Cell:
    """A value of two tables."""

    table: str
    row: str
    column: str
    first: str
    second: str
    verdict: Verdict


def compare(first: Path, second: Path) -> list[Cell]:
    """Compare two CSV files of tables, or all tables of two folders.

    Times and memory are those of machines, and are left out; so are names of runs and published numbers.

    Raises:
        LavishError: a file is missing or no table, or two folders have no table in common.
    """
    if absent := [path for path in (first, second) if not path.exists()]:
        raise LavishError(f"{absent[0]}: no such file or folder: give two CSV files or two folders with table_*.csv")
    if first.is_dir() != second.is_dir():
        raise LavishError(f"{first} and {second}: give two CSV files or two folders with table_*.csv")
    if not first.is_dir():
        return list(_cells(first.stem, _read(first), _read(second)))
    names = sorted(
        {path.name for path in first.glob("table_*.csv")} & {path.name for path in second.glob("table_*.csv")}
    )
    if not names:
        raise LavishError(f"{first} and {second} have no table_*.csv in common: give the folders of two results")
    return [cell for name in names for cell in _cells(Path(name).stem, _read(first / name), _read(second / name))]


def report(cells: list[Cell]) -> str:
    """Return Markdown: how many cells of each table agree, and those that are not identical."""
    counted = [
        {"Table": name}
        | {verdict: sum(cell.verdict == verdict for cell in cells if cell.table == name) for verdict in MEANINGS}
        for name in dict.fromkeys(cell.table for cell in cells)
    ]
    parts = [_markdown(counted), "\n".join(f"- {verdict}: {meaning}" for verdict, meaning in MEANINGS.items())]
    if odd := [asdict(cell) for cell in cells if cell.verdict != "identical"]:
        parts.append(_markdown([{key.capitalize(): value for key, value in cell.items()} for cell in odd]))
    return "\n\n".join(parts)


def worst(cells: list[Cell]) -> Verdict:
    """Return the verdict of the cell that agrees least."""
    order = list(MEANINGS)
    return max((cell.verdict for cell in cells), key=order.index, default="identical")


def _markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    return tabulate.tabulate(lines, headers="keys", tablefmt="pipe", disable_numparse=True)


def _read(path: Path) -> pandas.DataFrame:
    try:
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, UnicodeError) as error:
        raise LavishError(f"{path}: no CSV file ({error})") from None
    if absent := [name for name in _ROW if name not in table]:
        raise LavishError(f"{path}: no column '{absent[0]}': give the CSV file of a table of this project")
    return table


def _cells(name: str, first: pandas.DataFrame, second: pandas.DataFrame) -> Iterator[Cell]:
    rows, others = _rows(first), _rows(second)
    columns = list(dict.fromkeys((*first.columns, *second.columns)))
    for key in dict.fromkeys((*rows, *others)):
        row, other = rows.get(key), others.get(key)
        if row is None or other is None:
            yield Cell(name, key, "", "" if row is None else "there", "" if other is None else "there", "missing")
            continue
        for column in columns:
            parts = _parts(column, columns)
            if parts and (row.get(column) or other.get(column)):
                yield Cell(name, key, column, row.get(column, ""), other.get(column, ""), _verdict(parts, row, other))


def _rows(table: pandas.DataFrame) -> dict[str, dict[str, str]]:
    """Return the rows by section and label; published ones have no values of ours."""
    rows: list[dict[str, str]] = table.to_dict("records")  # type: ignore[assignment]
    return {" / ".join(filter(None, (row["section"], row["label"]))): row for row in rows if row["variant"]}


def _parts(column: str, columns: list[str]) -> list[str]:
    """Return a column of values with those that belong to it, the limits of its interval first; or nothing."""
    if column.endswith(_EXACT):
        return [column]
    if column == "mean" or column.endswith("_mean"):
        stem = column.removesuffix("mean")
        seeds = [one for one in columns if one.startswith(f"{stem}seed") and one.removeprefix(f"{stem}seed").isdigit()]
        return [f"{stem}low", f"{stem}high", column, f"{stem}std", *seeds]
    if column == "difference" or column.endswith("_difference"):
        stem = column.removesuffix("difference")
        wider = [f"{column}_simultaneous_low", f"{column}_simultaneous_high"]
        return [f"{column}_low", f"{column}_high", column, *wider, f"{stem}p", f"{stem}p_holm"]
    return []


def _verdict(parts: list[str], row: Mapping[str, str], other: Mapping[str, str]) -> Verdict:
    if all(row.get(part, "") == other.get(part, "") for part in parts):
        return "identical"
    if len(parts) == 1:
        return "differs" if row.get(parts[0]) and other.get(parts[0]) else "missing"
    low, high, value = parts[:3]
    if not (row.get(value) and other.get(value)):
        return "missing"
    inside = _number(row, low) <= _number(other, value) <= _number(row, high)
    return "within" if inside and _number(other, low) <= _number(row, value) <= _number(other, high) else "differs"


def _number(row: Mapping[str, str], column: str) -> float:
    """Return a value, NaN if it has none: nothing lies in such an interval."""
    return float(row.get(column) or math.nan)
