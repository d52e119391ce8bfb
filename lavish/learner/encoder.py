"""The two-stream encoder: the forward pass of both streams through the blocks of a backbone.

Both streams, video frames and spectrograms as images, pass through one shared frozen backbone (LAVISH, arXiv
2212.07983, section 3). A method acts at the hooks that ``lavish/methods/base.py`` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.methods.registry import build_method
from lavish.models.backbones.base import Backbone, FrozenLayer, Layers
from lavish.models.interfaces import STREAMS, Position, Stream, StreamFeatures, Streams

Direction = Literal["both", "a2v", "v2a", "none"]
READERS: dict[Direction, set[Stream]] = {
    "both": {"visual", "audio"},
    "a2v": {"visual"},
    "v2a": {"audio"},
    "none": set(),
}
"""The streams that read the other one, for each direction of fusion."""


class TwoStreamEncoder(nn.Module):
    """A frozen backbone that both streams share, and the method that adapts it.

    Args:
        backbone: the frozen transformer.
        streams: the streams of the model.
        method: name of a method, or 'none'.
        options: options of the method.
        direction, position, arrangement, layers: see ``lavish.config.schema.FusionConfig``.
        sizes: rows and columns of each stream's images; by default the size that the backbone was built for.
        segments: segments of a clip.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        streams: tuple[Stream, ...] = STREAMS,
        method: str = "lavish",
        options: dict[str, Any] | None = None,
        direction: Direction = "both",
        position: Literal["default", "both", "attention", "ffn"] = "default",
        arrangement: Literal["default", "parallel", "sequential"] = "default",
        layers: str | list[int] = "all",
        sizes: Mapping[Stream, tuple[int, int]] | None = None,
        segments: int = 1,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.streams = streams
        self.auxiliary_loss: Tensor | None = None
        """The method's auxiliary loss of the last forward pass; None for most methods."""
        self.adapters: Method | None = None
        if method == "none":
            return
        prefix = backbone.num_prefix_tokens
        grids = {s: backbone.grid_sizes(sizes[s] if sizes else backbone.image_size) for s in streams}
        context = MethodContext(
            streams=streams,
            readers=frozenset(READERS[direction] if len(streams) == 2 else ()),
            blocks=tuple(chosen_blocks(layers, backbone.num_blocks)),
            tokens={s: tuple(prefix + rows * columns for rows, columns in grids[s]) for s in streams},
            grids=grids,
            segments=segments,
        )
        self.adapters = build_method(method, backbone, context, options or {}, position, arrangement)
        for parameter in self.adapters.tuned_parameters(backbone):
            parameter.requires_grad_(True)

    @property
    def feature_dim(self) -> int:
        """Width of the pooled features."""
        return self.backbone.feature_dim if self.adapters is None else self.adapters.feature_dim(self.backbone)

    def forward(self, images: dict[Stream, Tensor], segments: int = 1) -> dict[Stream, StreamFeatures]:
        """Encode normalised images (B, 3, H, W) of each stream; row b of both is the same segment of the same clip.

        B is clips x `segments`; the segments of a clip are consecutive.
        """
        # If nothing below the head is trained, no activations have to be stored.
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return self._encode(images, segments)

    def _encode(self, images: dict[Stream, Tensor], segments: int) -> dict[Stream, StreamFeatures]:
        backbone, method = self.backbone, self.adapters
        context = ForwardContext(backbone, segments)
        tokens = self._part(None, backbone.embed, backbone.embedding_layers, images, context, together=False)
        if method is not None:
            tokens = method.after_embedding(tokens, context)
        ends: dict[Stream, dict[int, Tensor]] = {stream: {} for stream in self.streams}
        for index in range(backbone.num_blocks):
            tokens = _each(partial(backbone.enter, index), tokens)
            if method is not None:
                tokens = method.before_block(index, tokens, context)
            tokens = self._sublayer(index, "attention", tokens, context)
            tokens = self._sublayer(index, "ffn", tokens, context)
            if method is not None:
                tokens = method.after_block(index, tokens, context)
            if index in backbone.stage_ends:
                for stream, x in tokens.items():
                    ends[stream][index] = x
        tokens = self._part(None, backbone.final, backbone.final_layers, tokens, context)
        features = {
            stream: StreamFeatures(
                backbone.pool(x),
                x,
                (*(ends[stream][end] for end in backbone.stage_ends[:-1]), x),
                self._stage_grids(images[stream]),
            )
            for stream, x in tokens.items()
        }
        if method is not None:
            features = method.transform_features(features, context)
        self.auxiliary_loss = torch.stack(context.auxiliary_losses).sum() if context.auxiliary_losses else None
        return features

    def _stage_grids(self, images: Tensor) -> tuple[tuple[int, int], ...]:
        grids = self.backbone.grid_sizes((images.shape[-2], images.shape[-1]))
        return tuple(grids[end] for end in self.backbone.stage_ends)

    @torch.no_grad()
    def frozen_tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of normalised images from the backbone alone, without gradient.

        If the method tunes parameters of the backbone, their current values are used.
        """
        tokens = self.backbone.encode(images)
        return tokens[:, self.backbone.num_prefix_tokens :]

    def _sublayer(self, index: int, position: Position, tokens: Streams, context: ForwardContext) -> Streams:
        """Add a frozen residual branch and the method's update; both streams are read before either is updated."""
        context.tokens = tokens
        if position == "attention":
            whole, layers = self.backbone.attention, self.backbone.attention_layers
        else:
            whole, layers = self.backbone.ffn, self.backbone.ffn_layers
        branches = self._part(index, partial(whole, index), partial(layers, index), tokens, context)
        besides = (
            self.adapters.residual_update(index, position, tokens, branches, context)
            if self.adapters is not None
            else {}
        )
        updated = {}
        for stream, x in tokens.items():
            x = x + branches[stream]
            updated[stream] = x + besides[stream] if stream in besides else x
        return updated

    def _part(
        self,
        block: int | None,
        whole: Callable[[Tensor], Tensor],
        layers: Callable[[Tensor], Layers],
        inputs: Streams,
        context: ForwardContext,
        *,
        together: bool = True,
    ) -> Streams:
        """Run a part of the backbone: as a whole, or layer by layer if the method intercepts layers."""
        edits = self.adapters.intercepted_layers(block) if self.adapters is not None else frozenset()
        if not edits:
            return _each(whole, inputs) if together else {stream: whole(x) for stream, x in inputs.items()}
        joined = _alike(inputs)
        parts = [layers(x) for x in ([torch.cat(list(inputs.values()))] if joined else inputs.values())]
        operations = [next(part) for part in parts]
        while True:
            outputs = self._outputs(operations, list(inputs), edits, context)
            ended = []
            for index, part in enumerate(parts):
                try:
                    operations[index] = part.send(outputs[index])
                except StopIteration as end:
                    ended.append(end.value)
            if ended:
                return dict(zip(inputs, ended[0].chunk(2) if joined else ended, strict=True))

    def _outputs(
        self, operations: list[FrozenLayer], streams: list[Stream], edits: frozenset[str], context: ForwardContext
    ) -> list[Tensor]:
        """Apply one frozen layer, or let the method apply it: per stream, or to both streams as one batch."""
        first = operations[0]
        if self.adapters is None or first.name not in edits:
            return [operation.layer(operation.tokens) for operation in operations]
        if len(operations) == len(streams):
            found = self.adapters.apply_layer(dict(zip(streams, operations, strict=True)), context)
            return [found[stream] for stream in streams]
        halves = zip(streams, first.tokens.chunk(2), strict=True)
        found = self.adapters.apply_layer({stream: replace(first, tokens=x) for stream, x in halves}, context)
        return [torch.cat([found[stream] for stream in streams])]


