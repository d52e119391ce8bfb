"""Reads the results of a run: record.json, metrics.json, predictions.parquet and cost.json.

A missing file raises :class:`MissingResult`, which tables print in a cell. An invalid file raises
:class:`lavish.errors.LavishError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lavish.config.measures import Measure
from lavish.errors import LavishError

# metrics.json may hold a metric computed in single precision; the mean of the scores is computed in double.
_TOLERANCE = 1e-5


class MissingResult(LavishError):
    """A result that has not been computed; `short` names it in a table's cell."""

    def __init__(self, path: Path, short: str) -> None:
        super().__init__(f"{path} is missing: run the job that writes it")
        self.short = short


@dataclass(frozen=True)
class TrainingRecord:
    """The part of record.json that is compared and printed; `values` is the whole file."""

    seed: int
    metric: str
    selected_on: str
    best_epoch: int
    best_value: float
    epochs: int
    wall_seconds: float
    step_seconds_median: float
    peak_memory_bytes: int | None
    device: str
    values: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class EvaluationRecord:
    """One trained model on one split.

    `value` is the mean of `scores` (float64, one per unit); `clips` names the clip of each unit. `measures` are the
    further numbers of metrics.json; those that are means over units have an entry in `columns` (float64, one per unit,
    NaN if a unit does not count). `definitions` says what the metric and each measure are.
    """

    metric: str
    value: float
    measures: dict[str, float]
    clips: tuple[str, ...]
    scores: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    definitions: dict[str, Measure] = field(repr=False, default_factory=dict)
    origin: dict[str, Any] = field(repr=False, default_factory=dict)
    """What it was made with and from."""


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds counted once per clip at batch 1; `others` are further numbers of cost.json."""

    trainable_params: int
    total_params: int
    adapter_params: int
    adapter_macs: int
    total_macs: int
    others: dict[str, int]


@dataclass(frozen=True)
class RunResult:
    """All seeds of a run, evaluated on the same units: `scores` is (seeds, units), its columns are `clips`.

    `measures` has the further numbers of each evaluation, one per seed; `columns` those that are means over
    units, (seeds, units), NaN if a unit does not count.
    """

    directory: Path
    seeds: tuple[int, ...]
    metric: str
    clips: tuple[str, ...]
    scores: NDArray[np.float64]
    records: tuple[TrainingRecord, ...]
    measures: dict[str, tuple[float, ...]]
    columns: dict[str, NDArray[np.float64]]
    definitions: dict[str, Measure] = field(repr=False, default_factory=dict)
    origins: tuple[dict[str, Any], ...] = field(repr=False, default=())
    """What the trainings and evaluations were made with."""


def seed_directory(run: Path, seed: int) -> Path:
    """Return the folder of one training of a run."""
    return run / f"seed{seed}"


def seed_directories(run: Path) -> dict[int, Path]:
    """Return the folders of a run's trainings by their seeds, in ascending order."""
    found = {path.name.removeprefix("seed"): path for path in run.glob("seed*")}
    return {int(seed): found[seed] for seed in sorted(filter(str.isdigit, found), key=int)}


def read_record(directory: Path) -> TrainingRecord:
    """Read record.json of one training (`.../seed<k>`)."""
    path = directory / "record.json"
    values = _read_json(path, f"{directory.name}/record.json")
    return TrainingRecord(
        seed=_get(values, "seed", int, path),
        metric=_get(values, "metric", str, path),
        selected_on=_get(values, "selected_on", str, path),
        best_epoch=_get(values, "best_epoch", int, path),
        best_value=_get(values, "best_value", float, path),
        epochs=_get(values, "epochs", int, path),
        wall_seconds=_get(values, "wall_seconds", float, path),
        step_seconds_median=_get(values, "step_seconds_median", float, path),
        peak_memory_bytes=None
        if values.get("peak_memory_bytes") is None
        else _get(values, "peak_memory_bytes", int, path),
        device=_get(values, "device", str, path),
        values=values,
    )


def read_evaluation(directory: Path, split: str = "test") -> EvaluationRecord:
    """Read metrics.json and predictions.parquet of one training (`.../seed<k>`) on a split."""
    path = directory / split / "metrics.json"
    values = _read_json(path, f"{directory.name}/{split}/metrics.json")
    metric = _get(values, "metric", str, path)
    value = _get(values, "value", float, path)
    given = _get(values, "measures", dict, path) if "measures" in values else {}
    measures = {name: _get(given, name, float, path) for name in given}
    predictions = directory / split / "predictions.parquet"
    clips, scores, columns = _read_predictions(
        predictions, f"{directory.name}/{split}/predictions.parquet", tuple(measures)
    )
    _check_mean(path, "value", value, scores, predictions)
    for name, column in columns.items():
        _check_mean(path, f"measures.{name}", measures[name], column, predictions)
    origin = _get(values, "origin", dict, path) if "origin" in values else {}
    definitions = _definitions(_get(values, "definitions", dict, path), path) if "definitions" in values else {}
    return EvaluationRecord(metric, value, measures, clips, scores, columns, definitions, origin)


