"""Conditions that tables ask for: reading config/conditions.yaml, and which evaluations a table or figure needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from lavish.config.conditions import Conditions, NamedCondition, Shift
from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError, did_you_mean
from lavish.io.yaml_files import read_yaml
from lavish.planning.tables.rows import Variant
from lavish.planning.tables.schema import ColumnKey, RelianceFigure, TableConfig

CONDITIONS = Path("config/conditions.yaml")


def asked_conditions(table: TableConfig, variants: Mapping[str, Variant], file: Path) -> dict[str, NamedCondition]:
    """Return the conditions of a table's columns and figures by name.

    Raises:
        LavishError: one is not declared, or cannot change the clips of a task.
    """
    asked = [(f"column '{text}'", key.condition, key.task) for text in table.columns if (key := ColumnKey.of(text))]
    asked += [
        (f"figure '{name}'", condition, figure.task)
        for name, figure in table.figures.items()
        if isinstance(figure, RelianceFigure)
        for condition in figure.conditions
    ]
    named = [(where, condition, task or table.task) for where, condition, task in asked if condition is not None]
    declared = read_conditions() if named else {}
    for where, name, task in named:
        if name not in declared:
            raise LavishError(f"{file}: {where}: {CONDITIONS} has no '{name}'{did_you_mean(name, declared)}")
        condition = declared[name].condition
        for config in (variant.configs[task] for variant in variants.values() if task in variant.configs):
            if isinstance(condition, Shift) and condition.segments % config.data.segments == 0:
                raise LavishError(
                    f"{file}: {where}: a shift by {condition.segments} segment(s) does not change clips of task "
                    f"'{task}', which have {config.data.segments}: use another condition"
                )
    return {name: declared[name] for _, name, _ in named}


def read_conditions() -> dict[str, NamedCondition]:
    """Return the declared conditions by name; LavishError for a missing or wrong file."""
    try:
        values = read_yaml(CONDITIONS)
    except FileNotFoundError:
        raise LavishError(f"there is no {CONDITIONS}: it declares the conditions of columns `reliance`") from None
    declared = parse(Conditions, values, str(CONDITIONS)).root
    return {name: NamedCondition.of(name, condition) for name, condition in declared.items()}


def describe_conditions(conditions: Mapping[str, NamedCondition]) -> dict[str, dict[str, Any]]:
    """Return what a table's specification says of its conditions."""
    return {
        name: {
            "title": named.condition.title,
            "stream": named.stream,
            "effect": named.condition.effect,
            "folder": named.folder,
            "definition": named.model_dump(mode="json", exclude={"condition": {"title"}}),
        }
        for name, named in conditions.items()
    }


def describe_streams(config: RunConfig) -> dict[str, Any]:
    """Return what the specification of a run that reads one stream says of it."""
    return {} if len(config.streams_read) == 2 else {"streams": list(config.streams_read)}


def evaluations(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the run and the folder of each evaluation under a condition that a table's specification needs."""
    found: dict[tuple[str, str], None] = {}
    keys = [key for key in map(ColumnKey.of, spec["columns"]) if key.condition is not None]
    for key in keys:
        condition = spec["conditions"][key.condition]
        for row in (row for section in spec["sections"] for row in section["rows"]):
            run = row["runs"].get(key.task or spec["task"])
            if run is not None and condition["stream"] in run.get("streams", [condition["stream"]]):
                found[PurePosixPath(run["folder"]).name, condition["folder"]] = None
    yield from found
