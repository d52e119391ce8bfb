"""Evaluating a trained model on a split: the metric, and every unit's score for the statistics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lavish.data.batches import SplitReader
from lavish.device import autocast

if TYPE_CHECKING:
    from lavish.model import AudioVisualModel


@dataclass(frozen=True)
class Evaluation:
    """The metric on a split and the units it is the mean of."""

    metric: str
    value: float
    columns: dict[str, Any]
    """`clip`, `score` and the task's own columns, one entry per unit."""


def evaluate(
    model: AudioVisualModel, reader: SplitReader, batch_size: int, device: torch.device, precision: str
) -> Evaluation:
    """Evaluate `model` on every clip of `reader` in order."""
    model.eval()
    parts: list[dict[str, np.ndarray]] = []
    clips: list[str] = []
    with torch.inference_mode():
        for batch in reader.batches(np.arange(len(reader)), batch_size, device):
            with autocast(device, precision):
                output = model(batch.frames, batch.log_mels, batch.audio_features)
            parts.append(model.task.score(output, batch.targets))
            clips.extend(batch.clips)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Evaluation(model.task.metric, float(columns["score"].mean()), {"clip": clips, **columns})


def write_evaluation(result: Evaluation, out: Path, origin: dict[str, Any]) -> None:
    """Write ``predictions.parquet`` (one row per unit) and ``metrics.json`` to the folder `out`.

    `origin` says what the evaluation was made from and with; it becomes the key of that name of metrics.json.
    """
    import pyarrow
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in result.columns.items()}
    )
    pyarrow.parquet.write_table(table, out / "predictions.parquet")
    metrics = {
        "metric": result.metric,
        "value": result.value,
        "units": len(result.columns["clip"]),
        "origin": origin,
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
