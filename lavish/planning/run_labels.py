"""The labels of runs: which rows of which tables a run belongs to.

A run's folder is named by its task and a hash, so that renaming a variant or adding a table changes no name. The index
``results/runs/index.csv`` says what the folders hold, for people and for `lavish show`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lavish.errors import LavishError
from lavish.io.atomic import write_text

INDEX = Path("results/runs/index.csv")


@dataclass(frozen=True, order=True)
class RunLabel:
    """A row of a table that a run belongs to."""

    run: str
    """Name of its folder."""
    table: str
    task: str
    """Key of the task in the configuration."""
    variant: str
    label: str


def read_labels(path: Path) -> list[RunLabel]:
    """Return the labels in an index; none if there is no such file.

    Raises:
        LavishError: the file is no index.
    """
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return [RunLabel(**row) for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (csv.Error, TypeError, UnicodeDecodeError):
        raise LavishError(f"{path}: not an index of runs: remove it, and call snakemake to write it anew") from None


def labels_of(run: Path) -> list[RunLabel]:
    """Return the labels of a run by its folder; none if the index beside it does not know it."""
    return [label for label in read_labels(run.absolute().parent / INDEX.name) if label.run == run.absolute().name]


def update_index(path: Path, labels: Collection[RunLabel], tables: Collection[str]) -> None:
    """Write the labels of the current configuration to an index, and keep those of tables that it does not have.

    Only for the process that holds the lock of the workflow.

    Args:
        path: the index; it is not touched if nothing changes.
        labels: all rows of `tables`.
        tables: names of the current configuration's tables, whose former labels are replaced.
    """
    known = read_labels(path)
    wanted = sorted({*labels, *(label for label in known if label.table not in tables)})
    if wanted != known:
        write_text(path, _text(wanted))


def _text(labels: Sequence[RunLabel]) -> str:
    written = io.StringIO()
    writer = csv.DictWriter(written, [field.name for field in fields(RunLabel)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, labels))
    return written.getvalue()
