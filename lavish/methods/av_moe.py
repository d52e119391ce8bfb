"""AVMoE: a router mixes adapters that read the other stream with adapters that do not.

Cheng et al., "Mixture of Experts for Audio-Visual Learning", NeurIPS 2024 (OpenReview SNmuKbU0am), and the public
code, which differs by task.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import LatentAttention, MultiHeadAttention
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods._shared.temporal_gates import OTHER, build_gates
from lavish.methods._shared.token_map import TokenConvolution
from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.models.interfaces import Position, Stream, Streams

if TYPE_CHECKING:
    from lavish.models.backbones.base import Backbone
    from lavish.models.interfaces import StreamFeatures


class AudioVisualExperts(Method):
    """A dense mixture of experts beside every sublayer, and gates over the segments of a clip after the backbone.

        y1 = Lin(W y + b)                              the other stream, in this one's number of tokens and width
        pi = softmax(MLP([mean x ; mean y1]))          for each picture, one weight an expert; MLP 2C -> 128 -> 32 -> E
        cross-modal expert: x' = x + g_av softmax(x m'^T) m',  m' = m + softmax(m y1^T) y1;  z of x' with ReLU
        unimodal expert:    x' = x, or reads this stream (below);  z of x' without ReLU
        z   = [LN] x' -> C/r -> [BN] -> [ReLU] -> C -> [BN] -> [LN]        grouped maps
        out = sum over experts of pi_e g_e z_e         every expert runs; g_e and g_av start at 0

    After the backbone, ``TemporalGates`` turn the pooled features of a clip's segments into those that the head gets.

    Our reading. (1) Published on two backbones, Swin V2 and HTS-AT, whose blocks are paired; here both streams are
    pictures of one, and every block is paired with itself. (2) Stages are the backbone's; those of a plain ViT are its
    quarters. (3) A stream that may not read the other has the unimodal experts alone, routed by its own mean; where one
    expert is left, there is nothing to route. (4) Head and loss are those of all methods. (5) The paper's unimodal
    expert attends to itself, the code of AVE and AVQA does not: `unimodal_attention` says which.

    Not copied: self-attention over the frames of a whole batch instead of over tokens ('heads' here); a target of 1
    instead of 1/E in the balancing loss; a start from another method's weights that were chosen on test.

    Options, with the published settings of AVE, AVQA, AVS-S4, MS3:
        cross_experts, unimodal_experts: how many (1, 1, 1, 2 and 1, 2, 1, 2).
        skip: every so many-th stage, counted from 1, has no adapters; 1 leaves none out (2, 1, 1, 2).
        latents: number M of latent tokens (32, 2, 32, 32).
        reduction, groups: of the bottlenecks (8, 8, 8, 2 and 2, 4, 2, 2).
        batch_norm: inside the bottleneck, over batch and tokens (yes, no, no, no).
        norm_before, norm_after: layer norms around it.
        gate: which streams have the gates g_e ('both', 'visual', 'visual', 'visual').
        unimodal_attention: of unimodal experts ('none', 'none', 'heads', 'latent'): 'heads' puts self-attention of four
            heads with dropout 0.2 in place of x; 'latent' is the cross-modal expert's attention with y1 = x.
        balance: weight of the sum over all mixtures of KL(uniform || mean of pi over a batch) (0, 0, 0, 0.01).
        router_noise: deviation of the noise on the router's logits in training (0, 0, 0.01, 0.01).
        temporal_gates: 'features' (AVE), 'none' (AVQA), or 'maps' (AVS); see ``TemporalGates``. It has to suit the
            task: a head that reads no pooled features, as that of masks, leaves 'features' untrained.
        temporal_width: their width d (256), a multiple of 4.
        gamma: their weight (0.1).
    """

    cross_modal = True
    temporal = True

    def __init__(
        self,
        backbone: Backbone,
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
                "give at least one expert, and a skip of 1 (no stage left out) or more"
            )
        if balance < 0 or router_noise < 0:
            raise LavishError(f"adapter.options: balance={balance}, router_noise={router_noise}: give 0 or more")
        self.balance = balance
        for block, position, stream in product(context.blocks, get_args(Position), context.streams):
            stage = 1 + next(index for index, end in enumerate(backbone.stage_ends) if block <= end)
            crosses = stream in context.readers
            kinds = [*([True] * cross_experts if crosses else []), *[False] * unimodal_experts]
            if not kinds or (skip > 1 and stage % skip == 0):
                continue
            width = backbone.widths[block]
            experts = []
            for reads in kinds:
                attention: nn.Module | None = None
                if reads or unimodal_attention == "latent":
                    attention = LatentAttention(width, latents)
                elif unimodal_attention == "heads":
                    attention = MultiHeadAttention(width, heads=4, dropout=0.2)
                bottleneck = GatedBottleneck(
                    width,
                    reduction=reduction,
                    groups=groups,
                    batch_norm=batch_norm,
                    norm_before=norm_before,
                    norm_after=norm_after,
                    activation=reads,
                    gated=gate == "both" or stream == "visual",
                )
                experts.append(Expert(attention, bottleneck, reads=reads))
            mapped = None
            if crosses and (cross_experts or len(experts) > 1):
                tokens = context.tokens
                mapped = TokenConvolution(width, width, tokens[stream][block], tokens[OTHER[stream]][block])
            self.add_module(f"{block}_{position}_{stream}", Mixture(width, mapped, experts, router_noise))
        self.temporal_gates = build_gates(temporal_gates, backbone, context, width=temporal_width, gamma=gamma)

    def residual_update(
        self, block: int, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        updates: Streams = {}
        for stream, x in tokens.items():
            mixture = self._modules.get(f"{block}_{position}_{stream}")
            if mixture is not None:
                updates[stream], uneven = mixture(x, tokens.get(OTHER[stream]))
                if self.training and self.balance and uneven is not None:
                    context.auxiliary_losses.append(self.balance * uneven)
        return updates

    def transform_features(
        self, features: dict[Stream, StreamFeatures], context: ForwardContext
    ) -> dict[Stream, StreamFeatures]:
        return features if self.temporal_gates is None else self.temporal_gates(features, context.segments)

    def feature_dim(self, backbone: Backbone) -> int:
        gates = self.temporal_gates
        return backbone.feature_dim if gates is None or gates.feature_dim is None else gates.feature_dim


class Expert(nn.Module):
    """Attention, if any, then the gated bottleneck."""

    def __init__(self, attention: nn.Module | None, bottleneck: GatedBottleneck, *, reads: bool) -> None:
        super().__init__()
        self.reads, self.attention, self.bottleneck = reads, attention, bottleneck

    def forward(self, tokens: Tensor, mapped: Tensor | None) -> Tensor:
        """Return g z (B, N, C) for `tokens` (B, N, C) and the other stream `mapped` to their number and width."""
        if self.attention is not None:
            tokens = self.attention(tokens, mapped if self.reads else tokens)
        return self.bottleneck(tokens)


class Mixture(nn.Module):
    """Experts of one place and their router."""

    def __init__(self, width: int, token_map: nn.Module | None, experts: list[Expert], noise: float) -> None:
        super().__init__()
        self.noise, self.token_map = noise, token_map
        self.experts = nn.ModuleList(experts)
        read = width if token_map is None else 2 * width
        self.router = (
            nn.Sequential(nn.Linear(read, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, len(experts)))
            if len(experts) > 1
            else None
        )

    def forward(self, tokens: Tensor, other: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the update (B, N, C), and KL(uniform || mean of pi over B) where there is something to route."""
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
        # In logarithms throughout, so that an expert nobody asks for has a finite loss.
        mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
        return out, -mean.mean() - math.log(len(updates))
