"""Example predictions: what a trained model predicts for some clips of a split."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lavish.errors import LavishError
from lavish.io.atomic import write_bytes
from lavish.training.device import autocast

if TYPE_CHECKING:
    from lavish.data.store.batches import SplitReader
    from lavish.learner.model import AudioVisualModel


@dataclass(frozen=True)
class ExamplePredictions:
    """Predictions for n clips.

    Attributes:
        clips: names (n,).
        frames: uint8 (n, segments, H, W, 3).
        predicted: uint8 (n, segments, H, W), probabilities times 255.
        truth: uint8 (n, segments, H, W): 1, 0, or 255 where there is no annotation.
    """

    clips: np.ndarray
    frames: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray

    def write(self, out: Path) -> None:
        """Write the arrays by their names as an npz file."""
        content = io.BytesIO()
        np.savez_compressed(content, **vars(self))
        write_bytes(out, content.getvalue())


def evenly_distributed(clips: int, count: int) -> np.ndarray:
    """Return `count` evenly distributed positions among `clips` clips; deterministic."""
    return np.unique(np.linspace(0, clips - 1, min(count, clips)).round().astype(np.int64))


def predict(
    model: AudioVisualModel,
    reader: SplitReader,
    clips: np.ndarray,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> ExamplePredictions:
    """Run `model` on the clips at these positions of a split whose units are its clips.

    Raises:
        LavishError: the task predicts no masks.
    """
    model.eval()
    store = reader.store
    predicted, truth = [], []
    with torch.inference_mode():
        groups = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
        for batch in reader.batches(groups, device):
            with autocast(device, precision):
                output = model(batch)
            images = model.task.predicted_masks(output, batch.targets)
            if images is None:
                raise LavishError(
                    f"task '{type(model.task).__name__}' predicts no masks: ask for examples of a segmentation task"
                )
            predicted.append((255 * images["predicted"].float()).round().byte().cpu().numpy())
            truth.append(images["truth"].cpu().numpy())
    return ExamplePredictions(
        np.array([store.clips[clip] for clip in clips]),
        np.asarray(store.frames[clips]),
        np.concatenate(predicted),
        np.concatenate(truth),
    )
