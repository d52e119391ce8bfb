"""Full fine-tuning: the whole backbone is trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method, MethodContext
from lavish.models.backbones.base import Backbone


class FullFinetuning(Method):
    """Train every parameter of the backbone, which both streams go on sharing.

    What parameter-efficient methods are measured against. Fewer blocks (`fusion.layers: last 4`) are what the
    literature calls partial fine-tuning: patch embedding, position embedding and class token go with the first block,
    the merging of patches with the block behind it, the final norm with the last block. Nothing crosses.

    The backbone stays in evaluation mode: stochastic depth is `backbone.stochastic_depth`, off by default.
    """

    def __init__(self, backbone: Backbone, context: MethodContext) -> None:
        super().__init__()
        self._blocks = context.blocks

    def tuned_parameters(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        return backbone.tunable(self._blocks).values()
