"""Evaluating a trained model on a split: the metric, and every unit's score for the statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavish.data.store.batches import SplitReader
from lavish.training.device import autocast

if TYPE_CHECKING:
    import pyarrow

    from lavish.learner.model import AudioVisualModel


@dataclass(frozen=True)
class Evaluation:
    """The metric on a split and the units it is the mean of, in the order of the store."""

    metric: str
    value: float
    clips: list[str]
    """Name of each unit's clip."""
    columns: dict[str, np.ndarray]
    """`score` and the task's own columns, one entry per unit."""
    measures: dict[str, float]
    """The task's further numbers of the split; NaN where nothing counts."""


def evaluate(
    model: AudioVisualModel,
    reader: SplitReader,
    batch_size: int,
    device: torch.device,
    precision: str,
    *,
    calibrate: bool = False,
) -> Evaluation:
    """Evaluate `model` on every unit of `reader`, `batch_size` clips at a time, each encoded once.

    With `calibrate` the task then chooses on this split what is to be chosen on one (thresholds), and keeps it with
    its weights: for the split that selection is made on, never for another.
    """
    model.eval()
    groups = reader.by_clip(batch_size)
    parts: list[dict[str, np.ndarray]] = []
    with torch.inference_mode():
        for batch in reader.batches(groups, device):
            with autocast(device, precision):
                output = model(batch)
            parts.append(model.task.score(output, batch.targets))
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
    )


def write_evaluation(result: Evaluation, out: Path, origin: dict[str, Any]) -> None:
    """Write ``predictions.parquet`` (one row per unit) and ``metrics.json`` to the folder `out`.

    `origin` says what the evaluation was made from and with; it becomes the key of that name of metrics.json.
    """
    import pyarrow
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    kept = {name: values for name, values in result.columns.items() if not name.startswith("_")}
    columns = {name: _arrow(values) for name, values in {"clip": np.array(result.clips), **kept}.items()}
    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    pyarrow.parquet.write_table(table, out / "predictions.parquet")
    metrics = {
        "metric": result.metric,
        "value": result.value,
        "units": len(result.clips),
        # JSON has no NaN: a measure that nothing counts for is left out.
        "measures": {name: value for name, value in result.measures.items() if not np.isnan(value)},
        "origin": origin,
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def _arrow(values: np.ndarray) -> pyarrow.Array:
    """Return a column of numbers, texts or, for two axes, lists of numbers.

    From its memory: Arrow's own conversion first imports pandas, which takes longer than all else that is written.
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
