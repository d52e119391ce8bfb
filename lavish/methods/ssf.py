"""SSF: scale and shift the output of each layer of the backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName
from lavish.models.interfaces import ForwardContext, MethodContext, Stream, Streams


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

    def __init__(self, backbone: Backbone, context: MethodContext, *, init_std: float = 0.02) -> None:
        super().__init__()
        self._layers: dict[int | None, frozenset[str]] = {}
        for block in context.blocks:
            width = backbone.widths[block]
            outputs: dict[LayerName, int] = {
                name: len(backbone.linear(block, name)[0]) for name in ("qkv", "proj", "fc1", "fc2")
            }
            self._add(block, {"norm1": width, "norm2": width, **outputs}, context.streams, init_std)
        outside: dict[LayerName, int] = {}
        if 0 in context.blocks:
            outside["patch_embed"] = backbone.widths[0]
        if backbone.num_blocks - 1 in context.blocks:
            outside["norm"] = backbone.widths[-1]
        self._add(None, outside, context.streams, init_std)

    def _add(
        self, block: int | None, widths: dict[LayerName, int], streams: tuple[Stream, ...], init_std: float
    ) -> None:
        self._layers[block] = frozenset(widths)
        for name, width in widths.items():
            for stream in streams:
                self.add_module(f"{block}_{name}_{stream}", _ScaleShift(width, init_std))

    def intercepted_layers(self, block: int | None) -> frozenset[str]:
        return self._layers.get(block, frozenset())

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        return {
            stream: self.get_submodule(f"{frozen.block}_{frozen.name}_{stream}")(frozen.layer(frozen.tokens))
            for stream, frozen in layers.items()
        }


class _ScaleShift(nn.Module):
    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, init_std))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, init_std))

    def forward(self, features: Tensor) -> Tensor:
        # In float32: bfloat16 would round a scale near 1 in steps of 1/128. The output keeps the input's type.
        return torch.addcmul(self.shift, features, self.scale).to(features.dtype)
