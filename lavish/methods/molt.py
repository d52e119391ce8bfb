"""MoLT: latent tokens distilled from a frozen encoder's late layers and fused beside it.

Rho et al., "MoLT: Mixture of Layer-Wise Tokens for Efficient Audio-Visual Learning", 2025 (arXiv 2512.00115).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods._shared.late_steps import late_steps
from lavish.methods.base import Method
from lavish.models.interfaces import Blocks, ForwardContext, MethodContext, Stream, Streams, other_stream

if TYPE_CHECKING:
    from lavish.models.interfaces import StreamFeatures


def _read(queries: Tensor, keys: Tensor) -> Tensor:
    """Return q + softmax(q k^T / sqrt(d)) k for q (B, M, d) and k (B, N, d)."""
    keys = keys.unsqueeze(1)
    return queries + functional.scaled_dot_product_attention(queries.unsqueeze(1), keys, keys).squeeze(1)


class _Distil(nn.Module):
    """Distils one late block of one stream: the latent tokens of both adapters and the router between them."""

    def __init__(self, hidden: int, latents: int, cross_modal: bool) -> None:
        super().__init__()
        self.unimodal = nn.Parameter(torch.randn(latents, hidden))
        self.cross_modal = nn.Parameter(torch.randn(latents, hidden)) if cross_modal else None
        self.router = nn.Linear(2 * hidden, 2) if cross_modal else None

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Return the layer's tokens (B, M, d) from this and the other stream's, (B, N, d)."""
        unimodal = _read(self.unimodal.expand(len(own), -1, -1), own)
        if self.cross_modal is None or self.router is None:
            return unimodal
        cross_modal = _read(_read(self.cross_modal.expand(len(own), -1, -1), other), own)
        summary = torch.cat([unimodal.mean(dim=1), cross_modal.mean(dim=1)], dim=1)
        share = self.router(summary).softmax(dim=1)[:, :, None, None]
        return share[:, 0] * unimodal + share[:, 1] * cross_modal


class _Fusion(nn.Module):
    """Weights the layers' tokens (B, K, M, d) by importance and adds them to the features.

    Each token of the image queries them with its projection in the last block, (B, N, d).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Linear(hidden, 1, bias=False)  # a bias would be the same for all layers
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, layers: Tensor, last: Tensor, features: StreamFeatures) -> StreamFeatures:
        importance = self.score(layers.mean(dim=2)).softmax(dim=1)
        fused = (importance.unsqueeze(3) * layers).sum(dim=1)
        keys = fused.unsqueeze(1)
        read = functional.scaled_dot_product_attention(last.unsqueeze(1), keys, keys)
        tokens = features.tokens + self.up(read.squeeze(1))
        pooled = features.pooled + self.up(fused.mean(dim=1))
        return dataclasses.replace(features, pooled=pooled, tokens=tokens, stages=(*features.stages[:-1], tokens))


class Molt(Method):
    """Latent tokens attend to the late blocks' outputs of both streams; nothing is inserted into the frozen encoder.

    Our reading throughout, of the abstract and of summaries, which give no equations. They say that the encoder runs
    without insertions; that unimodal and cross-modal adapters at late layers distil its output into a few latent
    tokens; that a router weights the two; that a fusion module weights the layers by importance; and that latent
    tokens are kept orthogonal in training. With x_l, y_l the outputs of a late block l in both streams and
    R(q, k) = q + softmax(q k^T / sqrt(d)) k:

        k_l = W_l LN(x_l), likewise k'_l of the other stream                                C -> d
        u_l = R(m_l, k_l),   v_l = R(R(n_l, k'_l), k_l)                 m_l, n_l: M latent tokens, from N(0, 1)
        t_l = a u_l + b v_l,   (a, b) = softmax( router([mean u_l ; mean v_l]) )
        t   = sum_l softmax_l( s . mean t_l ) t_l
        pooled feature += U mean t,   each token += U softmax( k_L t^T / sqrt(d) ) t      L: last block; U = 0 at first
        loss += weight x mean squared cosine between different tokens of a layer t_l, averaged over layers and streams

    No gradient enters the encoder: its outputs are detached. Only the tokens of the last stage change; heads that use
    earlier stages see the frozen backbone. A stream that may not read the other has t_l = u_l and no router.

    Options, all of them ours:
        layers: number of the backbone's last blocks that are read; by default a third, at least two. `fusion.layers`
            may exclude some. Of two backbones, blocks that run side by side.
        latents: M.
        reduction: d is the width of the visual backbone's features divided by it, the same in all blocks.
        orthogonality: weight of the auxiliary loss.
    """

    cross_modal = True
    budget_option = "reduction"
    search_space = {
        "lr_adapter": ("log", 0.25, 32.0),
        "reduction": ("choices", 2, 4, 8),
        "orthogonality": ("log", 0.01, 1.0),
    }

    def __init__(
        self,
        context: MethodContext,
        *,
        layers: int | None = None,
        latents: int = 4,
        reduction: int = 4,
        orthogonality: float = 0.1,
    ) -> None:
        super().__init__()
        if latents < 1:
            raise LavishError(f"adapter.options.latents: {latents} should be at least 1")
        if orthogonality < 0:
            raise LavishError(f"adapter.options.orthogonality: {orthogonality} must not be negative")
        self.steps = late_steps(layers, context)
        if any(block != context.backbones[stream].num_blocks - 1 for stream, block in self.steps[-1].items()):
            raise LavishError("fusion.layers: method 'molt' adds to the output of the last block: include it")
        self.orthogonality = orthogonality if latents > 1 else 0.0
        hidden = hidden_width(context.backbones[context.streams[0]].feature_dim, reduction)
        self.down = nn.ModuleDict()
        self.distil = nn.ModuleDict()
        self.fusion = nn.ModuleDict()
        for stream, backbone in context.backbones.items():
            for block in (blocks[stream] for blocks in self.steps):
                width = backbone.widths[block]
                self.down[f"{block}_{stream}"] = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden))
                self.distil[f"{block}_{stream}"] = _Distil(hidden, latents, stream in context.readers)
            self.fusion[stream] = _Fusion(backbone.feature_dim, hidden)

    def after_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        if blocks in self.steps:
            names = {stream: f"{block}_{stream}" for stream, block in blocks.items()}
            keys: Streams = {stream: self.down[names[stream]](x.detach()) for stream, x in tokens.items()}
            for stream, own in keys.items():
                layer = self.distil[names[stream]](own, keys.get(other_stream(stream), own))
                context.cache.setdefault(stream, []).append(layer)
            context.cache["last"] = keys
        return tokens

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        layers: Streams = {stream: torch.stack(context.cache[stream], dim=1) for stream in features}
        if self.training and self.orthogonality:
            every = torch.stack(list(layers.values()))
            context.auxiliary_losses.append(self.orthogonality * _overlap(every))
        last = context.cache["last"]
        return {stream: self.fusion[stream](layers[stream], last[stream], given) for stream, given in features.items()}


def _overlap(tokens: Tensor) -> Tensor:
    """Return the mean squared cosine between different tokens of the M tokens (..., M, d)."""
    unit = functional.normalize(tokens.float(), dim=-1)
    cosines = unit @ unit.transpose(-1, -2)
    count = tokens.shape[-2]
    others = cosines.square() * (1 - torch.eye(count, device=tokens.device))
    return others.sum(dim=(-1, -2)).mean() / (count * (count - 1))
