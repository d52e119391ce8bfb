"""SSF: scale and shift the output of each layer of the backbone."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName
from lavish.models.interfaces import ForwardContext, MethodContext, Stream, Streams

_LAYERS: tuple[LayerName, ...] = ("norm1", "norm2", "qkv", "proj", "fc1", "fc2")


class ScaleShift(Method):
    """Scale and shift each channel after every layer of the frozen backbone.

        z <- gamma * z + beta        z = layer(x)

    after the patch embedding, both norms, the linear layers qkv, proj, fc1 (before its activation) and fc2 of each
    block, and the final norm: 22 C per block of a ViT, 4 C outside. Lian et al., "Scaling & Shifting Your Features",
    NeurIPS 2022 (arXiv 2210.08823). gamma is initialised from a normal distribution around 1, beta around 0, both with
    standard deviation `init_std`, so the output is close to the backbone's, not equal. Unimodal; each stream has its
    own parameters.

    Our choices: in the post-norm blocks of Swin V2 it follows the post-norm; Swin V2's patch embedding, which includes
    a norm, is one layer here, and its patch merging is not modified. With `fusion.layers`, the patch embedding belongs
    to the first block and the final norm to the last.

    Options:
        init_std: standard deviation of the initial gamma and beta (0.02).
    """

    search_space = {"lr_adapter": ("log", 0.25, 32.0)}

    def __init__(self, context: MethodContext, *, init_std: float = 0.02) -> None:
        super().__init__()
        self._layers: dict[tuple[Stream, int | None], frozenset[str]] = {}
        for blocks, name in product(context.steps, _LAYERS):
            for stream, block in blocks.items():
                self._add(stream, block, name, _width(context.backbones[stream], block, name), init_std)
        for name, place in (("patch_embed", 0), ("norm", -1)):
            for stream, backbone in context.backbones.items():
                if range(backbone.num_blocks)[place] in context.blocks(stream):
                    self._add(stream, None, name, backbone.widths[place], init_std)

    def _add(self, stream: Stream, block: int | None, name: str, width: int, init_std: float) -> None:
        self._layers[stream, block] = self.intercepted_layers(stream, block) | {name}
        self.add_module(f"{block}_{name}_{stream}", _ScaleShift(width, init_std))

    def intercepted_layers(self, stream: Stream, block: int | None) -> frozenset[str]:
        return self._layers.get((stream, block), frozenset())

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        return {
            stream: self.get_submodule(f"{frozen.block}_{frozen.name}_{stream}")(frozen.layer(frozen.tokens))
            for stream, frozen in layers.items()
        }


def _width(backbone: Backbone, block: int, name: LayerName) -> int:
    """Return the width of a layer's output."""
    return backbone.widths[block] if name in ("norm1", "norm2") else len(backbone.linear(block, name)[0])


class _ScaleShift(nn.Module):
    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, init_std))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, init_std))

    def forward(self, features: Tensor) -> Tensor:
        # In float32: bfloat16 would round a scale near 1 in steps of 1/128. The output keeps the input's type.
        return torch.addcmul(self.shift, features, self.scale).to(features.dtype)
