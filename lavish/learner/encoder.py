"""The two-stream encoder: the forward pass of both streams through frozen backbones, side by side.

Both streams, video frames and spectrograms as images, pass through one shared backbone (LAVISH, arXiv 2212.07983,
section 3), or each through its own. A method acts at the hooks that ``lavish/methods/base.py`` lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lavish.errors import LavishError, did_you_mean
from lavish.learner.compiled import compile_modules
from lavish.learner.recompute import Recompute, Recomputed, batch_norms, recompute_insides
from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.methods.registry import build_method
from lavish.models.backbones.base import Backbone, FrozenLayer, Grid
from lavish.models.interfaces import STREAMS, Blocks, Position, Stream, StreamFeatures, Streams
from lavish.models.pairing import pair_blocks

Direction = Literal["both", "a2v", "v2a", "none"]
READERS: dict[Direction, set[Stream]] = {
    "both": {"visual", "audio"},
    "a2v": {"visual"},
    "v2a": {"audio"},
    "none": set(),
}
"""The streams that read the other one, for each direction of fusion."""


class TwoStreamEncoder(nn.Module):
    """The frozen backbones of the streams, and the method that adapts them.

    Args:
        backbone: the frozen transformer of both streams; with `audio_backbone`, of the visual stream.
        audio_backbone: the frozen transformer of the audio stream, if it has its own.
        streams: the streams of the model; with one stream, `backbone` is its own.
        method: name of a method, or 'none'.
        options: options of the method.
        direction, position, arrangement, layers, adapted: see ``lavish.config.schema.FusionConfig``.
        sizes: rows and columns of each stream's images; by default the size that its backbone was built for.
        segments: segments of a clip.
        recompute: what the backward pass computes again instead of keeping it: see ``training.recompute``.
        compiled: compile the method's modules, for a GPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        audio_backbone: Backbone | None = None,
        streams: tuple[Stream, ...] = STREAMS,
        method: str = "lavish",
        options: dict[str, Any] | None = None,
        direction: Direction = "both",
        position: Literal["default", "both", "attention", "ffn"] = "default",
        arrangement: Literal["default", "parallel", "sequential"] = "default",
        layers: str | list[int] = "all",
        adapted: Literal["both", "visual", "audio"] = "both",
        sizes: Mapping[Stream, tuple[int, int]] | None = None,
        segments: int = 1,
        recompute: Recompute = "none",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if audio_backbone is not None:
            self.audio_backbone = audio_backbone
        self.streams = streams
        self.steps = pair_blocks(self.backbones)
        self.auxiliary_loss: Tensor | None = None
        """The method's auxiliary loss of the last forward pass; None for most methods."""
        self.adapters: Method | None = None
        if recompute not in (known := get_args(Recompute)):
            raise LavishError(f"recompute: '{recompute}' is unknown{did_you_mean(recompute, known)}")
        self._recomputed = Recomputed([]) if recompute == "blocks" else None
        if method == "none":
            return
        grids = {s: own.grid_sizes(sizes[s] if sizes else own.image_size) for s, own in self.backbones.items()}
        context = MethodContext(
            backbones=self.backbones,
            readers=frozenset(READERS[direction] if len(streams) == 2 else ()),
            steps=tuple(self.steps[index] for index in chosen_blocks(layers, len(self.steps))),
            tokens={
                s: tuple(own.num_prefix_tokens + rows * columns for rows, columns in grids[s])
                for s, own in self.backbones.items()
            },
            grids=grids,
            segments=segments,
        )
        self.adapters = build_method(method, context, options or {}, position, arrangement, adapted)
        if self._recomputed is not None:
            self._recomputed.norms = batch_norms(self.adapters)
        if compiled:
            compile_modules(self.adapters)
        if recompute == "adapters":
            recompute_insides(self.adapters)
        for stream, own in self.backbones.items():
            for parameter in self.adapters.tuned_parameters(stream, own):
                parameter.requires_grad_(True)

    @property
    def backbones(self) -> dict[Stream, Backbone]:
        """The backbone of each stream: the same object if they share one."""
        own = {"audio": getattr(self, "audio_backbone", self.backbone)}
        return {stream: own.get(stream, self.backbone) for stream in self.streams}

    def feature_dim(self, stream: Stream) -> int:
        """Return the width of a stream's pooled features."""
        backbone = self.backbones[stream]
        return backbone.feature_dim if self.adapters is None else self.adapters.feature_dim(stream, backbone)

    def forward(self, images: dict[Stream, Tensor], segments: int = 1) -> dict[Stream, StreamFeatures]:
        """Encode normalised images (B, channels, H, W) of each stream; row b of both is the same segment of a clip.

        B is clips x `segments`; the segments of a clip are consecutive. Images of one channel, spectrograms, are
        repeated for a backbone that takes three. Without a method, one stream may be encoded alone.
        """
        # If nothing below the head is trained, no activations have to be stored.
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return self._encode(images, segments)

    def _encode(self, images: dict[Stream, Tensor], segments: int) -> dict[Stream, StreamFeatures]:
        method, backbones = self.adapters, {stream: self.backbones[stream] for stream in images}
        context = ForwardContext(backbones, segments)
        inputs = {
            stream: x.expand(-1, backbones[stream].in_channels, -1, -1) if x.shape[1] == 1 else x
            for stream, x in images.items()
        }
        tokens = self._part("embed", dict.fromkeys(images), inputs, context)
        if method is not None:
            tokens = method.after_embedding(tokens, context)
        ends: dict[Stream, list[Tensor]] = {stream: [] for stream in images}
        grids = {s: own.grid_sizes((images[s].shape[-2], images[s].shape[-1])) for s, own in backbones.items()}
        for step in self.steps:
            blocks = {stream: block for stream, block in step.items() if stream in images}
            # A block that runs alone leaves the tokens of the other stream as they are.
            running = {stream: tokens[stream] for stream in blocks}
            here = {stream: grids[stream][block] for stream, block in blocks.items()}
            running = (self._step if self._recomputed is None else self._recomputed_step)(
                blocks, running, here, context
            )
            for stream, x in running.items():
                ends[stream] += [x] * backbones[stream].stage_ends.count(blocks[stream])
            tokens = {**tokens, **running}
        tokens = self._part("final", dict.fromkeys(images), tokens, context)
        features = {
            stream: StreamFeatures(
                backbones[stream].pool(x),
                x,
                (*ends[stream][:-1], x),
                tuple(grids[stream][end] for end in backbones[stream].stage_ends),
            )
            for stream, x in tokens.items()
        }
        if method is not None:
            features = method.transform_features(features, context)
        self.auxiliary_loss = torch.stack(context.auxiliary_losses).sum() if context.auxiliary_losses else None
        return features

    def _step(self, blocks: Blocks, tokens: Streams, grids: dict[Stream, Grid], context: ForwardContext) -> Streams:
        """Run the blocks of one step with the method's hooks."""
        method = self.adapters
        tokens = self._each("enter", blocks, tokens)
        if method is not None:
            tokens = method.before_block(blocks, tokens, context)
        tokens = self._sublayer(blocks, "attention", tokens, grids, context)
        tokens = self._sublayer(blocks, "ffn", tokens, grids, context)
        return tokens if method is None else method.after_block(blocks, tokens, context)

    def _recomputed_step(
        self, blocks: Blocks, tokens: Streams, grids: dict[Stream, Grid], context: ForwardContext
    ) -> Streams:
        """Run :meth:`_step` so that only the tokens that enter it are kept for the backward pass."""
        assert self._recomputed is not None
        before = context.copy()

        def run(*tensors: Tensor) -> tuple[Streams, ForwardContext]:
            own = before.copy()  # when the hooks run again, nobody may see what they leave
            return self._step(blocks, dict(zip(tokens, tensors, strict=True)), grids, own), own

        updated, after = self._recomputed(run, *tokens.values())
        context.cache, context.auxiliary_losses = after.cache, after.auxiliary_losses
        return updated

    @torch.no_grad()
    def frozen_tokens(self, images: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of normalised frames from the visual backbone alone, without gradient.

        If the method tunes parameters of the backbone, their current values are used.
        """
        tokens = self.backbone.encode(images)
        return tokens[:, self.backbone.num_prefix_tokens :]

    def _sublayer(
        self,
        blocks: Blocks,
        position: Position,
        tokens: Streams,
        grids: dict[Stream, Grid],
        context: ForwardContext,
    ) -> Streams:
        """Add frozen residual branches and the method's updates; both streams are read before either is updated."""
        context.tokens = tokens
        branches = self._part(position, blocks, tokens, context, grids)
        besides = (
            self.adapters.residual_update(blocks, position, tokens, branches, context)
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
        name: _Part,
        blocks: Mapping[Stream, int | None],
        inputs: Streams,
        context: ForwardContext,
        grids: Mapping[Stream, Grid] | None = None,
    ) -> Streams:
        """Run a part of the backbones: as a whole, or layer by layer where the method intercepts layers."""
        method = self.adapters
        edits = {s: method.intercepted_layers(s, blocks[s]) if method is not None else frozenset() for s in inputs}
        if not any(edits.values()):
            return self._each(name, blocks, inputs, grids)
        joined = self._alike(inputs, grids) and name != "embed"
        batches = {tuple(inputs): torch.cat(list(inputs.values()))} if joined else {(s,): x for s, x in inputs.items()}
        parts = {
            streams: _call(self.backbones[streams[0]], f"{name}_layers", blocks, streams[0], x, grids)
            for streams, x in batches.items()
        }
        layers = {streams: next(part) for streams, part in parts.items()}
        ended: Streams = {}
        while layers:
            outputs = self._outputs(layers, edits, context)
            for streams, output in outputs.items():
                try:
                    layers[streams] = parts[streams].send(output)
                except StopIteration as end:
                    del layers[streams]
                    ended |= zip(streams, _split(end.value, streams), strict=True)
        return {stream: ended[stream] for stream in inputs}

    def _outputs(
        self, layers: dict[_Batch, FrozenLayer], edits: Mapping[Stream, frozenset[str]], context: ForwardContext
    ) -> dict[_Batch, Tensor]:
        """Apply the next layers: the frozen ones as they are, or those that the method intercepts in all streams."""
        plain = {s: layer.layer(layer.tokens) for s, layer in layers.items() if layer.name not in edits[s[0]]}
        if plain:
            return plain
        if len({layer.name for layer in layers.values()}) > 1:  # pre-norm beside post-norm: a norm goes alone
            layers = {streams: layer for streams, layer in layers.items() if layer.name.startswith("norm")}
        assert self.adapters is not None
        found = self.adapters.apply_layer(
            {
                stream: replace(layer, tokens=x)
                for streams, layer in layers.items()
                for stream, x in zip(streams, _split(layer.tokens, streams), strict=True)
            },
            context,
        )
        return {s: found[s[0]] if len(s) == 1 else torch.cat([found[stream] for stream in s]) for s in layers}

    def _each(
        self,
        name: _Part,
        blocks: Mapping[Stream, int | None],
        inputs: Streams,
        grids: Mapping[Stream, Grid] | None = None,
    ) -> Streams:
        """Run a part of the backbones as a whole, as one batch where the streams are alike."""
        if self._alike(inputs, grids) and name != "embed":
            whole = _call(self.backbone, name, blocks, next(iter(blocks)), torch.cat(list(inputs.values())), grids)
            return dict(zip(inputs, whole.chunk(2), strict=True))
        return {stream: _call(self.backbones[stream], name, blocks, stream, x, grids) for stream, x in inputs.items()}

    def _alike(self, inputs: Streams, grids: Mapping[Stream, Grid] | None) -> bool:
        """Return whether both streams run, and can pass through a shared backbone as one batch."""
        shapes = [x.shape for x in inputs.values()]
        shared = len(set(map(id, self.backbones.values()))) == 1
        same_grid = grids is None or len(set(grids.values())) == 1
        return len(shapes) == 2 and shapes[0] == shapes[1] and shared and same_grid


_Part = Literal["embed", "enter", "attention", "ffn", "final"]
_Batch = tuple[Stream, ...]
"""The streams whose tokens are one batch."""


def _split(batch: Tensor, streams: _Batch) -> tuple[Tensor, ...]:
    """Return the tokens of each stream of a batch; a view of a single one would change the order of gradient sums."""
    return batch.chunk(2) if len(streams) == 2 else (batch,)


def _call(
    backbone: Backbone,
    name: str,
    blocks: Mapping[Stream, int | None],
    stream: Stream,
    x: Tensor,
    grids: Mapping[Stream, Grid] | None,
) -> Any:
    """Run a part of a stream's backbone: outside blocks, of a block, or a sublayer, which takes the grid."""
    block = blocks[stream]
    where = () if block is None else (block,)
    return getattr(backbone, name)(*where, x, *((grids[stream],) if grids else ()))


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
