"""What every method is: trainable parts that act at named points of the walk through a frozen backbone.

A method is one file of this package with one class. Most methods are small modules beside or after a sublayer: those
derive from :class:`Adapter` and see one place of one stream at a time. All others derive from :class:`Method` and take
the points of the walk they need:

    tokens  = embed(patches)                               tokens may be added
    for each block:
        tokens = before(tokens)                            tokens may be added; the clip's steps may be mixed
        for attention, then for the feed-forward layer:
            operate(layer, input) for each frozen layer    what acts on weights
            tokens += branch + beside(tokens, branch)      what acts beside or after a sublayer
        tokens = after(tokens)
    features = finish(features)                            what acts on the backbone's output
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from lavish.backbones.base import Backbone, Operation

if TYPE_CHECKING:
    from lavish.encoder import StreamFeatures

Stream = Literal["visual", "audio"]
Position = Literal["attention", "ffn"]
Streams = dict[Stream, Tensor]
"""A tensor of each stream; row b of all belongs to the same moment of the same clip."""


@dataclass(frozen=True)
class Placement:
    """Where a method acts."""

    streams: tuple[Stream, ...]
    """The streams there are."""
    readers: frozenset[Stream]
    """The streams that may read the other one: the direction of fusion."""
    blocks: tuple[int, ...]
    """The backbone's blocks that were chosen."""
    tokens: dict[Stream, tuple[int, ...]]
    """Tokens of a picture in each block, those before the patches included."""
    grids: dict[Stream, tuple[tuple[int, int], ...]]
    """Rows and columns of the patches in each block."""
    steps: int
    """Steps of a clip."""


@dataclass(frozen=True)
class Place:
    """One place of one :class:`Adapter`."""

    stream: Stream
    block: int
    position: Position
    width: int
    """Channels C of this stream's tokens."""
    other_width: int
    """Channels C' of the other stream's tokens."""
    tokens: int
    """Tokens N of this stream's picture."""
    other_tokens: int
    """Tokens N' of the other stream's picture."""
    crosses: bool
    """Whether the other stream may be read."""


@dataclass
class Walk:
    """One forward pass through the backbone, as the points of a :class:`Method` see it."""

    backbone: Backbone
    steps: int
    """Steps of a clip: the rows of all tensors are clips x steps, the steps of a clip one after the other."""
    tokens: Streams = field(default_factory=dict)
    """The residual stream as it enters the present sublayer, (B, N, C)."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What one point leaves for a later one."""
    penalties: list[Tensor] = field(default_factory=list)
    """Scalars that training adds to the task's loss."""


class Method(nn.Module, ABC):
    """A method of adapting a frozen backbone; every point of the walk leaves things as they are unless overridden.

    The constructor takes the backbone, to read its sizes from, and the placement, then the method's options,
    keyword-only, each with a type and a default: they are what `adapter.options` may say.
    """

    crosses: ClassVar[bool] = False
    """Whether the method reads the other stream at all, where the direction of fusion lets it."""
    temporal: ClassVar[bool] = False
    """Whether the steps of a clip are mixed, so that the cost of a picture depends on their number."""
    size: ClassVar[str | None] = None
    """The option that sets the number of trainable parameters (a rank, a reduction), for comparisons at one budget."""

    def tuned(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        """Return the backbone's own parameters that are trained."""
        return ()

    def edits(self, block: int | None) -> frozenset[str]:
        """Return the names of the frozen layers of a block that :meth:`operate` applies; None: those outside blocks."""
        return frozenset()

    def embed(self, tokens: Streams, walk: Walk) -> Streams:
        """Change the tokens (B, N, C) before the first block."""
        return tokens

    def before(self, block: int, tokens: Streams, walk: Walk) -> Streams:
        """Change the tokens before a block, behind the merging of patches if there is any."""
        return tokens

    def operate(self, operations: dict[Stream, Operation], walk: Walk) -> Streams:
        """Return the outputs of one frozen layer for its inputs in all streams; called for what :meth:`edits` names."""
        return {stream: operation.layer(operation.tokens) for stream, operation in operations.items()}

    def beside(self, block: int, position: Position, tokens: Streams, branches: Streams, walk: Walk) -> Streams:
        """Return what is added to the residual stream besides a sublayer's own branch; a stream left out gets nothing.

        Args:
            block, position: the sublayer.
            tokens: what it read, (B, N, C).
            branches: what it returned, (B, N, C).
            walk: this forward pass.
        """
        return {}

    def after(self, block: int, tokens: Streams, walk: Walk) -> Streams:
        """Change the tokens after a block."""
        return tokens

    def finish(self, features: dict[Stream, StreamFeatures], walk: Walk) -> dict[Stream, StreamFeatures]:
        """Change what the head gets."""
        return features

    def feature_dim(self, backbone: Backbone) -> int:
        """Return the width of the pooled features after :meth:`finish`."""
        return backbone.feature_dim


class Adapter(nn.Module, ABC):
    """A module at one place of one stream; a method of this kind is one file with one subclass.

    The constructor takes the place, then the method's options as for a :class:`Method`.
    """

    crosses: ClassVar[bool] = True
    size: ClassVar[str | None] = None
    position: ClassVar[Literal["both", "attention", "ffn"]] = "both"
    """The sublayers it sits at, unless `fusion.position` says otherwise."""
    arrangement: ClassVar[Literal["parallel", "sequential"]] = "parallel"
    """What it reads, unless `fusion.arrangement` says otherwise: the sublayer's input or its output."""

    @abstractmethod
    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Return the update of this stream's `tokens` (B, N, C) given the `other` stream's (B, N', C').

        Row b of both belongs to the same moment of the same clip. The update is added to the residual stream.
        """
