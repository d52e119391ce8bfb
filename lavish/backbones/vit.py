"""Plain vision transformers of timm: pre-norm blocks over class token and patches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from lavish.backbones.base import Backbone, quarters, stretch_linear
from lavish.errors import LavishError


class ViTBackbone(Backbone):
    """A timm ``VisionTransformer`` (vit_*, deit*) as a :class:`Backbone`.

    `positions` says how the position embedding meets other input sizes: ``bicubic`` resamples the grid in two
    dimensions (timm), ``linear`` stretches the sequence, class token included (the published LAVISH code).
    """

    def __init__(
        self, model: VisionTransformer, name: str, *, positions: Literal["bicubic", "linear"] = "bicubic"
    ) -> None:
        super().__init__()
        if not isinstance(model, VisionTransformer) or not all(isinstance(block, Block) for block in model.blocks):
            block = type(model.blocks[0]).__name__ if hasattr(model, "blocks") else "none"
            raise LavishError(
                f"backbone.model '{name}': its blocks ({block}) are not two separate pre-norm residual branches; "
                "use a timm model built from VisionTransformer blocks"
            )
        if not isinstance(model.patch_embed, PatchEmbed):
            raise LavishError(
                f"backbone.model '{name}' embeds patches by {type(model.patch_embed).__name__}, not a convolution"
            )
        self.model: Any = model
        self.widths = (model.embed_dim,) * len(model.blocks)
        self.stage_ends = quarters(len(model.blocks))
        self.num_prefix_tokens = model.num_prefix_tokens
        self.positions = positions
        # Each stream's picture has its own size: timm then resamples the position embedding to the patch grid.
        model.dynamic_img_size = True

    def embed(self, images: Tensor) -> Tensor:
        model = self.model
        # The convolution itself, because timm's wrapper refuses pictures that are no multiple of the patch
        # (the published spectrograms are 102 frames wide); the remainder falls off the edge.
        patches = model.patch_embed.norm(model.patch_embed.proj(images).permute(0, 2, 3, 1))
        if self.positions == "bicubic":
            return model.norm_pre(model._pos_embed(patches))
        prefix = [t.expand(len(images), -1, -1) for t in (model.cls_token, model.reg_token) if t is not None]
        tokens = torch.cat([*prefix, patches.flatten(1, 2)], dim=1)
        return model.norm_pre(tokens + stretch_linear(model.pos_embed, tokens.shape[1]))

    def enter(self, index: int, tokens: Tensor) -> Tensor:
        return tokens

    def attention(self, index: int, tokens: Tensor) -> Tensor:
        block = self.model.blocks[index]
        return block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))

    def ffn(self, index: int, tokens: Tensor) -> Tensor:
        block = self.model.blocks[index]
        return block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))

    def final(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        if self.model.global_pool == "token":
            return self.model.fc_norm(tokens[:, 0])
        return self.model.fc_norm(tokens[:, self.num_prefix_tokens :].mean(dim=1))

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        patch = self.model.patch_embed.patch_size
        rows, columns = image_size[0] // patch[0], image_size[1] // patch[1]
        if rows == 0 or columns == 0:
            raise LavishError(f"a picture of {image_size[0]} x {image_size[1]} is smaller than a patch {tuple(patch)}")
        return ((rows, columns),) * self.num_blocks
