"""Examples to look at: what a trained model makes of some clips of a split, as arrays and as overlays on the frames."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from lavish.errors import LavishError
from lavish.io.atomic import write_bytes
from lavish.reporting.overlays import overlay
from lavish.training.device import autocast

if TYPE_CHECKING:
    from lavish.data.store.batches import SplitReader
    from lavish.learner.model import AudioVisualModel


@dataclass(frozen=True)
class Examples:
    """Some clips with what was predicted of them.

    Attributes:
        clips: names (n,).
        frames: uint8 (n, segments, H, W, 3).
        predicted: uint8 (n, segments, H, W), probabilities times 255.
        truth: uint8 (n, segments, H, W): 1, 0, or 255 where nobody has annotated.
    """

    clips: np.ndarray
    frames: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray

    def write(self, out: Path) -> None:
        """Write an npz file of the arrays by their names; it appears whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(content, **vars(self))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(out, content.getvalue())

    def write_overlays(self, folder: Path) -> None:
        """Write a PNG of each clip: its frames, below them the truth and the prediction laid over them."""
        folder.mkdir(parents=True, exist_ok=True)
        for clip, frames, predicted, truth in zip(self.clips, self.frames, self.predicted, self.truth, strict=True):
            lines = [
                frames,
                np.stack([overlay(*pair) for pair in zip(frames, truth == 1, strict=True)]),
                np.stack([overlay(*pair) for pair in zip(frames, predicted / 255, strict=True)]),
            ]
            sheet = np.concatenate([np.concatenate(list(line), axis=1) for line in lines])
            content = io.BytesIO()
            Image.fromarray(sheet).save(content, "PNG")
            write_bytes(folder / f"{_file_name(str(clip))}.png", content.getvalue())


def choose(clips: int, count: int) -> np.ndarray:
    """Return the positions of `count` of `clips` clips, evenly spread, the same each time."""
    return np.unique(np.linspace(0, clips - 1, min(count, clips)).round().astype(np.int64))


def make_examples(
    model: AudioVisualModel,
    reader: SplitReader,
    clips: np.ndarray,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> Examples:
    """Run `model` on the clips at these positions of a split whose units are its clips.

    Raises LavishError when the task has nothing to look at.
    """
    model.eval()
    store = reader.store
    predicted, truth = [], []
    with torch.inference_mode():
        groups = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
        for batch in reader.batches(groups, device):
            with autocast(device, precision):
                output = model(batch)
            pictures = model.task.pictures(output, batch.targets)
            if pictures is None:
                raise LavishError(
                    f"task '{type(model.task).__name__}' predicts nothing that can be laid over frames: ask for "
                    "examples of a segmentation"
                )
            predicted.append((255 * pictures["predicted"].float()).round().byte().cpu().numpy())
            truth.append(pictures["truth"].cpu().numpy())
    return Examples(
        np.array([store.clips[clip] for clip in clips]),
        np.asarray(store.frames[clips]),
        np.concatenate(predicted),
        np.concatenate(truth),
    )


def _file_name(clip: str) -> str:
    """Return a name for a file of a clip, whose own name comes from outside and may hold anything."""
    plain = "".join(character if character.isalnum() or character in "-_#" else "_" for character in clip)[:80]
    return plain if plain == clip else f"{plain}-{hashlib.sha256(clip.encode()).hexdigest()[:8]}"
