"""DG-SCT: the other stream guides which channels, tokens and segments of this one count.

Duan et al., "Cross-modal Prompts: Adapting Large Pre-trained Models for Audio-Visual Downstream Tasks", NeurIPS 2023
(arXiv 2311.05152), and the public code, which differs by task.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor, nn

from lavish.methods._shared.attention import LatentAttention
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods._shared.temporal_gates import OTHER, build_gates
from lavish.methods._shared.token_map import TokenConvolution, TokenResizing
from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.models.interfaces import Position, Stream, Streams

if TYPE_CHECKING:
    from lavish.models.backbones.base import Backbone
    from lavish.models.interfaces import StreamFeatures


class DualGuidedPrompts(Method):
    """An adapter beside every sublayer, and gates over the segments of a clip after the backbone.

        y1 = token map of y                               the other stream, in this one's number of tokens and width
        x1 = x + g_av softmax(x m'^T) m',  m' = m + softmax(m y1^T) y1        M latent tokens m; g_av starts at 0
        a  = mean over tokens of y1
        mc = sigmoid(W2 ReLU(W1 q)),  q = mean over tokens of ReLU(Wa a) ReLU(Wv x1)             which channels
        s  = w (ReLU(W'v (x1 (1 + mc))) ReLU(W'a a)),  ms = sigmoid(s),  p = softmax(tanh(s))    which tokens
        x2 = x1 (alpha mc + beta ms + 1 - alpha)
        out = g [LN] z of z = [LN] x2 -> C/r -> [BN] -> ReLU -> C -> [BN]        grouped maps; g starts at 0

    The p of the last adapter weights the final tokens of its stream in place of the backbone's pooling, and
    ``TemporalGates`` turn the pooled features of a clip's segments into those that the head gets.

    Our reading. (1) Published on two backbones, Swin V2 and HTS-AT, whose blocks are paired; here both streams are
    pictures of one, so every block is paired with itself, and the second adapter of the audio stream has a sublayer to
    sit beside. (2) A class token is a token like the others, in the token map and in p; with 'bicubic' it is handed
    over as it is. What the backbone does behind its pooling, it does behind p. Without an adapter in the last block, or
    in a stream that may not read the other, it pools by itself. (3) A stream that may not read the other has the
    bottleneck alone, and its decoder after the backbone reads only its own query. (4) The losses on gates and the head
    with an event score belong to a task: the head and the loss are those of all methods. (5) In 'maps', one gate a segment
    scales all maps, where the code has one for each of four.

    Not copied: LN after the gate, which normalises its size away (AVS); layers, attentions and a scalar that nothing
    calls; an audio encoder and a backbone that are trained by mistake.

    Options, with the published settings of AVE, AVQA, AVS-S4, MS3:
        map_tokens: 'convolution' over tokens (N' -> N, with weights; all but S4) or 'bicubic' resizing (S4).
        latents: number M of latent tokens (32, 2, 32, 32).
        latent_init: 'uniform' on [0, 1) (AVE) or 'zeros', which keeps them identical for ever (AVQA, AVS).
        alpha, beta: weights of channels and tokens (0.3, 0.05; MS3: 0.2, 0.1).
        reduction, groups: of the bottleneck (8, 8, 8, 2 and 2, 4, 2, 2).
        batch_norm: inside the bottleneck, over batch and tokens (yes, no, no, no).
        norm_before, norm_after: layer norms around it (both; both; after; after).
        gate: which streams have the output gate g ('both', 'visual', 'visual', 'visual').
        temporal_gates: 'features' (AVE), 'none' (AVQA), or 'maps' (AVS); see ``TemporalGates``. It has to suit the
            task: a head that reads no pooled features, as that of masks, leaves 'features' untrained.
        temporal_width: their width d (256), a multiple of 4.
        gamma: their weight (0.1, none, 0.05, 0.1).
    """

    cross_modal = True
    temporal = True

    def __init__(
        self,
        backbone: Backbone,
        context: MethodContext,
        *,
        map_tokens: Literal["convolution", "bicubic"] = "convolution",
        latents: int = 32,
        latent_init: Literal["uniform", "zeros"] = "uniform",
        alpha: float = 0.3,
        beta: float = 0.05,
        reduction: int = 8,
        groups: int = 2,
        batch_norm: bool = True,
        norm_before: bool = True,
        norm_after: bool = True,
        gate: Literal["both", "visual"] = "both",
        temporal_gates: Literal["features", "maps", "none"] = "features",
        temporal_width: int = 256,
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        for block, position, stream in product(context.blocks, get_args(Position), context.streams):
            width, other, site = backbone.widths[block], OTHER[stream], f"{block}_{position}_{stream}"
            if stream in context.readers:
                mapped: nn.Module
                if map_tokens == "convolution":
                    counts = context.tokens
                    mapped = TokenConvolution(width, width, counts[stream][block], counts[other][block])
                else:
                    grids = context.grids
                    mapped = TokenResizing(width, width, grids[stream][block], grids[other][block])
                guide = Guide(width, mapped, latents, latent_init, alpha=alpha, beta=beta)
                self.add_module(f"{site}_guide", guide)
            bottleneck = GatedBottleneck(
                width,
                reduction=reduction,
                groups=groups,
                batch_norm=batch_norm,
                norm_before=norm_before,
                norm_after=norm_after,
                activation=True,
                gated=gate == "both" or stream == "visual",
            )
            self.add_module(site, bottleneck)
        self.temporal_gates = build_gates(temporal_gates, backbone, context, width=temporal_width, gamma=gamma)

    def residual_update(
        self, block: int, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        updates: Streams = {}
        for stream, x in tokens.items():
            bottleneck = self._modules.get(f"{block}_{position}_{stream}")
            guide = self._modules.get(f"{block}_{position}_{stream}_guide")
            if guide is not None:
                x, context.cache[f"weights_{block}_{position}_{stream}"] = guide(x, tokens[OTHER[stream]])
            if bottleneck is not None:
                updates[stream] = bottleneck(x)
        return updates

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        last = f"weights_{context.backbone.num_blocks - 1}_ffn"
        pooled = {
            stream: _pooled(whole, context.cache.get(f"{last}_{stream}"), context.backbone)
            for stream, whole in features.items()
        }
        return pooled if self.temporal_gates is None else self.temporal_gates(pooled, context.segments)

    def feature_dim(self, backbone: Backbone) -> int:
        gates = self.temporal_gates
        return backbone.feature_dim if gates is None or gates.feature_dim is None else gates.feature_dim


class Guide(nn.Module):
    """x2 and p of the method's equations: what an adapter does before its bottleneck."""

    def __init__(
        self,
        width: int,
        token_map: nn.Module,
        latents: int,
        latent_init: Literal["uniform", "zeros"],
        *,
        alpha: float,
        beta: float,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        half = width // 2
        self.token_map = token_map
        self.latents = LatentAttention(width, latents, latent_init)
        self.channel_other, self.channel_own = nn.Linear(width, width), nn.Linear(width, width)
        self.channel_score = nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, width), nn.Sigmoid())
        self.token_other, self.token_own = nn.Linear(width, half), nn.Linear(width, half)
        self.token_score = nn.Linear(half, 1)

    def forward(self, tokens: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return x2 (B, N, C) and p (B, N, 1) for this stream's `tokens` (B, N, C) and the `other`'s (B, N', C')."""
        mapped = self.token_map(other)
        x = self.latents(tokens, mapped)
        summary = mapped.mean(dim=1, keepdim=True)
        joined = self.channel_other(summary).relu() * self.channel_own(x).relu().mean(dim=1, keepdim=True)
        channels = self.channel_score(joined)
        scores = self.token_score(self.token_own(x * (1 + channels)).relu() * self.token_other(summary).relu())
        x = x * (self.alpha * channels + self.beta * scores.sigmoid() + (1 - self.alpha))
        return x, scores.tanh().softmax(dim=1)


def _pooled(features: StreamFeatures, weights: Tensor | None, backbone: Backbone) -> StreamFeatures:
    """Pool by the weights p (B, N, 1) of the final tokens, if there are any."""
    if weights is None:
        return features
    mean = weights.transpose(1, 2) @ features.tokens
    # However the backbone pools, of tokens that are all alike it takes that one; what it does to it then is done here.
    return replace(features, pooled=backbone.pool(mean.expand(-1, backbone.num_prefix_tokens + 1, -1)))
