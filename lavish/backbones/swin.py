"""Swin V2 of timm: post-norm blocks on a grid, patches merged at the start of a stage."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor

from lavish.backbones.base import Backbone
from lavish.errors import LavishError


class SwinV2Backbone(Backbone):
    """A timm ``SwinTransformerV2`` (swinv2_*) as a :class:`Backbone`; its residual branch is ``norm(f(x))``."""

    num_prefix_tokens = 0

    def __init__(self, model: SwinTransformerV2, name: str) -> None:
        super().__init__()
        if not isinstance(model, SwinTransformerV2):
            raise LavishError(
                f"backbone.model '{name}' is a {type(model).__name__}, not timm's SwinTransformerV2 "
                "(swinv2_cr_* is another architecture)"
            )
        self.model: Any = model
        self.blocks: list[Any] = [
            block for stage in model.layers for block in stage.blocks
        ]  # registered below `model` already
        self.widths = tuple(block.dim for block in self.blocks)
        depths = [len(stage.blocks) for stage in model.layers]
        self.stage_ends = tuple(end - 1 for end in accumulate(depths))
        self._stage_starts = {0, *(end + 1 for end in self.stage_ends[:-1])}
        self._stage_of = [stage for stage, depth in enumerate(depths) for _ in range(depth)]

    def embed(self, images: Tensor) -> Tensor:
        return self.model.patch_embed(images).flatten(1, 2)

    def enter(self, index: int, tokens: Tensor) -> Tensor:
        if index not in self._stage_starts:
            return tokens
        stage = self.model.layers[self._stage_of[index]]
        return stage.downsample(tokens.unflatten(1, stage.input_resolution)).flatten(1, 2)

    def attention(self, index: int, tokens: Tensor) -> Tensor:
        block = self.blocks[index]
        grid = tokens.unflatten(1, block.input_resolution)
        return block.drop_path1(block.norm1(block._attn(grid))).flatten(1, 2)

    def ffn(self, index: int, tokens: Tensor) -> Tensor:
        block = self.blocks[index]
        return block.drop_path2(block.norm2(block.mlp(tokens)))

    def final(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        expected = tuple(self.model.patch_embed.img_size)
        if tuple(image_size) != expected:
            raise LavishError(
                f"a Swin V2 of {expected[0]} x {expected[1]} reads both streams at that size, not {image_size[0]} x "
                f"{image_size[1]}: set data.frame_size, data.spectrogram.mel_bins and data.spectrogram.frames to it"
            )
        return tuple(tuple(block.input_resolution) for block in self.blocks)