def chosen_blocks(layers: str | list[int], num_blocks: int) -> list[int]:
    """Return block indices of `all`, `first k`, `last k` or an explicit list, or raise LavishError."""
    blocks = list(range(num_blocks))
    if layers == "all":
        return blocks
    if isinstance(layers, str):
        which, count = layers.split()
        if int(count) > num_blocks:
            raise LavishError(f"fusion.layers: '{layers}', but the backbone has {num_blocks} blocks")
        return blocks[: int(count)] if which == "first" else blocks[-int(count) :]
    unknown = sorted(set(layers) - set(blocks))
    if unknown:
        raise LavishError(f"fusion.layers: no block {unknown[0]}; the backbone has blocks 0 to {num_blocks - 1}")
    return sorted(set(layers))


def _each(function: Callable[[Tensor], Tensor], tokens: Streams) -> Streams:
    """Apply a frozen layer to each stream, as one batch if both have the same number of tokens."""
    if _alike(tokens):
        return dict(zip(tokens, function(torch.cat(list(tokens.values()))).chunk(2), strict=True))
    return {stream: function(x) for stream, x in tokens.items()}


def _alike(tokens: Streams) -> bool:
    """Return whether both streams exist and can pass through the backbone as one batch."""
    shapes = [x.shape for x in tokens.values()]
    return len(shapes) == 2 and shapes[0] == shapes[1]
