"""CoLA: low-rank updates of frozen weights, partly generated from the other stream.

"CoLA: Cross-Modal Low-rank Adaptation for Multimodal Downstream Tasks", ICML 2026 (arXiv 2604.03314), and the public
code.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Method
from lavish.models.backbones.base import FrozenLayer, LayerName
from lavish.models.interfaces import ForwardContext, MethodContext, Stream, Streams, other_stream

_LAYERS: tuple[LayerName, ...] = ("qkv", "proj", "fc1", "fc2")


class _HyperNetwork(nn.Module):
    """Phi(c): maps a descriptor (B, d) of the other stream to a matrix (B, r, r) for each part of a layer.

    The parts (q, k and v; one elsewhere) have their own weights and are computed in one batch.
    """

    def __init__(self, parts: int, width: int, hidden: int, rank: int) -> None:
        super().__init__()
        self.parts, self.rank = parts, rank
        self.down = nn.Linear(width, parts * hidden)
        self.norm_weight = nn.Parameter(torch.ones(parts, hidden))
        self.norm_bias = nn.Parameter(torch.zeros(parts, hidden))
        self.up_weight = nn.Parameter(_uniform(parts, hidden, rank * rank, inputs=hidden))
        self.up_bias = nn.Parameter(_uniform(parts, 1, rank * rank, inputs=hidden))
        self.matrix_weight = nn.Parameter(torch.ones(parts, rank, rank))
        self.matrix_bias = nn.Parameter(torch.zeros(parts, rank, rank))

    def forward(self, descriptor: Tensor) -> Tensor:
        hidden = functional.gelu(self.down(descriptor)).unflatten(1, (self.parts, -1))
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], eps=1e-6) * self.norm_weight + self.norm_bias
        matrix = torch.baddbmm(self.up_bias, hidden.transpose(0, 1), self.up_weight).transpose(0, 1)
        matrix = functional.layer_norm(matrix, matrix.shape[-1:], eps=1e-6).unflatten(2, (self.rank, self.rank))
        return matrix * self.matrix_weight + self.matrix_bias


class _Update(nn.Module):
    """The update of one frozen linear layer; q, k and v are parts with their own matrices.

    (alpha / r) B1 A1 x, plus lambda B2 Phi(c) A2 x if there is a hyper-network.
    """

    def __init__(self, parts: int, widths: tuple[int, int], rank: int, scale: float, hyper: nn.Module | None) -> None:
        super().__init__()
        self.rank, self.scale = rank, scale
        self.hyper = hyper
        ranks = rank if hyper is None else 2 * rank  # A1 above A2, B1 beside B2
        self.down = nn.Parameter(_uniform(parts, ranks, widths[0], inputs=widths[0]))
        self.up = nn.Parameter(torch.zeros(parts, widths[1] // parts, ranks))
        self.cross_scale = None if hyper is None else nn.Parameter(torch.empty(parts, 1, 1))

    def forward(self, tokens: Tensor, descriptor: Tensor | None) -> Tensor:
        low = functional.linear(tokens, self.down.flatten(0, 1)).unflatten(2, self.down.shape[:2])  # (B, N, parts, r)
        if self.hyper is None:
            low = self.scale * low
        else:
            own, conditioned = low.split(self.rank, dim=3)
            # lambda scales the r x r matrix, which is cheaper than scaling all tokens.
            matrix = self.cross_scale * self.hyper(descriptor)
            conditioned = (conditioned.transpose(1, 2) @ matrix.transpose(2, 3)).transpose(1, 2)
            low = torch.cat([self.scale * own, conditioned], dim=3)
        parts = [functional.linear(x, up) for x, up in zip(low.unbind(2), self.up, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class Cola(Method):
    """Two low-rank updates of every linear layer of the chosen blocks: LoRA's, and one conditioned on the other stream.

        out = W x + b + (alpha / r) B1 A1 x + lambda B2 Phi(c) A2 x
        Phi(c) = LN( reshape_{r x r}( W_up LN( GELU( W_down c ) ) ) )          W_down: d -> d / gamma, W_up: -> r^2

    on q, k, v (each with its own matrices and hyper-network), the projection after attention and both layers of the
    feed-forward network. c (d) describes the same segment of the other stream: its class token, or the mean of its
    tokens if its backbone has none, at the same layer: the residual stream before attention for q, k and v, attention's
    output for the projection, the residual stream after attention for the feed-forward network. B1 and B2 are
    initialised with zero, A1 and A2 Kaiming-uniform; lambda, one scalar per linear layer, is trained. A stream that may
    not read the other has the first update only: LoRA on all linear layers. So have, as published, the blocks of a
    deeper backbone that run without a partner.

    Published for two separate encoders. Sharing one is ours: the streams share the frozen weights and have their own
    updates.

    Options, with the published settings:
        rank: r, of both updates (16).
        alpha: numerator of the first update's scale (8, hence a scale of 0.5; the published LoRA baseline of
            segmentation has 84, probably a typing error).
        reduction: gamma; the hidden width of the hyper-network is d / gamma (16).
        cross_scale: initial value of lambda (0.1).
    """

    cross_modal = True
    budget_option = "rank"
    search_space = {
        "lr_adapter": ("log", 0.0625, 8.0),
        "rank": ("choices", 4, 8, 16),
        "cross_scale": ("log", 0.03, 1.0),
    }

    def __init__(
        self,
        context: MethodContext,
        *,
        rank: int = 16,
        alpha: float = 8.0,
        reduction: int = 16,
        cross_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise LavishError(f"adapter.options.rank: {rank} should be at least 1")
        self.updates = nn.ModuleDict()
        for blocks, name in product(context.steps, _LAYERS):
            parts = 3 if name == "qkv" else 1
            weights = {stream: context.backbones[stream].linear(block, name)[0] for stream, block in blocks.items()}
            for stream, block in blocks.items():
                hyper, other = None, other_stream(stream)
                if stream in context.readers and other in blocks:
                    # What enters the projection may have another width than the residual stream.
                    read = weights[other].shape[1] if name == "proj" else context.backbones[other].widths[blocks[other]]
                    hyper = _HyperNetwork(parts, read, hidden_width(read, reduction), rank)
                widths = (weights[stream].shape[1], weights[stream].shape[0])
                self.updates[f"{block}_{name}_{stream}"] = update = _Update(parts, widths, rank, alpha / rank, hyper)
                if update.cross_scale is not None:
                    nn.init.constant_(update.cross_scale, cross_scale)
        self._blocks = {stream: frozenset(context.blocks(stream)) for stream in context.streams}

    def intercepted_layers(self, stream: Stream, block: int | None) -> frozenset[str]:
        return frozenset(_LAYERS) if block in self._blocks[stream] else frozenset()

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        outputs = super().apply_layer(layers, context)
        for stream, frozen in layers.items():
            update = self.updates[f"{frozen.block}_{frozen.name}_{stream}"]
            descriptor = None
            if update.hyper is not None:
                other = other_stream(stream)
                source = layers[other].tokens if frozen.name == "proj" else context.tokens[other]
                has_class_token = context.backbones[other].num_prefix_tokens
                descriptor = source[:, 0] if has_class_token else source.mean(dim=1)
            outputs[stream] = outputs[stream] + update(frozen.tokens, descriptor)
        return outputs


def _uniform(*shape: int, inputs: int) -> Tensor:
    """Return initial weights as of torch's linear layers: Kaiming-uniform with a = sqrt(5)."""
    return torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5)
