"""SSF: scale and shift what each layer of the backbone returns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lavish.methods.base import ForwardContext, Method, MethodContext
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName
from lavish.models.interfaces import Stream, Streams


class ScaleShift(Method):
    """Scale and shift each channel behind every layer of the frozen backbone.

        z <- gamma * z + beta        z = layer(x)

    behind the patch embedding, both norms, the maps qkv, proj, fc1 (before its activation) and fc2 of each block, and
    the final norm: 22 C a block of a ViT, 4 C outside. Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022
    (arXiv 2210.08823). gamma starts at a normal distribution around 1, beta around 0, both with deviation `init_std`,
    so the backbone is nearly, not exactly, unchanged. Nothing crosses between the streams; each has its own.

    Our choices: in the post-norm blocks of Swin V2 it sits behind the post-norm, as behind the norm elsewhere; its
    patch embedding has a norm of its own and is one layer here; its merging of patches is left alone. With
    `fusion.layers`, the patch embedding goes with the first block and the final norm with the last.

    Options:
        init_std: see above (0.02).
    """

    def __init__(self, backbone: Backbone, context: MethodContext, *, init_std: float = 0.02) -> None:
        super().__init__()
        self._edits: dict[int | None, frozenset[str]] = {}
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
        self._edits[block] = frozenset(widths)
        for name, width in widths.items():
            for stream in streams:
                self.add_module(f"{block}_{name}_{stream}", _ScaleShift(width, init_std))

    def intercepted_layers(self, block: int | None) -> frozenset[str]:
        return self._edits.get(block, frozenset())

    def apply_layer(self, operations: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        return {
            stream: self.get_submodule(f"{operation.block}_{operation.name}_{stream}")(
                operation.layer(operation.tokens)
            )
            for stream, operation in operations.items()
        }


class _ScaleShift(nn.Module):
    def __init__(self, width: int, init_std: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(width).normal_(1.0, init_std))
        self.shift = nn.Parameter(torch.empty(width).normal_(0.0, init_std))

    def forward(self, features: Tensor) -> Tensor:
        # In float32: half precision would round a scale near 1 in steps of 1/128. What follows stays as it was.
        return torch.addcmul(self.shift, features, self.scale).to(features.dtype)
