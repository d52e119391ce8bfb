"""Audio-visual action recognition: classification of whole clips."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.config.measures import Measure
from lavish.errors import LavishError
from lavish.tasks.base import EncodedBatch, FeatureShape, Inputs, Task

_TOP = 5


class ActionRecognition(Task):
    """Pools the segments' features over time and classifies them; top-1 and top-5 accuracy of clips.

    With five classes or fewer, `top_5_accuracy` is 1.

    Options:
        pooling: over the segments of a clip. 'mean' and 'max' ignore the order of segments; 'attention' is a softmax
            over the products of one learned query with the segments, after learned position embeddings are added.
        grid: the visual stream's last feature map is averaged in `grid` x `grid` cells, which are concatenated. Motion
            is only visible if locations are kept apart; 1 averages over the whole image. Without the visual stream it
            has no effect.
        hidden: width of a hidden layer (GELU) between pooling and classifier; 0 for none.
        label_smoothing: of the cross-entropy, at least 0 and less than 1.
    """

    head_reads = "tokens"
    metric = Measure("accuracy")
    measures = (Measure("top_5_accuracy"),)

    def __init__(
        self,
        shape: FeatureShape,
        *,
        pooling: Literal["mean", "max", "attention"] = "mean",
        grid: int = 1,
        hidden: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden < 0:
            raise LavishError(f"task.options.hidden is {hidden}: give a width, or 0 for no hidden layer")
        if not 0 <= label_smoothing < 1:
            raise LavishError(f"task.options.label_smoothing is {label_smoothing:g}: give at least 0 and less than 1")
        self.pooling = pooling
        self.grid = grid if "visual" in shape.streams else 1
        self.label_smoothing = label_smoothing
        widths = list(shape.widths)
        if self.grid != 1:
            channels, rows, columns = shape.stages[-1]
            if not 1 <= grid <= min(rows, columns):
                raise LavishError(
                    f"task.options.grid is {grid}, but the backbone's last map has {rows} x {columns} patches: give 1 "
                    f"to {min(rows, columns)}"
                )
            widths[0] = channels * grid**2
        width = sum(widths)
        if pooling == "attention":
            self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(width, 1), std=0.02))
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape.segments, width), std=0.02))
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU()) if hidden else nn.Identity()
        self.logits = nn.Linear(hidden or width, len(shape.classes))

    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Tensor:
        """Return logits (clips, classes)."""
        features = list(encoded.features)
        if self.grid != 1:
            # The visual stream's features come first.
            cells = _cells(encoded.streams["visual"].maps()[-1], self.grid)
            features[0] = cells.unflatten(0, features[0].shape[:2])
        return self.logits(self.hidden(self._pooled(torch.cat(features, dim=-1))))

    def loss(self, output: Tensor, targets: Inputs) -> Tensor:
        """Return the mean cross-entropy with label smoothing (Szegedy et al., arXiv 1512.00567)."""
        return functional.cross_entropy(output.float(), targets["labels"], label_smoothing=self.label_smoothing)

    def score(self, output: Tensor, targets: Inputs) -> dict[str, np.ndarray]:
        """Return whether the label has the highest logit, and whether it is among the five highest."""
        labels = targets["labels"].cpu().numpy()
        # Stable: among equal logits the lower class index comes first.
        first = output.float().argsort(dim=-1, descending=True, stable=True)[:, :_TOP].cpu().numpy()
        right = first == labels[:, None]
        return {
            "score": right[:, 0].astype(np.float64),
            "top_5_accuracy": right.any(axis=1).astype(np.float64),
            "labels": labels,
            "predictions": first[:, 0],
        }

    def _pooled(self, segments: Tensor) -> Tensor:
        """Pool (clips, segments, width) over the segments."""
        if self.pooling == "mean":
            return segments.mean(dim=1)
        if self.pooling == "max":
            return segments.amax(dim=1)
        placed = segments + self.positions[: segments.shape[1]]  # costs are counted with fewer segments
        weights = (placed @ self.query / math.sqrt(len(self.query))).softmax(dim=1)
        return (weights.transpose(1, 2) @ placed).squeeze(1)


def _cells(maps: Tensor, side: int) -> Tensor:
    """Average maps (B, C, rows, columns) over `side` x `side` cells; return one feature (B, cells x C).

    Adaptive average pooling is almost the same, but its gradient is not deterministic on a GPU.
    """
    rows, columns = maps.shape[2:]
    down, across = (
        [slice(index * size // side, (index + 1) * size // side) for index in range(side)] for size in (rows, columns)
    )
    return torch.cat([maps[:, :, row, column].mean(dim=(2, 3)) for row in down for column in across], dim=1)
