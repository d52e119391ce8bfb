"""LAVISH: cross-modal attention through latent tokens, then a bottleneck, beside every sublayer.

Lin et al., "Vision Transformers are Parameter-Efficient Audio-Visual Learners", CVPR 2023 (arXiv 2212.07983), section 3
and the public code, whose four diverging copies are covered by options.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import attend, attend_through, initial_latents
from lavish.methods._shared.bottleneck import BottleneckLayers
from lavish.methods.base import Adapter, AdapterSite


class LavishAdapter(BottleneckLayers, Adapter):
    """Cross-modal attention through latent tokens, then a grouped bottleneck, then a gate.

        m' = m + softmax(m y^T) y              M latent tokens attend to the other stream y (or to W y + b, below)
        x' = x + g_av softmax(x m'^T) m'       this stream attends to them; the scalar g_av starts at 0
        z  = [LN] x' -> C/r -> [BN] -> ReLU -> C -> [BN] -> [LN]
        out = g z                              the scalar g starts at 0

    One head, no projections, no scaling by 1/sqrt(C). ``latents=0`` is the paper's AVISH,
    x' = x + g_av softmax(x y^T) y.

    The paper has one backbone for both streams. Attention without projections needs equal widths, so that between two
    backbones of different widths the other stream is mapped by a trained linear layer, W y + b, C' -> C: our reading,
    the smallest change. A block that runs without a block of the other stream has the bottleneck only.

    Latent tokens initialised to zero (`latent_init='zeros'`, the published AVS and AVQA code) all receive the same
    gradient and stay identical, so more than one adds nothing.

    Options, with the published settings of AVE, AVQA and AVS:
        latents: number M of latent tokens, 0 for direct attention (2, 64, 16).
        latent_init: 'uniform' on [0, 1) (AVE) or 'zeros' (AVQA, AVS).
        reduction: r, the bottleneck's width is C / r (8, 8, 4).
        groups: independent blocks of both linear maps (2, 4, 2).
        batch_norm: batch norms inside the bottleneck, over batch and tokens (yes, no, no).
        norm_before, norm_after: layer norms around the bottleneck (both; both; after, whatever AVS's options say).
        gate: the streams whose adapters have an output gate ('both'; in the published code, switching the gate off
            removes it from the audio stream only: 'visual').
        gate_order: gate after the last norm (AVE, AVQA), or before it, where the norm cancels its magnitude (AVS).
        unimodal_activation: keep the ReLU in adapters without cross-modal attention (no in AVE, yes in AVQA and AVS).
    """

    budget_option = "reduction"
    search_space = {"lr_adapter": ("log", 0.0625, 8.0), "reduction": ("choices", 4, 8, 16)}

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
        cross_modal = site.cross_modal
        if latents < 0:
            raise LavishError(f"adapter.options.latents: {latents}: give 0 or more")
        # Sampled before the bottleneck's weights.
        start = initial_latents(latents, site.width, latent_init) if cross_modal and latents else None
        super().__init__(
            site.width,
            reduction=reduction,
            groups=groups,
            batch_norm=batch_norm,
            norm_before=norm_before,
            norm_after=norm_after,
            activation=cross_modal or unimodal_activation,
            gated=gate == "both" or gate == site.stream,
            gate_first=gate_order == "gate_first",
        )
        self.gate_av = nn.Parameter(torch.zeros(())) if cross_modal else None
        self.latents = None if start is None else nn.Parameter(start)
        differ = cross_modal and site.other_width != site.width
        self.map_other = nn.Linear(site.other_width, site.width) if differ else None

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        return self.bottleneck(self._attend(tokens, other))

    def _attend(self, x: Tensor, other: Tensor) -> Tensor:
        """Return x' of the class's equations: this stream after cross-modal attention, if there is any."""
        if self.gate_av is None:
            return x
        other = other if self.map_other is None else self.map_other(other)
        if self.latents is None:
            return x + self.gate_av * attend(x, other)
        return attend_through(self.latents, x, other, self.gate_av)
