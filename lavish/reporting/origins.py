"""Where the results of a table come from: records that contradict the table, and environments that differ by row.

A run's folder is named by everything its numbers depend on, so a record that says something else was copied, edited or
written by other code, and is refused. Versions, machines and uncommitted changes may differ; a note says where.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lavish.errors import LavishError
from lavish.provenance import RECIPE_VERSION
from lavish.reporting.records import TrainingRecord

_REMEDY = "the folder holds another run's results: remove it, and run again"


def check_record(record: TrainingRecord, folder: Path, planned: Mapping[str, Any]) -> None:
    """Raise an error if a record contradicts what its run is planned to be.

    Args:
        record: of one training.
        folder: of this training, for messages.
        planned: the run's resolved configuration without places; empty for results that no workflow planned.

    Raises:
        LavishError: naming the file and the key.
    """
    if not planned:
        return
    where = f"{folder / 'record.json'}: key"
    found = record.values.get("recipe_version")
    if found != RECIPE_VERSION:
        raise LavishError(f"{where} 'recipe_version' is {found}, but the table needs {RECIPE_VERSION}: {_REMEDY}")
    for key, wanted, recorded in _contradictions(planned, record.values.get("config") or {}):
        raise LavishError(f"{where} 'config.{key}' is {recorded!r}, but the table's is {wanted!r}: {_REMEDY}")
    allowed = planned["training"]["epochs"]
    if not 0 <= record.best_epoch < record.epochs <= allowed:
        raise LavishError(
            f"{where} 'epochs' is {record.epochs} with the best epoch {record.best_epoch}, but the run has at most "
            f"{allowed}: {_REMEDY}"
        )


def _contradictions(
    planned: Mapping[str, Any], recorded: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield keys with other values. One that either lacks is a key that the configuration has got or lost since."""
    for key in planned.keys() & recorded.keys():
        one, other = planned[key], recorded[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _contradictions(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}", one, other


def differences(rows: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Return notes on what the rows of a table were made with, where they differ.

    Args:
        rows: the label of each row, and the origins of its trainings and evaluations as their records state them.
    """
    made: dict[str, dict[str, Counter[str]]] = {}
    for label, origins in rows:
        for origin in origins:
            for fact, value in _facts(origin):
                made.setdefault(fact, {}).setdefault(value, Counter())[label] += 1
    notes = []
    for fact, values in made.items():
        if len(values) > 1:
            most = max(values, key=lambda value: (values[value].total(), value))
            others = (f"{value} in {_listed(values[value])}" for value in sorted(values.keys() - {most}))
            notes.append(f"{fact} {most}, but {'; '.join(others)}")
    text = [f"Not all rows were made alike, which may change numbers: {'. '.join(notes)}."] if notes else []
    dirty = [label for label, origins in rows if any((origin.get("git") or {}).get("dirty") for origin in origins)]
    if dirty:
        text.append(f"Made with uncommitted changes of the code: {_listed(dirty)}.")
    return text


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(f"'{label}'" for label in dict.fromkeys(labels))


def _facts(origin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, version in (origin.get("versions") or {}).items():
        yield name, str(version)
    if "device" in origin:
        yield "device", str(origin["device"])
    machine = origin.get("machine") or {}
    if machine.get("processor"):
        yield "processor", str(machine["processor"])
    dispatch = machine.get("cpu_dispatch") or {}
    if dispatch.get("torch"):
        limit = dispatch.get("ONEDNN_MAX_CPU_ISA")
        yield "CPU kernels", f"{dispatch['torch']}{f' (limited to {limit})' if limit else ''}"
