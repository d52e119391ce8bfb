"""AVMoE: a router mixes cross-modal and unimodal adapters.

Cheng et al., "Mixture of Experts for Audio-Visual Learning", NeurIPS 2024 (OpenReview SNmuKbU0am), and the public
code, which differs by task.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import LatentAttention, MultiHeadAttention
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods._shared.temporal_gates import build_gates
from lavish.methods._shared.token_map import TokenConvolution
from lavish.methods.base import AdapterSite, Method, adapter_sites, site_name
from lavish.models.interfaces import Blocks, ForwardContext, MethodContext, Position, Stream, Streams, other_stream

if TYPE_CHECKING:
    from lavish.models.backbones.base import Backbone
    from lavish.models.interfaces import StreamFeatures


class AudioVisualExperts(Method):
    """A dense mixture of experts at every sublayer, and temporal gates after the backbone.

        y1 = Lin(W y + b)                              the other stream, in this stream's number of tokens and width
        pi = softmax(MLP([mean x ; mean y1]))          one weight per expert and image; MLP 2C -> 128 -> 32 -> E
        cross-modal expert: x' = x + g_av softmax(x m'^T) m',  m' = m + softmax(m y1^T) y1;  z of x' with ReLU
        unimodal expert:    x' = x, or attention to this stream (below);  z of x' without ReLU
        z   = [LN] x' -> C/r -> [BN] -> [ReLU] -> C -> [BN] -> [LN]        grouped linear maps
        out = sum over experts of pi_e g_e z_e         all experts run; g_e and g_av start at 0

    After the backbone, ``TemporalGates`` transform the pooled features of a clip's segments.

    Published for two backbones, Swin V2 and HTS-AT, whose blocks are paired; blocks without a partner have no experts.

    Differences from the paper. (1) The places of the audio stream's experts are those of ``DualGuidedPrompts``. One
    backbone for both streams is ours: every block is paired with itself. (2) The stages are the backbone's; a plain ViT
    is divided into quarters. (3) A stream that may not read the other has unimodal experts only, routed by its own
    mean. A single expert has no router. (4) Head and loss are the same for all methods. (5) The paper's unimodal expert
    uses self-attention, the code of AVE and AVQA does not: see `unimodal_attention`.

    Defects of the public code that are not copied: self-attention over the frames of a batch instead of over tokens
    ('heads' here); a target of 1 instead of 1/E in the balancing loss; initial weights from another method that were
    selected on the test split.

    Options, with the published settings of AVE, AVQA, AVS-S4, MS3:
        cross_experts, unimodal_experts: how many (1, 1, 1, 2 and 1, 2, 1, 2).
        skip: every `skip`-th stage, counted from 1, has no adapters; 1 skips none (2, 1, 1, 2).
        latents: number M of latent tokens (32, 2, 32, 32).
        reduction, groups: r and the groups of the bottlenecks' linear maps (8, 8, 8, 2 and 2, 4, 2, 2).
        batch_norm: batch norms inside the bottleneck, over batch and tokens (yes, no, no, no).
        norm_before, norm_after: layer norms around the bottleneck.
        gate: the streams with gates g_e ('both', 'visual', 'visual', 'visual').
        unimodal_attention: attention of unimodal experts ('none', 'none', 'heads', 'latent'): 'heads' replaces x by
            self-attention with four heads and dropout 0.2; 'latent' is the cross-modal attention with y1 = x.
        balance: weight of the auxiliary loss, KL(uniform || mean of pi over a batch) summed over all mixtures
            (0, 0, 0, 0.01).
        router_noise: standard deviation of the noise on the router's logits in training (0, 0, 0.01, 0.01).
        temporal_gates: 'features' (AVE), 'none' (AVQA), or 'maps' (AVS); see ``TemporalGates``. It must suit the
            task: 'features' stays untrained if the head does not use pooled features, as for segmentation.
        temporal_width, gamma: width d of the temporal gates, a multiple of 4, and their weight (256, 0.1).
    """

    cross_modal = True
    temporal = True
    search_space = {"lr_adapter": ("log", 0.0625, 8.0), "gamma": ("log", 0.01, 0.5)}

    def __init__(
        self,
        context: MethodContext,
        *,
        cross_experts: int = 1,
        unimodal_experts: int = 1,
        skip: int = 2,
        latents: int = 32,
        reduction: int = 8,
        groups: int = 2,
        batch_norm: bool = True,
        norm_before: bool = True,
        norm_after: bool = True,
        gate: Literal["both", "visual"] = "both",
        unimodal_attention: Literal["none", "heads", "latent"] = "none",
        balance: float = 0.0,
        router_noise: float = 0.0,
        temporal_gates: Literal["features", "maps", "none"] = "features",
        temporal_width: int = 256,
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        if min(cross_experts, unimodal_experts) < 0 or cross_experts + unimodal_experts == 0 or skip < 1:
            raise LavishError(
                f"adapter.options: cross_experts={cross_experts}, unimodal_experts={unimodal_experts} and skip={skip}: "
                "give at least one expert, and a skip of 1 (no stage skipped) or more"
            )
        if balance < 0 or router_noise < 0:
            raise LavishError(f"adapter.options: balance={balance}, router_noise={router_noise}: give 0 or more")
        self.balance = balance
        for site in adapter_sites(context):
            ends = context.backbones[site.stream].stage_ends
            stage = 1 + next(index for index, end in enumerate(ends) if site.block <= end)
            kinds = [*([True] * cross_experts if site.cross_modal else []), *[False] * unimodal_experts]
            if site.alone or not kinds or (skip > 1 and stage % skip == 0):
                continue
            bottleneck = partial(
                GatedBottleneck,
                site.width,
                reduction=reduction,
                groups=groups,
                batch_norm=batch_norm,
                norm_before=norm_before,
                norm_after=norm_after,
                gated=gate == "both" or site.stream == "visual",
            )
            experts = []
            for cross_modal in kinds:
                attention: nn.Module | None = None
                if cross_modal or unimodal_attention == "latent":
                    attention = LatentAttention(site.width, latents)
                elif unimodal_attention == "heads":
                    attention = MultiHeadAttention(site.width, heads=4, dropout=0.2)
                experts.append(Expert(attention, bottleneck(activation=cross_modal), cross_modal=cross_modal))
            self.add_module(site.name, Mixture(site, experts, router_noise))
        self.temporal_gates = build_gates(temporal_gates, context, width=temporal_width, gamma=gamma)

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        updates: Streams = {}
        for stream, x in tokens.items():
            mixture = self._modules.get(site_name(blocks[stream], position, stream))
            if mixture is not None:
                updates[stream], imbalance = mixture(x, tokens.get(other_stream(stream)))
                if self.training and self.balance and imbalance is not None:
                    context.auxiliary_losses.append(self.balance * imbalance)
        return updates

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        return self.temporal_gates(features, context.segments)

    def feature_dim(self, stream: Stream, backbone: Backbone) -> int:
        return self.temporal_gates.feature_dims[stream]


class Expert(nn.Module):
    """Attention, if any, then the gated bottleneck."""

    def __init__(self, attention: nn.Module | None, bottleneck: GatedBottleneck, *, cross_modal: bool) -> None:
        super().__init__()
        self.cross_modal, self.attention, self.bottleneck = cross_modal, attention, bottleneck

    def forward(self, tokens: Tensor, mapped: Tensor | None) -> Tensor:
        """Return g z (B, N, C) for `tokens` and the other stream `mapped` to their shape, (B, N, C) both."""
        if self.attention is not None:
            tokens = self.attention(tokens, mapped if self.cross_modal else tokens)
        return self.bottleneck(tokens)


class Mixture(nn.Module):
    """The experts of one site and their router."""

    def __init__(self, site: AdapterSite, experts: list[Expert], noise: float) -> None:
        super().__init__()
        self.noise, width = noise, site.width
        reads_other = site.cross_modal and (len(experts) > 1 or experts[0].cross_modal)
        self.token_map = (
            TokenConvolution(width, site.other_width, site.tokens, site.other_tokens) if reads_other else None
        )
        self.experts = nn.ModuleList(experts)
        inputs = 2 * width if reads_other else width
        self.router = (
            nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, len(experts)))
            if len(experts) > 1
            else None
        )

    def forward(self, tokens: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the update (B, N, C), and KL(uniform || mean of pi over B) if there is a router."""
        mapped = None if self.token_map is None else self.token_map(other)
        updates = [expert(tokens, mapped) for expert in self.experts]
        if self.router is None:
            return updates[0], None
        means = [x.mean(dim=1) for x in (tokens, mapped) if x is not None]
        logits = self.router(torch.cat(means, dim=-1)).float()
        if self.training and self.noise:
            logits = logits + self.noise * torch.randn_like(logits)
        weights = logits.softmax(dim=-1)[..., None, None].unbind(dim=1)
        out = sum(weight * update for weight, update in zip(weights, updates, strict=True))
        # In the logarithmic domain, so that the loss stays finite for an expert with a weight of zero.
        mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
        return out, -mean.mean() - math.log(len(updates))
