"""What the page shows of a run: its trainings, curves, examples and configuration, and the commands that repeat it."""

from __future__ import annotations

import base64
import csv
import io
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from lavish.config.measures import Measure
from lavish.data.formats.base import NOT_ANNOTATED
from lavish.errors import LavishError
from lavish.reporting.columns import amount, in_unit, measure_words
from lavish.reporting.comparison import Comparison, Result, RunSpec
from lavish.reporting.figures.predicted_masks import examples_file, read_examples
from lavish.reporting.overlays import overlay
from lavish.reporting.records import MissingResult, RunResult, TrainingRecord, read_record, seed_directory

_CLIPS = 4
"""Example clips that are shown, of those that are stored."""
_SIDE = 96
"""Width of an example image, pixels."""


@dataclass(frozen=True)
class Training:
    """A line of a run's trainings; `missing` says what is not there."""

    seed: int
    test: str = ""
    selected: str = ""
    epoch: str = ""
    seconds: str = ""
    device: str = ""
    commit: str = ""
    missing: str = ""


@dataclass(frozen=True)
class Examples:
    """Frames of some test clips with their true masks and those that a run predicts."""

    clips: tuple[str, ...]
    frames: tuple[str, ...]
    truth: tuple[str | None, ...]
    predicted: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """A run of the page.

    `curves` holds, for the script, `learning`: the selection metric by epoch of each seed, and `tuning`: the value of
    each trial and the expected best of the first 1, 2, ... of them. Values are in the unit of `heading`.
    """

    name: str
    task: str
    heading: str
    used: tuple[tuple[str, str], ...]
    trainings: tuple[Training, ...]
    measures: tuple[tuple[str, str], ...]
    curves: dict[str, Any]
    examples: Examples | None
    repeat: str
    train: str
    config: str
    versions: dict[str, str]
    tuned: tuple[tuple[str, str], ...]


def views(comparisons: Iterable[Comparison], invocation: str) -> list[RunView]:
    """Return the runs of all tables, each once, by name.

    Args:
        comparisons: the tables.
        invocation: the options of the Snakemake call that plans these runs, such as `--configfile config/smoke.yaml`.
    """
    found: dict[str, tuple[Comparison, str, Result]] = {}
    used: dict[str, dict[tuple[str, str], None]] = {}
    for comparison in comparisons:
        for row in comparison.rows:
            for task, result in row.results.items():
                if result.spec is None:
                    continue
                name = result.spec.folder.name
                used.setdefault(name, {})[comparison.spec.title, row.spec.label] = None
                # A table of results knows more of a run than a table of costs.
                if name not in found or found[name][2].run is None:
                    found[name] = comparison, task, result
    return [_view(*found[name], tuple(used[name]), invocation) for name in sorted(found)]


def _view(
    comparison: Comparison, task: str, result: Result, used: tuple[tuple[str, str], ...], invocation: str
) -> RunView:
    assert result.spec is not None
    spec, run, seeds = result.spec, result.run, comparison.spec.seeds
    records: dict[int, TrainingRecord | MissingResult] = {}
    if isinstance(run, RunResult):
        records |= zip(run.seeds, run.records, strict=True)
    elif run is not None:  # a seed is missing, others may be there
        records |= {seed: _record(spec.folder, seed) for seed in seeds}
    first = next((one for one in records.values() if isinstance(one, TrainingRecord)), None)
    measure = comparison.measure(task)
    values = first.values if first else {}
    return RunView(
        name=spec.folder.name,
        task=comparison.spec.title_of(task),
        heading=f"{measure_words(measure)}{in_unit(measure)}",
        used=used,
        trainings=tuple(
            _training(seed, found, run, place, measure) for place, (seed, found) in enumerate(records.items())
        ),
        measures=_measures(run),
        curves=_curves(spec, records, result, measure),
        examples=_examples(spec.folder, seeds[0]),
        repeat=_repeat(spec, seeds if run is not None else [], invocation),
        train=shlex.join(["lavish", *map(str, (values.get("machine") or {}).get("argv", [])[1:])]) if first else "",
        config=yaml.safe_dump(values.get("config") or spec.config, sort_keys=False, allow_unicode=True, width=100),
        versions={key: str(value) for key, value in (values.get("versions") or {}).items()},
        tuned=tuple((key, str(value)) for key, value in result.tuning.values.items()) if result.tuning else (),
    )


