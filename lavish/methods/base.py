"""What a method is: trainable parts that act at hooks of the forward pass through frozen backbones.

A method is one file of this package with one class. Most methods are small modules beside or after a sublayer: they
derive from :class:`Adapter` and see one site of one stream. All others derive from :class:`Method` and override the
hooks that they need:

    tokens = after_embedding(tokens)                            may add tokens
    for each step, a block of both streams or of one alone:
        tokens = before_block(tokens)                           may add tokens, or mix the segments of a clip
        for the attention sublayer, then the feed-forward one:
            apply_layer(layer, input) for each frozen layer     changes what frozen layers compute
            tokens += branch + residual_update(tokens, branch)  adds to the residual stream
        tokens = after_block(tokens)
    features = transform_features(features)                     changes what the head receives

Both streams share one backbone, or each has its own. With one backbone, or two of equal depth, block i of one stream
runs beside block i of the other. Otherwise the deeper backbone has blocks that run alone: the hooks receive the tokens
of one stream only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lavish.models.backbones.base import Backbone, FrozenLayer
from lavish.models.interfaces import (
    POSITIONS,
    Blocks,
    ForwardContext,
    MethodContext,
    Position,
    Stream,
    StreamFeatures,
    Streams,
    other_stream,
)


@dataclass(frozen=True)
class AdapterSite:
    """One sublayer of one block in one stream.

    The `other_` values are those of the block of the other stream that runs beside it; if there is none, of this one.
    """

    stream: Stream
    block: int
    position: Position
    width: int
    """Channels C of this stream's tokens."""
    other_width: int
    """Channels C' of the other stream's tokens."""
    tokens: int
    """Number N of this stream's tokens: class and register tokens, then the patches of `grid` row by row."""
    other_tokens: int
    """Number N' of the other stream's tokens."""
    grid: tuple[int, int]
    """Rows and columns of this stream's patches."""
    other_grid: tuple[int, int]
    """Rows and columns of the other stream's patches."""
    cross_modal: bool
    """Whether this stream may read the other one here."""
    alone: bool = False
    """Whether the model has another stream, but none of its blocks runs beside this one."""

    @property
    def name(self) -> str:
        """The site's name in checkpoints."""
        return site_name(self.block, self.position, self.stream)


def site_name(block: int, position: Position, stream: Stream) -> str:
    """Return the name of a site in checkpoints."""
    return f"{block}_{position}_{stream}"


def adapter_sites(context: MethodContext, positions: Sequence[Position] = POSITIONS) -> Iterator[AdapterSite]:
    """Yield the sites of a method: by step, then by position, then by stream."""
    for blocks, position in product(context.steps, positions):
        for stream, block in blocks.items():
            other = other_stream(stream) if len(blocks) == 2 else stream
            yield AdapterSite(
                stream=stream,
                block=block,
                position=position,
                width=context.backbones[stream].widths[block],
                other_width=context.backbones[other].widths[blocks[other]],
                tokens=context.tokens[stream][block],
                other_tokens=context.tokens[other][blocks[other]],
                grid=context.grids[stream][block],
                other_grid=context.grids[other][blocks[other]],
                cross_modal=stream in context.readers and other != stream,
                alone=len(blocks) < len(context.streams),
            )


class Method(nn.Module, ABC):
    """A method of adapting frozen backbones. A hook that is not overridden changes nothing.

    The constructor takes the context, with the backbones, whose sizes it may read, then the method's options as
    keyword-only arguments, each with a type and a default. They are the keys of `adapter.options`.
    """

    cross_modal: ClassVar[bool] = False
    """Whether the method can read the other stream."""
    temporal: ClassVar[bool] = False
    """Whether it mixes the segments of a clip, so that the cost of a segment depends on their number."""
    budget_option: ClassVar[str | None] = None
    """The option that sets the number of trainable parameters (a rank, a reduction), for comparisons at equal size."""
    search_space: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    """What a hyperparameter search tries, see :mod:`lavish.planning.search_spaces`; None: learning rates alone."""

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        """Return the parameters of a stream's backbone that are trained."""
        return ()

    def intercepted_layers(self, stream: Stream, block: int | None) -> frozenset[str]:
        """Return the names of a block's frozen layers that :meth:`apply_layer` applies; None: layers outside blocks."""
        return frozenset()

    def after_embedding(self, tokens: Streams, context: ForwardContext) -> Streams:
        """Return the tokens (B, N, C) that enter the first block."""
        return tokens

    def before_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        """Return the tokens that enter the blocks, after patch merging if there is any."""
        return tokens

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        """Return the outputs of one frozen layer in the streams that run. Called for the :meth:`intercepted_layers`.

        Layers of the same name meet. A norm is applied in one stream alone where the other backbone has its norm at
        another place.
        """
        return {stream: frozen.layer(frozen.tokens) for stream, frozen in layers.items()}

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        """Return what is added to the residual stream besides the sublayer's own output; streams may be omitted.

        Args:
            blocks: the block of each stream.
            position: the sublayer of these blocks.
            tokens: its input, (B, N, C).
            branches: its output, (B, N, C).
            context: this forward pass.
        """
        return {}

    def after_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        """Return the tokens that leave the blocks."""
        return tokens

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        """Return the features that the head receives."""
        return features

    def feature_dim(self, stream: Stream, backbone: Backbone) -> int:
        """Return the width of a stream's pooled features after :meth:`transform_features`."""
        return backbone.feature_dim


class Adapter(nn.Module, ABC):
    """A module at one site of one stream.

    The constructor takes the site, then the method's options as for a :class:`Method`.
    """

    cross_modal: ClassVar[bool] = True
    budget_option: ClassVar[str | None] = None
    search_space: ClassVar[Mapping[str, tuple[Any, ...]] | None] = None
    position: ClassVar[Literal["both", "attention", "ffn"]] = "both"
    """The sublayers with an adapter, unless `fusion.position` says otherwise."""
    arrangement: ClassVar[Literal["parallel", "sequential"]] = "parallel"
    """Whether it reads the sublayer's input or its output, unless `fusion.arrangement` says otherwise."""

    @abstractmethod
    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Return the update of this stream's `tokens` (B, N, C), given the `other` stream's (B, N', C').

        The update is added to the residual stream.
        """
