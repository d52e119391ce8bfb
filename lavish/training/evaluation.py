"""Evaluation of a trained model on a split: the metric, and the score of every unit for the statistics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavish.config.measures import Measure
from lavish.data.store.batches import Batch, SplitReader
from lavish.io.atomic import replacing, write_json
from lavish.training.capture import Function, captured
from lavish.training.device import autocast

if TYPE_CHECKING:
    import pyarrow

    from lavish.config.schema import TrainingConfig
    from lavish.learner.model import AudioVisualModel


@dataclass(frozen=True)
class Evaluation:
    """The metric on a split, and the scores of its units in the order of the store."""

    metric: Measure
    value: float
    clips: list[str]
    """Name of each unit's clip."""
    columns: dict[str, np.ndarray]
    """`score` and the task's own columns, one entry per unit."""
    measures: dict[str, float]
    """The task's further measures of the split; NaN if no unit counts."""
    definitions: tuple[Measure, ...]
    """Of the metric and the measures."""


def forward_pass(model: AudioVisualModel, device: torch.device, options: TrainingConfig) -> Function:
    """Return the forward pass of one batch, which a GPU captures."""

    def forward(batches: list[Batch]) -> Any:
        with autocast(device, options.precision):
            return model(batches[0])

    return captured(forward, device, options)


def evaluate(
    model: AudioVisualModel,
    forward: Function,
    reader: SplitReader,
    batch_size: int,
    device: torch.device,
    *,
    calibrate: bool = False,
) -> Evaluation:
    """Evaluate `model` on every unit of `reader`, in batches of `batch_size` clips; each clip is encoded once.

    `forward` is its :func:`forward_pass`.

    With `calibrate` the task then sets its thresholds on this split and stores them with its weights. Only for the
    selection split.
    """
    model.eval()
    groups = reader.by_clip(batch_size)
    parts: list[dict[str, np.ndarray]] = []
    with torch.inference_mode():
        for batch in reader.batches(groups, device):
            parts.append(model.task.score(forward([batch]), batch.targets))
    in_order = np.argsort(np.concatenate(groups))
    columns = {name: np.concatenate([part[name] for part in parts])[in_order] for name in parts[0]}
    if calibrate:
        model.task.calibrate(columns)
    store = reader.store
    return Evaluation(
        model.task.metric,
        float(columns["score"].mean()),
        [store.clips[clip] for clip in store.units],
        columns,
        model.task.summarise(columns),
        (model.task.metric, *model.task.measures),
    )


def write_evaluation(result: Evaluation, out: Path, origin: dict[str, Any]) -> None:
    """Write ``predictions.parquet`` (one row per unit) and ``metrics.json`` to the folder `out`.

    `origin` describes the inputs, the code and the machine; it is stored under that key of metrics.json.
    """
    import pyarrow
    import pyarrow.parquet

    kept = {name: values for name, values in result.columns.items() if not name.startswith("_")}
    columns = {name: _arrow(values) for name, values in {"clip": np.array(result.clips), **kept}.items()}
    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    with replacing(out / "predictions.parquet") as temporary:
        pyarrow.parquet.write_table(table, temporary)
    metrics = {
        "metric": result.metric.name,
        "value": result.value,
        "units": len(result.clips),
        # JSON has no NaN: a measure without any counted unit is omitted.
        "measures": {name: value for name, value in result.measures.items() if not np.isnan(value)},
        "definitions": {one.name: asdict(one) for one in result.definitions},
        "origin": origin,
    }
    write_json(out / "metrics.json", metrics)


def _arrow(values: np.ndarray) -> pyarrow.Array:
    """Return a column of numbers, strings or, for two axes, lists of numbers.

    Built from the array's memory: Arrow's own conversion imports pandas, which takes longer than the rest of writing.
    """
    import pyarrow

    if values.ndim == 2:
        return pyarrow.FixedSizeListArray.from_arrays(_arrow(values.reshape(-1)), values.shape[1])
    if values.dtype == bool:
        values = values.astype(np.int8)  # Arrow packs truth values into bits
    if values.dtype.kind != "U":
        memory = pyarrow.py_buffer(np.ascontiguousarray(values))
        return pyarrow.Array.from_buffers(pyarrow.from_numpy_dtype(values.dtype), len(values), [None, memory])
    texts = [text.encode() for text in values.tolist()]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
    return pyarrow.StringArray.from_buffers(len(texts), pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(texts)))