def _record(folder: Path, seed: int) -> TrainingRecord | MissingResult:
    try:
        return read_record(seed_directory(folder, seed))
    except MissingResult as error:
        return error


def _training(seed: int, found: TrainingRecord | MissingResult, run: object, place: int, measure: Measure) -> Training:
    if isinstance(found, MissingResult):
        return Training(seed, missing=f"not run: {found.short} is missing")
    tested = isinstance(run, RunResult)
    commit = found.values.get("git") or {}
    return Training(
        seed,
        test=amount(float(run.scores[place].mean()), measure) if isinstance(run, RunResult) else "",
        selected=f"{amount(found.best_value, measure)} ({found.selected_on})",
        epoch=f"{found.best_epoch + 1} of {found.epochs}",
        seconds=f"{found.wall_seconds:.0f} s",
        device=found.device,
        commit=str(commit.get("commit") or "")[:10] + (" with changes" if commit.get("dirty") else ""),
        missing="" if tested else "not all seeds are evaluated",
    )


def _measures(run: object) -> tuple[tuple[str, str], ...]:
    """Return the further measures of the test split, means over seeds."""
    if not isinstance(run, RunResult):
        return ()
    known = {name: run.definitions.get(name, Measure(name, unit="")) for name in run.measures}
    return tuple(
        (f"{measure_words(measure)}{in_unit(measure)}", amount(float(np.mean(run.measures[name])), measure))
        for name, measure in known.items()
    )


def _curves(spec: RunSpec, records: dict[int, Any], result: Result, measure: Measure) -> dict[str, Any]:
    learning = [
        {"seed": str(seed), "epoch": epoch, "value": value}
        for seed in records
        for epoch, value in _history(seed_directory(spec.folder, seed) / "history.csv", measure)
    ]
    curves: dict[str, Any] = {"learning": learning, "tuning": []}
    if result.tuning and any(value is not None for value in result.tuning.trials):
        expected = result.tuning.expected_best(measure)
        curves["tuning"] = [
            {"trial": number, "value": _scaled(value, measure), "expected": _scaled(best, measure)}
            for number, (value, best) in enumerate(zip(result.tuning.trials, expected, strict=True), start=1)
        ]
    return curves


def _history(path: Path, measure: Measure) -> list[tuple[int, float | None]]:
    """Return the epochs, counted from 1, and what they were selected by."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        column = next((name for name in rows[0] if name.startswith("selection_")), None) if rows else None
        if column is None:
            return []
        return [(int(row["epoch"]) + 1, _scaled(float(row[column]), measure)) for row in rows]
    except (csv.Error, KeyError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise LavishError(f"{path}: no history of a training ({error}): remove it and train again") from None


def _scaled(value: float | None, measure: Measure) -> float | None:
    # JSON has no NaN.
    return None if value is None or not np.isfinite(value) else float(f"{measure.factor * value:.5g}")


def _examples(folder: Path, seed: int) -> Examples | None:
    path = examples_file(folder, seed)
    if not path.is_file():
        return None
    found = read_examples(path)
    clips = range(min(_CLIPS, len(found.clips)))
    return Examples(
        tuple(found.clips[clip] for clip in clips),
        tuple(_address(found.frames[clip, 0]) for clip in clips),
        tuple(
            None
            if (found.truth[clip, 0] == NOT_ANNOTATED).all()
            else _address(overlay(found.frames[clip, 0], found.truth[clip, 0] == 1))
            for clip in clips
        ),
        tuple(_address(overlay(found.frames[clip, 0], found.predicted[clip, 0] / 255)) for clip in clips),
    )


def _address(pixels: np.ndarray) -> str:
    """Return an image as a data address."""
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    image.save(content, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode()}"


def _repeat(spec: RunSpec, seeds: list[int], invocation: str) -> str:
    """Return the call of Snakemake that makes a run again: its trainings and evaluations, or its costs."""
    folder = spec.folder.as_posix()
    targets = [f"{folder}/seed{seed}/test/metrics.json" for seed in seeds] or [f"{folder}/cost.json"]
    forced = "train" if seeds else "cost"
    return " ".join(
        [
            "snakemake --cores all",
            *map(shlex.quote, targets),
            f"--forcerun {forced}",
            *([invocation] if invocation else []),
        ]
    )
