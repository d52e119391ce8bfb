"""BitFit: the biases of the backbone are trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method, MethodContext
from lavish.models.backbones.base import Backbone


class BitFit(Method):
    """Train every bias of the backbone and nothing else: 11 C a block of a ViT.

        y = W x + b        b of each linear map, of each layer norm, of the patch embedding

    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    ACL 2022 (arXiv 2106.10199). Biases start as the backbone has them. Nothing crosses between the streams.

    Our choice: the biases are shared by both streams, as the backbone is. Swin V2 has none for keys, and one more in
    the network of its position bias (10 C + 512 a block).
    """

    def __init__(self, backbone: Backbone, context: MethodContext) -> None:
        super().__init__()
        self._blocks = context.blocks

    def tuned_parameters(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        return [p for name, p in backbone.tunable(self._blocks).items() if name.endswith("bias")]
