"""CoLA: low-rank updates of frozen weights, one part of which the other stream sets.

"CoLA: Cross-Modal Low-rank Adaptation for Multimodal Downstream Tasks", ICML 2026 (arXiv 2604.03314), and the public
code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName
from lavish.models.interfaces import Stream, Streams

_LAYERS: tuple[LayerName, ...] = ("qkv", "proj", "fc1", "fc2")


class _HyperNetwork(nn.Module):
    """Phi(c): a descriptor (B, d) of the other stream to a matrix (B, r, r) for each part of a layer.

    The parts (q, k and v; one elsewhere) have weights of their own and are computed side by side.
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
    """What is added to the output of one frozen linear map; q, k and v are parts with matrices of their own.

    (alpha / r) B1 A1 x, and lambda B2 Phi(c) A2 x where there is a hyper-network.
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
            own, crossing = low.split(self.rank, dim=3)
            # lambda times the r x r matrix instead of times all tokens.
            matrix = self.cross_scale * self.hyper(descriptor)
            crossing = (crossing.transpose(1, 2) @ matrix.transpose(2, 3)).transpose(1, 2)
            low = torch.cat([self.scale * own, crossing], dim=3)
        parts = [functional.linear(x, up) for x, up in zip(low.unbind(2), self.up, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class Cola(Method):
    """Two low-rank updates of every linear map of the chosen blocks: one of LoRA, one that the other stream sets.

        out = W x + b + (alpha / r) B1 A1 x + lambda B2 Phi(c) A2 x
        Phi(c) = LN( reshape_{r x r}( W_up LN( GELU( W_down c ) ) ) )          W_down: d -> d / gamma, W_up: -> r^2

    on q, k, v (each with matrices and a hyper-network of its own), the projection behind attention and both maps of the
    feed-forward layer. c describes the picture of the other stream at the same moment: its class token, or the mean of
    its tokens where the backbone has none, as it is at that very point: the residual stream before attention for q, k
    and v, attention's output for the projection, the residual stream after attention for the feed-forward layer. B1 and
    B2 start at zero, A1 and A2 Kaiming-uniform, lambda, one scalar a linear map, is trained. A stream that may not read
    the other keeps the first update alone: LoRA on all linear maps.

    Published between two separate encoders; here both streams share the frozen weights and have updates of their own.
    The published rule for encoders of unequal depth is not needed.

    Options, with the published settings:
        rank: r, of both updates (16).
        alpha: numerator of the first update's scale (8, hence a scale of 0.5; the published LoRA baseline of
            segmentation has 84, which looks like a slip of the pen).
        reduction: gamma, the hyper-network is d / gamma wide (16).
        cross_scale: what lambda starts from (0.1).
    """

    cross_modal = True
    budget_option = "rank"

    def __init__(
        self,
        backbone: Backbone,
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
        for block in context.blocks:
            width = backbone.widths[block]
            for name in _LAYERS:
                weight, _ = backbone.linear(block, name)
                parts = 3 if name == "qkv" else 1
                for stream in context.streams:
                    hyper = None
                    if stream in context.readers:
                        hyper = _HyperNetwork(parts, width, hidden_width(width, reduction), rank)
                    widths = (weight.shape[1], weight.shape[0])
                    self.updates[f"{block}_{name}_{stream}"] = update = _Update(
                        parts, widths, rank, alpha / rank, hyper
                    )
                    if update.cross_scale is not None:
                        nn.init.constant_(update.cross_scale, cross_scale)
        self._edited, self._readers = frozenset(context.blocks), context.readers

    def intercepted_layers(self, block: int | None) -> frozenset[str]:
        return frozenset(_LAYERS) if block in self._edited else frozenset()

    def apply_layer(self, operations: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        outputs = super().apply_layer(operations, context)
        streams = list(operations)
        for own, stream in enumerate(streams):
            operation, other, descriptor = operations[stream], streams[-1 - own], None
            if stream in self._readers:
                source = operations[other].tokens if operation.name == "proj" else context.tokens[other]
                descriptor = source[:, 0] if context.backbone.num_prefix_tokens else source.mean(dim=1)
            update = self.updates[f"{operation.block}_{operation.name}_{stream}"]
            outputs[stream] = outputs[stream] + update(operation.tokens, descriptor)
        return outputs


def _uniform(*shape: int, inputs: int) -> Tensor:
    """Return what torch draws for a linear map of `inputs`: Kaiming-uniform with a = sqrt(5)."""
    return torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5)