def _definitions(values: dict[str, Any], path: Path) -> dict[str, Measure]:
    try:
        return {name: Measure(**one | {"limits": tuple(one["limits"])}) for name, one in values.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LavishError(f"{path}: key 'definitions': {error}: evaluate again") from None


def _check_mean(path: Path, key: str, value: float, scores: NDArray[np.float64], predictions: Path) -> None:
    counted = scores[~np.isnan(scores)]
    mean = float(counted.mean()) if len(counted) else math.nan
    if not abs(mean - value) <= _TOLERANCE:
        raise LavishError(
            f"{path}: key '{key}' is {value}, but the scores of {predictions.name} beside it have the mean {mean:.6f}: "
            "the two come from different evaluations, evaluate again"
        )


def read_cost(run: Path) -> Cost:
    """Read cost.json of a run."""
    path = run / "cost.json"
    values = _read_json(path, "cost.json")
    known = ("trainable_params", "total_params", "adapter_params", "adapter_macs", "total_macs")
    counts = {key: _get(values, key, int, path) for key in known}
    others = {key: value for key, value in values.items() if key not in known and type(value) is int}
    return Cost(**counts, others=others)


def read_run(run: Path, seeds: Sequence[int], split: str = "test") -> RunResult:
    """Read all `seeds` of a run on a split, with the units of every seed in the order of the first.

    Raises MissingResult if a seed has not been trained or evaluated, and LavishError if the seeds differ in metric,
    selection or units.
    """
    directories = [seed_directory(run, seed) for seed in seeds]
    records = [read_record(directory) for directory in directories]
    evaluations = [read_evaluation(directory, split) for directory in directories]
    first = evaluations[0]
    lines: list[NDArray[np.float64]] = []
    # A measure without any counted unit is not in the file; if one seed lacks it, there is no mean over seeds.
    measures = [name for name in first.measures if all(name in one.measures for one in evaluations)]
    columns: dict[str, list[NDArray[np.float64]]] = {
        name: [] for name in measures if all(name in one.columns for one in evaluations)
    }
    for seed, directory, record, evaluation in zip(seeds, directories, records, evaluations, strict=True):
        if record.seed != seed:
            raise LavishError(f"{directory / 'record.json'}: key 'seed' is {record.seed}: the folder holds another run")
        for key, value, expected in (
            ("metric", evaluation.metric, first.metric),
            ("selected_on", record.selected_on, records[0].selected_on),
        ):
            if value != expected:
                raise LavishError(
                    f"{directory}: key '{key}' is {value!r}, but {expected!r} in {directories[0].name}: "
                    "the seeds of a run must agree, remove and rerun the wrong one"
                )
        for what, of in (
            ("the checkpoint", lambda values: values.get("checkpoint")),
            ("the frozen weights", lambda values: (values.get("weights") or {}).get("sha256")),
        ):
            try:
                trained, evaluated = of(record.values), of(evaluation.origin)
            except AttributeError:
                raise LavishError(f"{directory}: key 'weights' holds no checksum: evaluate or train again") from None
            if None not in (trained, evaluated) and trained != evaluated:
                raise LavishError(
                    f"{directory / split / 'metrics.json'}: of {what} with sha256 {evaluated}, but record.json is of "
                    f"{trained}: evaluate again, or train again if the weights were replaced"
                )
        order = unit_order(first.clips, evaluation.clips)
        if order is None:
            raise LavishError(
                f"{directory / split / 'predictions.parquet'}: other clips than in {directories[0].name}: "
                "the seeds of a run must be evaluated on the same data, evaluate again"
            )
        lines.append(evaluation.scores[order])
        for name, column in columns.items():
            column.append(evaluation.columns[name][order])
    return RunResult(
        run,
        tuple(seeds),
        first.metric,
        first.clips,
        np.stack(lines),
        tuple(records),
        measures={name: tuple(one.measures[name] for one in evaluations) for name in measures},
        columns={name: np.stack(column) for name, column in columns.items()},
        definitions=first.definitions,
        origins=(*(record.values for record in records), *(evaluation.origin for evaluation in evaluations)),
    )


def unit_order(wanted: Sequence[str], given: Sequence[str]) -> NDArray[np.intp] | None:
    """Return the indices that bring the units `given` into the order `wanted`; None if they are not the same units.

    Several units may share a clip, as questions do. They are identified by their order, which then must be the same.
    """
    if tuple(wanted) == tuple(given):
        return np.arange(len(given))
    place = {clip: index for index, clip in enumerate(given)}
    if len(place) != len(given) or len(given) != len(wanted) or set(place) != set(wanted):
        return None
    return np.array([place[clip] for clip in wanted], dtype=np.intp)


def _read_predictions(
    path: Path, short: str, measures: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return clips, scores, and the `measures` that are columns."""
    if not path.is_file():
        raise MissingResult(path, short)
    try:
        present = [name for name in measures if name in pq.read_schema(path).names]
        table = pq.read_table(path, columns=["clip", "score", *present])
        clips = table.column("clip").cast(pa.string()).to_pylist()
        numbers = {name: table.column(name).cast(pa.float64()).to_numpy() for name in ("score", *present)}
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise LavishError(f"{path}: no table with the columns 'clip' and 'score' ({error}): evaluate again") from None
    scores = numbers.pop("score")
    if len(scores) < 2:
        raise LavishError(f"{path}: {len(scores)} rows, but statistics need at least two: use a larger split")
    if None in clips or not np.isfinite(scores).all():
        raise LavishError(f"{path}: column 'clip' or 'score' has empty or non-finite entries: evaluate again")
    return tuple(clips), scores, numbers


def _read_json(path: Path, short: str) -> dict[str, Any]:
    if not path.is_file():
        raise MissingResult(path, short)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LavishError(f"{path}: not readable as JSON ({error}): remove it and run its job again") from None
    if not isinstance(values, dict):
        raise LavishError(f"{path}: not a JSON object: remove it and run its job again")
    return values


def _get(values: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    """Return ``values[key]`` as a `kind`; integers are accepted as float, booleans are not numbers."""
    if key not in values:
        raise LavishError(f"{path}: key '{key}' is missing: remove the file and run its job again")
    value = values[key]
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise LavishError(f"{path}: key '{key}' is {value!r}, not of type {kind.__name__}: run its job again")
    return value
