"""What every method is: trainable parts that act at named points of the walk through a frozen backbone.

A method is one file of this package with one class. Most methods are small modules beside or after a sublayer: those
derive from :class:`Adapter` and see one place of one stream at a time. All others derive from :class:`Method` and take
the points of the walk they need:

    tokens  = embed(patches)                               tokens may be added
    for each block:
        tokens = before(tokens)                            tokens may be added; the clip's segments may be mixed
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

from lavish.models.backbones.base import Backbone, Operation
from lavish.models.interfaces import Position, Stream, Streams

if TYPE_CHECKING:
    from lavish.models.interfaces import StreamFeatures


@dataclass(frozen=True)
class MethodContext:
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
    segments: int
    """Segments of a clip."""


@dataclass(frozen=True)
class AdapterSite:
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
    cross_modal: bool
    """Whether the other stream may be read."""


@dataclass
class ForwardContext:
    """One forward pass through the backbone, as the points of a :class:`Method` see it."""

    backbone: Backbone
    segments: int
    """Segments of a clip: the rows of all tensors are clips x segments, the segments of a clip one after the other."""
    tokens: Streams = field(default_factory=dict)
    """The residual stream as it enters the present sublayer, (B, N, C)."""
    cache: dict[str, Any] = field(default_factory=dict)
    """What one point leaves for a later one."""
    auxiliary_losses: list[Tensor] = field(default_factory=list)
    """Scalars that training adds to the task's loss."""


class Method(nn.Module, ABC):
    """A method of adapting a frozen backbone; every point of the walk leaves things as they are unless overridden.

    The constructor takes the backbone, to read its sizes from, and the context, then the method's options,
    keyword-only, each with a type and a default: they are what `adapter.options` may say.
    """

    cross_modal: ClassVar[bool] = False
    """Whether the method reads the other stream at all, where the direction of fusion lets it."""
    temporal: ClassVar[bool] = False
    """Whether the segments of a clip are mixed, so that the cost of a picture depends on their number."""
    budget_option: ClassVar[str | None] = None
    """The option that sets the number of trainable parameters (a rank, a reduction), for comparisons at one budget."""

    def tuned_parameters(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        """Return the backbone's own parameters that are trained."""
        return ()

    def intercepted_layers(self, block: int | None) -> frozenset[str]:
        """Return the names of the frozen layers of a block that :meth:`apply_layer` applies; None: those outside blocks."""
        return frozenset()

    def after_embedding(self, tokens: Streams, context: ForwardContext) -> Streams:
        """Change the tokens (B, N, C) before the first block."""
        return tokens

    def before_block(self, block: int, tokens: Streams, context: ForwardContext) -> Streams:
        """Change the tokens before a block, behind the merging of patches if there is any."""
        return tokens

    def apply_layer(self, operations: dict[Stream, Operation], context: ForwardContext) -> Streams:
        """Return the outputs of one frozen layer for its inputs in all streams; called for what :meth:`intercepted_layers` names."""
        return {stream: operation.layer(operation.tokens) for stream, operation in operations.items()}

    def residual_update(
        self, block: int, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        """Return what is added to the residual stream besides a sublayer's own branch; a stream left out gets nothing.

        Args:
            block, position: the sublayer.
            tokens: what it read, (B, N, C).
            branches: what it returned, (B, N, C).
            context: this forward pass.
        """
        return {}

    def after_block(self, block: int, tokens: Streams, context: ForwardContext) -> Streams:
        """Change the tokens after a block."""
        return tokens

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        """Change what the head gets."""
        return features

    def feature_dim(self, backbone: Backbone) -> int:
        """Return the width of the pooled features after :meth:`transform_features`."""
        return backbone.feature_dim


class Adapter(nn.Module, ABC):
    """A module at one place of one stream; a method of this kind is one file with one subclass.

    The constructor takes the site, then the method's options as for a :class:`Method`.
    """

    cross_modal: ClassVar[bool] = True
    budget_option: ClassVar[str | None] = None
    position: ClassVar[Literal["both", "attention", "ffn"]] = "both"
    """The sublayers it sits at, unless `fusion.position` says otherwise."""
    arrangement: ClassVar[Literal["parallel", "sequential"]] = "parallel"
    """What it reads, unless `fusion.arrangement` says otherwise: the sublayer's input or its output."""

    @abstractmethod
    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Return the update of this stream's `tokens` (B, N, C) given the `other` stream's (B, N', C').

        Row b of both belongs to the same moment of the same clip. The update is added to the residual stream.
        """
