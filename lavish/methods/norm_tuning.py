"""Layer norm tuning: scale and shift of the backbone's norms are trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method, MethodContext
from lavish.models.backbones.base import Backbone


class NormTuning(Method):
    """Train scale and shift of each of the backbone's layer norms: 4 C a block.

        y = gamma (x - mean) / deviation + beta        gamma, beta

    Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", ICLR 2024 (arXiv
    2312.11420). They start as the backbone has them. Nothing crosses between the streams.

    Our choice: they are shared by both streams, as the backbone is, and the norms outside of blocks (the last one; on
    Swin V2 those of patch embedding and merging) are trained as well. Together with another method, the same is
    `backbone.tune_norms: true`.
    """

    def __init__(self, backbone: Backbone, context: MethodContext) -> None:
        super().__init__()
        self._blocks = context.blocks

    def tuned_parameters(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        norms = {id(parameter) for norm in backbone.norms() for parameter in norm.parameters()}
        return [p for p in backbone.tunable(self._blocks).values() if id(p) in norms]
