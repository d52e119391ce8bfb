"""The types that pass between backbone, method, encoder and head.

B counts clips x segments everywhere; the segments of a clip are consecutive. Row b of both streams is the same segment
of the same clip.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
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


Blocks = dict[Stream, int]
"""The blocks that run at the same time: one of each stream, or of one stream alone. A block is an index in its stream's
backbone."""


@dataclass(frozen=True)
class MethodContext:
    """What a method is built for: the streams, their backbones, and the blocks it adapts."""

    backbones: dict[Stream, Backbone]
    """The backbone of each stream of the model: one object for both, if they share it."""
    readers: frozenset[Stream]
    """The streams that may read the other one: the direction of fusion."""
    steps: tuple[Blocks, ...]
    """The blocks to adapt, in the order in which they run; see :func:`lavish.models.pairing.pair_blocks`."""
    tokens: dict[Stream, tuple[int, ...]]
    """Number of tokens in each block, including those before the patches."""
    grids: dict[Stream, tuple[tuple[int, int], ...]]
    """Rows and columns of the patches in each block."""
    segments: int
    """Segments of a clip."""

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams of the model."""
        return tuple(self.backbones)

    @property
    def meetings(self) -> tuple[Blocks, ...]:
        """The steps at which every stream has a block."""
        return tuple(blocks for blocks in self.steps if len(blocks) == len(self.backbones))

    def blocks(self, stream: Stream) -> tuple[int, ...]:
        """Return the blocks of a stream to adapt."""
        return tuple(blocks[stream] for blocks in self.steps if stream in blocks)


@dataclass
class ForwardContext:
    """One forward pass through the backbones, as the hooks of a method see it."""

    backbones: dict[Stream, Backbone]
    segments: int
    """Segments of a clip."""
    tokens: Streams = field(default_factory=dict)
    """The residual streams before the current sublayer, (B, N, C), of the blocks that run."""
    cache: dict[str, Any] = field(default_factory=dict)
    """Values that one hook stores for a later one."""
    auxiliary_losses: list[Tensor] = field(default_factory=list)
    """Scalars that training adds to the task's loss."""

    def copy(self) -> ForwardContext:
        """Return a context whose cache and losses can be changed without changing this one's."""
        cache = {key: copy(value) if isinstance(value, list | dict) else value for key, value in self.cache.items()}
        return replace(self, cache=cache, auxiliary_losses=[*self.auxiliary_losses])
