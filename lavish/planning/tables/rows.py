"""Resolves and validates the rows of a table, so that no mistake is found only after the trainings."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lavish.config.merging import merge
from lavish.config.options import budget_option, defines
from lavish.config.schema import RunConfig, WorkflowConfig
from lavish.config.validation import parse
from lavish.errors import LavishError, did_you_mean
from lavish.planning.tables.schema import (
    BreakdownFigure,
    ColumnKey,
    PredictedMasksFigure,
    RelianceFigure,
    TableConfig,
    drawn_sections,
)


@dataclass(frozen=True)
class Variant:
    """A resolved row that defines a variant: its configuration for each of its tasks."""

    label: str
    task: str
    """The task of columns without a task."""
    configs: dict[str, RunConfig]
    matches: str | None = None
    """The variant whose trainable parameters its size is matched to; the size is not in `configs` yet."""


def resolve_rows(table: TableConfig, file: Path, config: WorkflowConfig) -> dict[str, Variant]:
    """Return all variants of a table by name."""
    variants: dict[str, Variant] = {}
    for row in table.rows:
        where = f"{file}: row '{row.variant}'"
        if row.set is None:
            if row.variant not in variants:
                raise LavishError(
                    f"{where}: refers to a variant that no row above defines{did_you_mean(row.variant, variants)}; "
                    "define it with `set` (`set: {}` for the defaults themselves)"
                )
            continue
        if row.variant in variants:
            raise LavishError(f"{where}: defined twice; a row without `set` refers to the one above")
        for task in row.tasks or ():
            if task not in table.tasks:
                raise LavishError(f"{where}: no column is of task '{task}'{did_you_mean(task, table.tasks)}")
        for task in row.set_by_task:
            if task not in config.tasks:
                raise LavishError(
                    f"{where}: key 'set_by_task': unknown task '{task}'{did_you_mean(task, config.tasks)}"
                )
        chosen = table.tasks if config.all_tasks or not row.tasks else row.tasks
        tasks = [row.task] if row.task else [task for task in table.tasks if task in chosen]
        variants[row.variant] = Variant(
            row.label or row.variant,
            row.task or table.task,
            {
                task: parse(
                    RunConfig,
                    functools.reduce(
                        merge, [config.defaults, config.tasks[task].changes, row.set, row.set_by_task.get(task, {})]
                    ),
                    where if len(table.tasks) == 1 else f"{where}, task '{task}'",
                ).resolved()
                for task in tasks
            },
            row.match_parameters_of,
        )
    _check_matches(table, variants, file)
    own = [(f"section '{section.title}': ", section.baseline) for section in table.sections if section.baseline]
    for where, baseline in [("", table.baseline), *own]:
        if baseline not in variants:
            hint = did_you_mean(baseline, variants)
            raise LavishError(f"{file}: {where}key 'baseline': no row defines '{baseline}'{hint}")
        absent = [task for task in table.tasks if task not in variants[baseline].configs]
        if absent:
            raise LavishError(f"{file}: {where}key 'baseline': row '{baseline}' is not run on task '{absent[0]}'")
    return variants


def _check_matches(table: TableConfig, variants: Mapping[str, Variant], file: Path) -> None:
    """Raise an error for a row whose size cannot be matched to another's trainable parameters."""
    for row in table.rows:
        if row.set is None or row.match_parameters_of is None:
            continue
        where = f"{file}: row '{row.variant}': key 'match_parameters_of'"
        if row.match_parameters_of not in variants:
            hint = did_you_mean(row.match_parameters_of, variants)
            raise LavishError(f"{where}: no row defines the variant '{row.match_parameters_of}'{hint}")
        target = variants[row.match_parameters_of]
        if target.matches is not None:
            raise LavishError(
                f"{where}: '{row.match_parameters_of}' is matched itself: name the variant it is matched to"
            )
        for task, config in variants[row.variant].configs.items():
            if task not in target.configs:
                raise LavishError(f"{where}: '{row.match_parameters_of}' is not run on task '{task}'")
            option = budget_option(config.adapter.method)
            if option is None:
                raise LavishError(
                    f"{where}: method '{config.adapter.method}' has no size: remove the key, or choose a "
                    "method whose class has a `budget_option` (see `lavish methods`)"
                )
            for changes in (row.set, row.set_by_task.get(task, {})):
                if option in changes.get("adapter", {}).get("options", {}):
                    raise LavishError(f"{where}: option '{option}' is searched for: remove it from the row")


def check_measures(table: TableConfig, measures: Mapping[str, Collection[str]], file: Path) -> None:
    """Raise an error for a measure that a task does not have."""
    asked = [(f"column '{column}'", key.task, key.measure) for column in table.columns if (key := ColumnKey.of(column))]
    asked += [
        (f"figure '{name}'", figure.task, measure)
        for name, figure in table.figures.items()
        if isinstance(figure, BreakdownFigure | RelianceFigure)
        for measure in (figure.measures if isinstance(figure, BreakdownFigure) else [figure.measure])
        if measure != "metric"
    ]
    for where, task, measure in asked:
        known = measures[task or table.task]
        if measure is not None and measure not in known:
            raise LavishError(
                f"{file}: {where}: task '{task or table.task}' has no measure '{measure}'{did_you_mean(measure, known)}"
            )


def check_figures(table: TableConfig, variants: Mapping[str, Variant], file: Path) -> None:
    """Raise an error for a figure that cannot be drawn."""
    sections = {section.title: section for section in table.sections}
    for figure, options in table.figures.items():
        for title in drawn_sections(options):
            if title not in sections:
                hint = did_you_mean(title, sections)
                raise LavishError(f"{file}: figure '{figure}': unknown section '{title}'{hint}")
        if options.task is not None and options.task not in table.tasks:
            hint = did_you_mean(options.task, table.tasks)
            raise LavishError(f"{file}: figure '{figure}': no column is of task '{options.task}'{hint}")
        drawn = {
            row.variant: config
            for title in drawn_sections(options)
            for row in sections[title].rows
            if (config := variants[row.variant].configs.get(options.task or table.task)) is not None
        }
        if not drawn:
            raise LavishError(
                f"{file}: figure '{figure}': no row of section '{drawn_sections(options)[0]}' is run on task "
                f"'{options.task or table.task}'"
            )
        if isinstance(options, PredictedMasksFigure):
            _check_predicted_masks(options, drawn, f"{file}: figure '{figure}'")


def _check_predicted_masks(options: PredictedMasksFigure, drawn: Mapping[str, RunConfig], where: str) -> None:
    """Raise an error for a figure of masks that a task does not predict, or of a segment that clips do not have."""
    for variant, config in drawn.items():
        if not defines("tasks", config.task.name, "predicted_masks"):
            raise LavishError(
                f"{where}: row '{variant}': task '{config.task.name}' predicts no masks: choose another kind of figure "
                "or another task"
            )
        if options.segment >= config.data.segments:
            raise LavishError(
                f"{where}: segment {options.segment} is counted from 0, but clips of row '{variant}' have "
                f"data.segments: {config.data.segments}"
            )
