"""Audio-visual event localisation (AVE): classification of each one-second segment as an event or background.

Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018; head and loss as LAVISH has them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.config.measures import Measure
from lavish.tasks.base import EncodedBatch, FeatureShape, Inputs, Task


class EventLocalization(Task):
    """Two linear layers without an activation on the concatenated features of a segment; segment accuracy.

    Options:
        hidden: width of the first layer.
        loss: 'bce_softmax', binary cross-entropy on the softmax over classes (published), or 'ce', cross-entropy.
    """

    head_reads = "pooled"
    metric = Measure("accuracy")

    def __init__(
        self,
        shape: FeatureShape,
        *,
        hidden: int = 512,
        loss: Literal["bce_softmax", "ce"] = "bce_softmax",
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(shape.widths), hidden)
        self.logits = nn.Linear(hidden, len(shape.classes) + 1)  # the last class is background
        self.loss_name = loss

    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Tensor:
        """Return logits (clips, segments, classes + 1)."""
        return self.logits(self.hidden(torch.cat(encoded.features, dim=-1)))

    def loss(self, output: Tensor, targets: Inputs) -> Tensor:
        logits, labels = output.float().flatten(0, 1), targets["labels"].flatten()
        if self.loss_name == "ce":
            return functional.cross_entropy(logits, labels)
        # Not one_hot, which waits for the labels to check them.
        truth = (labels.unsqueeze(1) == torch.arange(logits.shape[1], device=labels.device)).to(logits.dtype)
        # binary_cross_entropy raises an error under autocast; the logits are float32 here already.
        with torch.autocast(logits.device.type, enabled=False):
            return functional.binary_cross_entropy(logits.softmax(dim=1), truth)

    def score(self, output: Tensor, targets: Inputs) -> dict[str, np.ndarray]:
        labels = targets["labels"].cpu().numpy()
        predictions = output.argmax(dim=-1).cpu().numpy()
        return {"score": (predictions == labels).mean(axis=1), "labels": labels, "predictions": predictions}
