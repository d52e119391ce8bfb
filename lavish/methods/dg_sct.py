"""DG-SCT: the other stream guides attention over this stream's channels, tokens and segments.

Duan et al., "Cross-modal Prompts: Adapting Large Pre-trained Models for Audio-Visual Downstream Tasks", NeurIPS 2023
(arXiv 2311.05152), and the public code, which differs by task.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from lavish.methods._shared.attention import LatentAttention
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods._shared.temporal_gates import build_gates
from lavish.methods._shared.token_map import TokenConvolution, TokenResizing
from lavish.methods.base import AdapterSite, Method, adapter_sites, site_name
from lavish.models.interfaces import Blocks, ForwardContext, MethodContext, Position, Stream, Streams, other_stream

if TYPE_CHECKING:
    from lavish.models.backbones.base import Backbone
    from lavish.models.interfaces import StreamFeatures


class DualGuidedPrompts(Method):
    """An adapter at every sublayer, and temporal gates after the backbone.

        y1 = token map of y                               the other stream, in this stream's number of tokens and width
        x1 = x + g_av softmax(x m'^T) m',  m' = m + softmax(m y1^T) y1        M latent tokens m; g_av starts at 0
        a  = mean over tokens of y1
        mc = sigmoid(W2 ReLU(W1 q)),  q = mean over tokens of ReLU(Wa a) ReLU(Wv x1)             channel attention
        s  = w (ReLU(W'v (x1 (1 + mc))) ReLU(W'a a)),  ms = sigmoid(s),  p = softmax(tanh(s))    token attention
        x2 = x1 (alpha mc + beta ms + 1 - alpha)
        out = g [LN] z of z = [LN] x2 -> C/r -> [BN] -> ReLU -> C -> [BN]        grouped linear maps; g starts at 0

    The p of the last adapter weights the final tokens of its stream instead of the backbone's pooling, and
    ``TemporalGates`` transform the pooled features of a clip's segments.

    Published for two backbones, Swin V2 and HTS-AT, whose blocks are paired; blocks without a partner have no adapters.

    Differences from the paper. (1) Its first adapter of the audio stream is beside the whole block of HTS-AT, the
    second beside nothing; here they are beside attention and feed-forward layer, as in the visual stream. One backbone
    for both streams is ours: every block is paired with itself. (2) A class token is treated as any token, in the token
    map and in p; 'bicubic' passes it on unchanged. Layers that the backbone applies after its pooling are applied after
    p. Without an adapter in the last block, or in a stream that may not read the other, the backbone pools. (3) A
    stream that may not read the other has the bottleneck only, and its decoder after the backbone attends to its own
    query only. (4) Losses on the gates and the head with an event score belong to a task: head and loss are the same
    for all methods. (5) In 'maps', one gate per segment scales all maps; the public code has one for each of four.

    Defects of the public code that are not copied: a layer norm after the gate, which cancels its magnitude (AVS);
    layers, attentions and a scalar that are never used; an audio encoder and a backbone that are trained by mistake.

    Options, with the published settings of AVE, AVQA, AVS-S4, MS3:
        map_tokens: 'convolution' over tokens (N' -> N, trained; all but S4) or 'bicubic' resizing (S4).
        latents: number M of latent tokens (32, 2, 32, 32).
        latent_init: 'uniform' on [0, 1) (AVE), or 'zeros', with which they stay identical (AVQA, AVS).
        alpha, beta: weights of channel and token attention (0.3, 0.05; MS3: 0.2, 0.1).
        reduction, groups: r and the groups of the bottleneck's linear maps (8, 8, 8, 2 and 2, 4, 2, 2).
        batch_norm: batch norms inside the bottleneck, over batch and tokens (yes, no, no, no).
        norm_before, norm_after: layer norms around the bottleneck (both; both; after; after).
        gate: the streams with an output gate g ('both', 'visual', 'visual', 'visual').
        temporal_gates: 'features' (AVE), 'none' (AVQA), or 'maps' (AVS); see ``TemporalGates``. It must suit the
            task: 'features' stays untrained if the head does not use pooled features, as for segmentation.
        temporal_width: width d of the temporal gates, a multiple of 4 (256).
        gamma: weight of the temporal gates (0.1, none, 0.05, 0.1).
    """

    cross_modal = True
    temporal = True
    search_space = {"lr_adapter": ("log", 0.0625, 8.0), "gamma": ("log", 0.01, 0.5)}

    def __init__(
        self,
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
        for site in adapter_sites(context):
            if site.alone:
                continue
            if site.cross_modal:
                guide = Guide(site, map_tokens, latents, latent_init, alpha=alpha, beta=beta)
                self.add_module(f"{site.name}_guide", guide)
            bottleneck = GatedBottleneck(
                site.width,
                reduction=reduction,
                groups=groups,
                batch_norm=batch_norm,
                norm_before=norm_before,
                norm_after=norm_after,
                activation=True,
                gated=gate == "both" or site.stream == "visual",
            )
            self.add_module(site.name, bottleneck)
        self.temporal_gates = build_gates(temporal_gates, context, width=temporal_width, gamma=gamma)

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        updates: Streams = {}
        for stream, x in tokens.items():
            site = site_name(blocks[stream], position, stream)
            bottleneck, guide = self._modules.get(site), self._modules.get(f"{site}_guide")
            if guide is not None:
                x, context.cache[f"weights_{site}"] = guide(x, tokens[other_stream(stream)])
            if bottleneck is not None:
                updates[stream] = bottleneck(x)
        return updates

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        pooled = {}
        for stream, whole in features.items():
            backbone = context.backbones[stream]
            weights = context.cache.get(f"weights_{site_name(backbone.num_blocks - 1, 'ffn', stream)}")
            pooled[stream] = _pooled(whole, weights, backbone)
        return self.temporal_gates(pooled, context.segments)

    def feature_dim(self, stream: Stream, backbone: Backbone) -> int:
        return self.temporal_gates.feature_dims[stream]


class Guide(nn.Module):
    """The adapter before its bottleneck: x2 and p of the method's equations."""

    def __init__(
        self,
        site: AdapterSite,
        map_tokens: Literal["convolution", "bicubic"],
        latents: int,
        latent_init: Literal["uniform", "zeros"],
        *,
        alpha: float,
        beta: float,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = alpha, beta
        width, half = site.width, site.width // 2
        self.token_map: nn.Module
        if map_tokens == "convolution":
            self.token_map = TokenConvolution(width, site.other_width, site.tokens, site.other_tokens)
        else:
            self.token_map = TokenResizing(width, site.other_width, site.grid, site.other_grid)
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
    """Pool the final tokens with the weights p (B, N, 1), if there are any."""
    if weights is None:
        return features
    mean = weights.transpose(1, 2) @ features.tokens
    # Pooling identical tokens returns that token, however the backbone pools, then applies the layers after pooling.
    return replace(features, pooled=backbone.pool(mean.expand(-1, backbone.num_prefix_tokens + 1, -1)))
