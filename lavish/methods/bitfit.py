"""BitFit: the biases of the backbone are trained."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import MethodContext, Stream


class BitFit(Method):
    """Train every bias of the backbone and nothing else: 11 C per block of a ViT.

        y = W x + b        b of each linear layer, each layer norm and the patch embedding

    Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    ACL 2022 (arXiv 2106.10199). Biases are initialised with the backbone's. Unimodal.

    Our choice: streams that share a backbone share its biases. Swin V2 has none for keys, and one more in
    the network of its position bias (10 C + 512 per block).
    """

    search_space = {"lr_adapter": ("log", 0.25, 32.0)}

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self._blocks = {stream: context.blocks(stream) for stream in context.streams}

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        return [p for name, p in backbone.tunable(self._blocks[stream]).items() if name.endswith("bias")]
