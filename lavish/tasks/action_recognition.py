"""Audio-visual action recognition: which one action a whole clip shows and plays."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.tasks.base import Encoded, Inputs, Shape, Task

_TOP = 5


class ActionRecognition(Task):
    """Features of the steps pooled over time, then a classifier; top-1 and top-5 accuracy of clips.

    With fewer than five classes `top_5_accuracy` is over all of them, and so 1, as it is with five.

    Options:
        pooling: over the steps of a clip. 'mean' and 'max' see the set of steps; 'attention' is a softmax of one
            learned query with the steps, to which learned embeddings of their positions are added first: their order
            can matter.
        hidden: width of a hidden layer (GELU) between pooling and classifier; 0 for none.
        label_smoothing: of the cross-entropy, 0 to 1 (excluded).
    """

    metric = "accuracy"
    measures = ("top_5_accuracy",)

    def __init__(
        self,
        shape: Shape,
        *,
        pooling: Literal["mean", "max", "attention"] = "mean",
        hidden: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden < 0:
            raise LavishError(f"task.options.hidden is {hidden}: give a width, or 0 for no hidden layer")
        if not 0 <= label_smoothing < 1:
            raise LavishError(f"task.options.label_smoothing is {label_smoothing:g}: give at least 0 and less than 1")
        width = sum(shape.widths)
        self.pooling = pooling
        self.label_smoothing = label_smoothing
        if pooling == "attention":
            self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
            self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape.steps, width), std=0.02))
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU()) if hidden else nn.Identity()
        self.logits = nn.Linear(hidden or width, len(shape.classes))

    def forward(self, encoded: Encoded, inputs: Inputs) -> Tensor:
        """Return logits (clips, classes)."""
        return self.logits(self.hidden(self._pooled(torch.cat(encoded.features, dim=-1))))

    def loss(self, output: Tensor, targets: Inputs) -> Tensor:
        """Return the cross-entropy with smoothed labels (Szegedy et al., 2016), a mean over clips."""
        return functional.cross_entropy(output.float(), targets["labels"], label_smoothing=self.label_smoothing)

    def score(self, output: Tensor, targets: Inputs) -> dict[str, np.ndarray]:
        """Return whether the label is the first, and whether it is among the first five, of the classes by logit."""
        labels = targets["labels"].cpu().numpy()
        # Stable: of equal logits the class of the lower index comes first, as with argmax.
        first = output.float().argsort(dim=-1, descending=True, stable=True)[:, :_TOP].cpu().numpy()
        right = first == labels[:, None]
        return {
            "score": right[:, 0].astype(np.float64),
            "top_5_accuracy": right.any(axis=1).astype(np.float64),
            "labels": labels,
            "predictions": first[:, 0],
        }

    def _pooled(self, steps: Tensor) -> Tensor:
        """Pool (clips, steps, width) over the steps."""
        if self.pooling == "mean":
            return steps.mean(dim=1)
        if self.pooling == "max":
            return steps.amax(dim=1)
        placed = steps + self.positions
        weights = (placed @ self.query / math.sqrt(len(self.query))).softmax(dim=1)
        return (weights[..., None] * placed).sum(dim=1)
