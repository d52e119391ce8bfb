"""LAVISH: latent tokens carry what crosses between a frozen transformer's two streams.

Lin et al., "Vision Transformers are Parameter-Efficient Audio-Visual Learners", CVPR 2023 (arXiv 2212.07983), section 3
and the public code, whose four diverging copies are options here.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import attend, attend_through
from lavish.methods._shared.bottleneck import GroupedLinear, gated_norm
from lavish.methods.base import Adapter, AdapterSite


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

    budget_option = "reduction"

    def __init__(
        self,
        site: AdapterSite,
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
        width, cross_modal = site.width, site.cross_modal
        if cross_modal and width != site.other_width:
            raise LavishError(f"adapter 'lavish' attends between equal widths, not {width} and {site.other_width}")
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
        gated = gate == "both" or (gate == "visual" and site.stream == "visual")
        self.gate = nn.Parameter(torch.zeros(())) if gated else None
        self.gate_order = gate_order

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        flat = self.norm_before(self._cross(tokens, other)).flatten(0, 1)
        out = self.up_norm(self.up(self.activation(self.down_norm(self.down(flat)))))
        if self.gate is not None and self.gate_order == "gate_first":
            out = self.norm_after(self.gate * out)
        else:
            out = gated_norm(self.gate, self.norm_after, out)
        return out.view_as(tokens)

    def _cross(self, x: Tensor, other: Tensor) -> Tensor:
        """Return x' of the class's equations: this stream after reading the other, through latent tokens if any."""
        if self.gate_av is None:
            return x
        if self.latents is None:
            return x + self.gate_av * attend(x, other)
        return attend_through(self.latents, x, other, self.gate_av)
