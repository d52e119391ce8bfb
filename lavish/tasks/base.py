"""What every task is: a trainable head with its loss and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from lavish.models.interfaces import Stream, StreamFeatures

Inputs = dict[str, Tensor]
"""The arrays of a batch's targets by name, with one entry per unit along the first axis."""


@dataclass(frozen=True)
class Shape:
    """What a head is built for."""

    widths: list[int]
    """Of the pooled features that reach the head, in order."""
    stages: list[tuple[int, int, int]]
    """Channels, rows and columns of each stage's map: of the visual stream, or of the only one there is."""
    token_width: int
    """D of :attr:`StreamFeatures.tokens`."""
    classes: list[str]
    vocabulary: int
    """Words that questions are made of, padding not counted; 0 where nothing is asked."""
    segments: int
    frame_size: int
    """Height and width of frames and masks, pixels."""
    streams: tuple[Stream, ...]
    separate_audio: bool = False
    """Whether the last of the pooled features is that of a separate audio encoder."""


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of a batch, for the head; B is clips x segments."""

    streams: dict[Stream, StreamFeatures]
    features: list[Tensor]
    """Pooled features (clips, segments, D), in the order of :attr:`Shape.widths`; the last may be a separate encoder's."""
    rows: Tensor | None = None
    """(units,) the clip of each unit, where several units (questions) share one; None: the units are the clips."""
    negatives: Tensor | None = None
    """(B, N, D) visual tokens of as many frames of other clips from the bare backbone; see :attr:`Task.negatives`."""

    @property
    def clips(self) -> int:
        """Number of clips in the batch."""
        return self.features[0].shape[0]

    @property
    def segments(self) -> int:
        """Segments of a clip."""
        return self.features[0].shape[1]


class Task(nn.Module, ABC):
    """A task is one file of this package with one subclass.

    The constructor takes the :class:`Shape` of what reaches the head, then the task's options, keyword-only, each with
    a type and a default: they are what `task.options` may say.

    What is scored is a *unit*: a clip, or one of several questions about a clip.
    """

    metric: ClassVar[str]
    """Name of the selection metric; higher is better and it is the mean of the units' scores."""
    measures: ClassVar[tuple[str, ...]] = ()
    """Names of further numbers that tables can print of a split."""
    negatives: bool = False
    """Whether training wants frames of other clips (:attr:`Encoded.negatives`); may depend on the streams there are."""

    @abstractmethod
    def forward(self, encoded: Encoded, inputs: Inputs) -> Any:
        """Return the head's output; of `inputs` only what a user would have at hand (a question) may be read."""

    @abstractmethod
    def loss(self, output: Any, targets: Inputs) -> Tensor:
        """Return the scalar training loss, a mean over the batch's units or what is predicted of them."""

    @abstractmethod
    def score(self, output: Any, targets: Inputs) -> dict[str, np.ndarray]:
        """Return columns with one entry per unit.

        `score`, one column for each of `measures` that is a mean over units (NaN: the unit does not count), and
        whatever else the predictions should keep. A name that begins with '_' is for :meth:`calibrate` and
        :meth:`summarise` alone, may have further axes, and is not kept.
        """

    def calibrate(self, columns: dict[str, np.ndarray]) -> None:
        """Choose what is to be chosen on the selection split, from all its units; kept as buffers with the weights."""

    def summarise(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the `measures` of a split, from all its units; NaN where no unit counts."""
        counted = {name: columns[name][~np.isnan(columns[name])] for name in self.measures}
        return {name: float(values.mean()) if len(values) else float("nan") for name, values in counted.items()}

    def example_inputs(self) -> Inputs:
        """Return inputs of one clip with one unit, to count operations with."""
        return {}

    def unused_parameters(self) -> int:
        """Return the parameters of layers that published code declares and never runs, where they are to be counted."""
        return 0

    def pictures(self, output: Any, targets: Inputs) -> dict[str, Tensor] | None:
        """Return what can be looked at: 'predicted' in [0, 1] and 'truth' uint8, both (clips, segments, H, W); or None."""
        return None
