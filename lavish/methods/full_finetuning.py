"""Full fine-tuning: the whole backbone is trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import MethodContext, Stream


class FullFinetuning(Method):
    """Train every parameter of the backbone, which both streams share.

    The reference for parameter-efficient methods. Fewer blocks (`fusion.layers: last 4`) are partial fine-tuning: patch
    embedding, position embedding and class token belong to the first block, patch merging to the block after it, the
    final norm to the last block. Unimodal.

    The backbone stays in evaluation mode: stochastic depth is `backbone.stochastic_depth`, off by default.
    """

    search_space = {"lr_adapter": ("log", 0.015625, 1.0)}

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self._blocks = {stream: context.blocks(stream) for stream in context.streams}

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        return backbone.tunable(self._blocks[stream]).values()
