"""The types that pass between backbone, method, encoder and head.

B counts clips x segments everywhere; the segments of a clip are consecutive. Row b of both streams is the same segment
of the same clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from lavish.models.backbones.base import Backbone

Stream = Literal["visual", "audio"]
STREAMS: tuple[Stream, ...] = get_args(Stream)

Position = Literal["attention", "ffn"]
"""A sublayer of a block."""
POSITIONS: tuple[Position, ...] = get_args(Position)

Streams = dict[Stream, Tensor]
"""A tensor of each stream."""


def other_stream(stream: Stream) -> Stream:
    """Return the audio stream for the visual one, and the other way round."""
    return "audio" if stream == "visual" else "visual"


@dataclass(frozen=True)
class StreamFeatures:
    """The encoder's output for one stream."""

    pooled: Tensor
    """(B, D) feature of the whole image."""
    tokens: Tensor
    """(B, N, D) normalised tokens of the last block."""
    stages: tuple[Tensor, ...]
    """Tokens (B, N_s, C_s) at the end of each stage of the backbone, those of the last stage normalised."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of the patches in each stage."""

    @property
    def patches(self) -> Tensor:
        """The patch tokens (B, rows x columns, D) of the last block, row by row."""
        rows, columns = self.grids[-1]
        return self.tokens[:, -rows * columns :]

    def maps(self) -> list[Tensor]:
        """Return the patch tokens of each stage as a feature map (B, C_s, rows, columns)."""
        return [
            tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
            for tokens, (rows, columns) in zip(self.stages, self.grids, strict=True)
        ]


@dataclass(frozen=True)
class MethodContext:
    """What a method is built for: the streams, and the blocks it adapts."""

    streams: tuple[Stream, ...]
    """The streams of the model."""
    readers: frozenset[Stream]
    """The streams that may read the other one: the direction of fusion."""
    blocks: tuple[int, ...]
    """The blocks of the backbone to adapt."""
    tokens: dict[Stream, tuple[int, ...]]
    """Number of tokens in each block, including those before the patches."""
    grids: dict[Stream, tuple[tuple[int, int], ...]]
    """Rows and columns of the patches in each block."""
    segments: int
    """Segments of a clip."""


@dataclass
class ForwardContext:
    """One forward pass through the backbone, as the hooks of a method see it."""

    backbone: Backbone
    segments: int
    """Segments of a clip."""
    tokens: Streams = field(default_factory=dict)
    """The residual stream before the current sublayer, (B, N, C)."""
    cache: dict[str, Any] = field(default_factory=dict)
    """Values that one hook stores for a later one."""
    auxiliary_losses: list[Tensor] = field(default_factory=list)
    """Scalars that training adds to the task's loss."""
