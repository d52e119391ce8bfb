"""Layer norm tuning: scale and shift of the backbone's norms are trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import MethodContext, Stream


class NormTuning(Method):
    """Train scale and shift of each of the backbone's layer norms: 4 C per block.

        y = gamma (x - mean) / std + beta        gamma, beta

    Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning", ICLR 2024 (arXiv
    2312.11420). They are initialised with the backbone's. Unimodal.

    Our choice: streams that share a backbone share its norms, and those outside of blocks (the final norm; on
    Swin V2 those of patch embedding and patch merging) are trained as well. To combine it with another method, set
    `backbone.tune_norms: true`.
    """

    search_space = {"lr_adapter": ("log", 0.25, 32.0)}

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self._blocks = {stream: context.blocks(stream) for stream in context.streams}

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        norms = {id(parameter) for norm in backbone.norms() for parameter in norm.parameters()}
        return [p for p in backbone.tunable(self._blocks[stream]).values() if id(p) in norms]
