"""The audio spectrogram transformer (AST): a vision transformer of overlapping patches of a spectrogram.

Gong et al., "AST: Audio Spectrogram Transformer", Interspeech 2021 (arXiv 2104.01778), and the public code.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from timm.layers import PatchEmbed, to_2tuple
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.backbones.base import Grid
from lavish.models.backbones.vit import ViTBackbone


class AstBackbone(ViTBackbone):
    """An AST as a :class:`Backbone`, on spectrograms (B, 1, mel bins, frames).

        tokens = [class ; distillation ; patches of 16 x 16, one every `stride` mel bins and frames] + positions
        feature = (class + distillation) / 2, after the final norm

    The published head on this feature, a layer norm and a linear map, is not part of the backbone. Spectrograms are
    normalised to mean 0 and standard deviation 0.5 in the published code.

    For other sizes than its own the grid of positions is cut out of the middle where it is too long and stretched
    linearly where it is too short. The public code does so for the frames; doing the same for the mel bins of a
    trained AST is ours (it does so with the positions of DeiT).
    """

    model_class = VisionTransformerDistilled

    def __init__(self, model: Any, name: str, *, positions: Literal["bicubic", "linear"] = "bicubic") -> None:
        super().__init__(model, name, positions=positions)
        if self.model.no_embed_class or self.model.num_reg_tokens:
            raise LavishError(
                "backbone.spec: an AST has a class and a distillation token with positions and no others: remove "
                "no_embed_class and reg_tokens"
            )

    def _add_positions(self, patches: Tensor) -> Tensor:
        model, count = self.model, self.num_prefix_tokens
        prefix = torch.cat([model.cls_token, model.dist_token], dim=1) + model.pos_embed[:, :count]
        positions = _fit(model.pos_embed[:, count:], model.patch_embed.grid_size, (patches.shape[1], patches.shape[2]))
        tokens = torch.cat([prefix.expand(len(patches), -1, -1), patches.flatten(1, 2) + positions], dim=1)
        return model.norm_pre(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, : self.num_prefix_tokens].mean(dim=1)


class OverlappingPatches(PatchEmbed):
    """timm's patch embedding with a stride that may be smaller than the patch."""

    def __init__(self, *, stride: int | tuple[int, int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.proj.stride = to_2tuple(stride)
        assert self.img_size is not None
        sizes = zip(self.img_size, self.patch_size, self.proj.stride, strict=True)
        rows, columns = ((size - patch) // step + 1 for size, patch, step in sizes)
        self.grid_size, self.num_patches = (rows, columns), rows * columns


def audio_spectrogram_transformer(
    *,
    img_size: tuple[int, int] = (128, 1024),
    stride: int | tuple[int, int] = 10,
    **arguments: Any,
) -> VisionTransformerDistilled:
    """Build an AST, by default the published one: 128 mel bins, 1024 frames, patches of 16 x 16, 12 blocks, width 768.

    Args:
        img_size: mel bins and frames.
        stride: mel bins and frames from one patch to the next.
        arguments: further ones of timm's ``VisionTransformer``, such as embed_dim, depth and num_heads.
    """
    patches = partial(OverlappingPatches, stride=stride)
    return VisionTransformerDistilled(img_size=img_size, in_chans=1, embed_layer=patches, **arguments)


def _fit(positions: Tensor, grid: Grid, wanted: Grid) -> Tensor:
    """Cut or stretch the position embedding (1, rows x columns, C) of a grid to that of another."""
    if grid == wanted:
        return positions
    maps = positions.transpose(1, 2).unflatten(2, grid)
    for dim, (own, new) in enumerate(zip(grid, wanted, strict=True), start=2):
        if new < own:
            maps = maps.narrow(dim, own // 2 - new // 2, new)
    if maps.shape[2:] != wanted:
        maps = functional.interpolate(maps, size=wanted, mode="bilinear")
    return maps.flatten(2).transpose(1, 2)
