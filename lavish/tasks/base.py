"""The base class of all tasks: a trainable head with its loss and its metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from lavish.config.measures import Measure
from lavish.config.schema import KeptFeatures
from lavish.models.interfaces import Stream, StreamFeatures

Inputs = dict[str, Tensor]
"""The arrays of a batch's targets by name, with one entry per unit along the first axis.

`masks` come with `annotated`, the indices of the annotated ones among all frames of the batch.
"""


@dataclass(frozen=True)
class FeatureShape:
    """The sizes that a head is built for."""

    widths: list[int]
    """Widths of the pooled features that reach the head, in order."""
    stages: list[tuple[int, int, int]]
    """Channels, rows and columns of each stage's feature map, in the visual stream or in the only stream."""
    token_width: int
    """D of :attr:`StreamFeatures.tokens`."""
    classes: list[str]
    vocabulary: int
    """Number of words in the questions, without padding; 0 for tasks without questions."""
    segments: int
    frame_size: int
    """Height and width of frames and masks, pixels."""
    streams: tuple[Stream, ...]
    separate_audio: bool = False
    """Whether the last pooled feature comes from a separate audio encoder."""


@dataclass(frozen=True)
class EncodedBatch:
    """The encoder's output for a batch; B is clips x segments."""

    streams: dict[Stream, StreamFeatures]
    features: list[Tensor]
    """Pooled features (clips, segments, D), in the order of :attr:`FeatureShape.widths`."""
    rows: Tensor | None = None
    """(units,) the clip of each unit, where several units (questions) share a clip; None if the units are the clips."""
    negatives: Tensor | None = None
    """(B, N, D) visual tokens of frames of other clips, from the bare backbone; see :attr:`Task.negatives`."""

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

    The constructor takes the :class:`FeatureShape` of the head's input, then the task's options as keyword-only
    arguments, each with a type and a default. They are the keys of `task.options`.

    A *unit* is what gets a score: a clip, or one of several questions about a clip.
    """

    metric: ClassVar[Measure]
    """The selection metric: the mean of the units' scores."""
    measures: ClassVar[tuple[Measure, ...]] = ()
    """Further measures that tables can print for a split."""
    negatives: bool = False
    """Whether training needs frames of other clips (:attr:`EncodedBatch.negatives`); may depend on the streams."""
    head_reads: ClassVar[KeptFeatures | None] = None
    """What the head reads of the visual stream, or of the only one, so that a frozen backbone's features are computed
    once: `pooled` features, also the `tokens` of the last block, or those of all `stages`. Of an audio stream beside it
    a task that sets this reads pooled features only. None: features are computed in every epoch."""

    @abstractmethod
    def forward(self, encoded: EncodedBatch, inputs: Inputs) -> Any:
        """Return the head's output. It may read from `inputs` only what a user would provide, such as a question."""

    @abstractmethod
    def loss(self, output: Any, targets: Inputs) -> Tensor:
        """Return the scalar training loss, a mean over the batch's units or over their predictions."""

    @abstractmethod
    def score(self, output: Any, targets: Inputs) -> dict[str, np.ndarray]:
        """Return columns with one entry per unit.

        The columns are `score`, one for each of `measures` that is a mean over units (NaN excludes a unit), and others
        to store with the predictions. A column whose name starts with '_' may have further axes; it is only passed to
        :meth:`calibrate` and :meth:`summarise`, and not stored.
        """

    def calibrate(self, columns: dict[str, np.ndarray]) -> None:
        """Choose thresholds from the columns of the whole selection split, and keep them in buffers."""

    def summarise(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Return the `measures` of a split from the columns of all its units; NaN if all units are excluded."""
        counted = {one.name: columns[one.name][~np.isnan(columns[one.name])] for one in self.measures}
        return {name: float(values.mean()) if len(values) else float("nan") for name, values in counted.items()}

    def example_inputs(self) -> Inputs:
        """Return inputs of one clip with one unit, for counting operations."""
        return {}

    def unused_parameters(self) -> int:
        """Return the number of parameters that published code declares and never uses, if they count."""
        return 0

    def predicted_masks(self, output: Any, targets: Inputs) -> dict[str, Tensor] | None:
        """Return masks to show: 'predicted' in [0, 1] and 'truth' uint8, both (clips, segments, H, W); or None."""
        return None
