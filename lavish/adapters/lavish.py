"""LAVISH: latent tokens carry what crosses between a frozen transformer's two streams.

Lin et al., "Vision Transformers are Parameter-Efficient Audio-Visual Learners", CVPR 2023 (arXiv 2212.07983), section 3
and the public code, whose four diverging copies are options here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.adapters._attention import attend
from lavish.adapters.base import Adapter, Place
from lavish.errors import LavishError


class GroupedLinear(nn.Module):
    """A linear map of `groups` independent blocks, without bias: a grouped 1x1 convolution over tokens.

    The weight is (groups, narrow / groups, wide / groups), whichever of in and out is wide: with the long rows
    contiguous, small maps take half the time on a CPU. Initialised as torch's convolution is, uniform within
    1 / sqrt(in / groups).
    """

    def __init__(self, in_features: int, out_features: int, groups: int) -> None:
        super().__init__()
        if in_features % groups or out_features % groups:
            raise LavishError(
                f"adapter.options.groups: {groups} does not divide the widths {in_features} and {out_features} of the "
                "bottleneck; choose groups and reduction so that both are multiples of groups"
            )
        self.widens = out_features > in_features
        narrow, wide = sorted((in_features // groups, out_features // groups))
        bound = (in_features // groups) ** -0.5
        self.weight = nn.Parameter(torch.empty(groups, narrow, wide).uniform_(-bound, bound))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (T, in) to (T, out)."""
        parts = zip(tokens.chunk(len(self.weight), dim=1), self.weight, strict=True)
        return torch.cat([x @ weight if self.widens else functional.linear(x, weight) for x, weight in parts], dim=1)


class LavishAdapter(Adapter):
    """Cross-modal attention through latent tokens, then a grouped bottleneck, then a gate.

        m' = m + softmax(m y^T) y              M latent tokens read the other stream y
        x' = x + g_av softmax(x m'^T) m'       this stream reads them; the scalar g_av starts at 0
        z  = [LN] x' -> C/r -> [BN] -> ReLU -> C -> [BN] -> [LN]
        out = g z                              the scalar g starts at 0

    One head, no projections, no scaling by 1/sqrt(C). ``latents=0`` is the paper's AVISH,
    x' = x + g_av softmax(x y^T) y.

    Latent tokens that start at zero (`latent_init='zeros'`, the published AVS and AVQA code) all receive the same
    gradient and stay identical for ever, so more than one of them adds nothing.

    Options, with the published settings of AVE, AVQA and AVS:
        latents: number M of latent tokens, 0 for direct attention (2, 64, 16).
        latent_init: 'uniform' on [0, 1) (AVE) or 'zeros' (AVQA, AVS).
        reduction: r, the bottleneck's width is C / r (8, 8, 4).
        groups: independent blocks of both linear maps (2, 4, 2).
        batch_norm: batch norms inside the bottleneck, over batch and tokens (yes, no, no).
        norm_before, norm_after: layer norms around the bottleneck (both; both; after, whatever AVS's command says).
        gate: which streams' adapters have an output gate ('both'; 'visual' is what switching it off does in public).
        gate_order: gate after the last norm (AVE, AVQA), or before it, which normalises its size away (AVS).
        unimodal_activation: keep the ReLU in adapters that nothing crosses into (no in AVE, yes in AVQA and AVS).
    """

    size = "reduction"

    def __init__(
        self,
        place: Place,
        *,
        latents: int = 2,
        latent_init: Literal["uniform", "zeros"] = "uniform",
        reduction: int = 8,
        groups: int = 2,
        batch_norm: bool = True,
        norm_before: bool = True,
        norm_after: bool = True,
        gate: Literal["both", "visual", "none"] = "both",
        gate_order: Literal["norm_first", "gate_first"] = "norm_first",
        unimodal_activation: bool = True,
    ) -> None:
        super().__init__()
        width, cross_modal = place.width, place.crosses
        if cross_modal and width != place.other_width:
            raise LavishError(f"adapter 'lavish' attends between equal widths, not {width} and {place.other_width}")
        if latents < 0 or reduction < 1 or width < reduction:
            raise LavishError(
                f"adapter.options: latents={latents} and reduction={reduction} do not fit a width of {width}"
            )
        hidden = width // reduction
        self.gate_av = nn.Parameter(torch.zeros(())) if cross_modal else None
        self.latents: nn.Parameter | None = None
        if cross_modal and latents:
            start = torch.rand(latents, width) if latent_init == "uniform" else torch.zeros(latents, width)
            self.latents = nn.Parameter(start)
        self.norm_before = nn.LayerNorm(width) if norm_before else nn.Identity()
        self.down = GroupedLinear(width, hidden, groups)
        self.down_norm = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if cross_modal or unimodal_activation else nn.Identity()
        self.up = GroupedLinear(hidden, width, groups)
        self.up_norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.norm_after = nn.LayerNorm(width) if norm_after else nn.Identity()
        gated = gate == "both" or (gate == "visual" and place.stream == "visual")
        self.gate = nn.Parameter(torch.zeros(())) if gated else None
        self.gate_order = gate_order

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        flat = self.norm_before(self._cross(tokens, other)).flatten(0, 1)
        out = self.up_norm(self.up(self.activation(self.down_norm(self.down(flat)))))
        if self.gate is None:
            out = self.norm_after(out)
        elif self.gate_order == "gate_first":
            out = self.norm_after(self.gate * out)
        elif isinstance(self.norm_after, nn.LayerNorm):
            # g LN(z) = LN(z) with scale and shift times g: two passes over all tokens fewer, forward and backward.
            scale, shift = self.gate * self.norm_after.weight, self.gate * self.norm_after.bias
            out = functional.layer_norm(out, self.norm_after.normalized_shape, scale, shift, self.norm_after.eps)
        else:
            out = self.gate * out
        return out.view_as(tokens)

    def _cross(self, x: Tensor, other: Tensor) -> Tensor:
        """Return x' of the class's equations: this stream after reading the other, through latent tokens if any."""
        if self.gate_av is None:
            return x
        if self.latents is None:
            return x + self.gate_av * attend(x, other)
        latents = self.latents.expand(len(other), -1, -1)
        read = torch.baddbmm(latents, torch.bmm(latents, other.transpose(1, 2)).softmax(dim=-1), other)
        # The gate scales a few latents instead of all tokens.
        return torch.baddbmm(x, torch.bmm(x, read.transpose(1, 2)).softmax(dim=-1), self.gate_av * read)
