"""timm's ``Eva``: plain transformers with rotary positions (EVA, EVA-02, DINOv3 and others)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from torch import Tensor
from torch.nn import functional

from lavish.models.backbones.base import Grid, LayerName, apply_all
from lavish.models.backbones.vit import ViTBackbone


class EvaBackbone(ViTBackbone):
    """A timm ``Eva`` (eva_*, eva02_*, vit_*_dinov3 and others) as a :class:`Backbone`.

    Queries and keys of patches are rotated by their row and column in the grid. Prefix tokens and tokens that methods
    add are before the patches and have no position.
    """

    model_class = Eva
    block_class = EvaBlock
    attention_classes = (EvaAttention, AttentionRope)

    def __init__(self, model: Any, name: str, *, positions: Literal["bicubic", "linear"] = "bicubic") -> None:
        super().__init__(model, name, positions=positions)
        self._rotations: dict[tuple[Grid, torch.device], Tensor] = {}

    def _add_positions(self, patches: Tensor) -> Tensor:
        if self.positions == "linear":
            return super()._add_positions(patches)
        tokens, _ = self.model._pos_embed(patches)
        return self.model.norm_pre(tokens)

    def attention(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        # timm's own attention would rotate added tokens as if they were patches.
        return apply_all(self.attention_layers(index, tokens, grid))

    def _scaled(self, index: int, part: Literal[1, 2], branch: Tensor) -> Tensor:
        block = self.model.blocks[index]
        scale = getattr(block, f"gamma_{part}")
        return getattr(block, f"drop_path{part}")(branch if scale is None else scale * branch)

    def _rotation(self, index: int, grid: Grid | None) -> Tensor | None:
        rope = self.model.rope
        if rope is None:
            return None
        grid = grid or self.grid_sizes(self.image_size)[index]
        if self.model.rope_mixed:  # each block and head has frequencies of its own, which are parameters
            return rope.get_embed(shape=list(grid))[index]
        key = (grid, self.model.patch_embed.proj.weight.device)
        if key not in self._rotations:
            with torch.inference_mode(False), torch.no_grad():  # training may follow an evaluation
                self._rotations[key] = rope.get_embed(shape=list(grid))
        return self._rotations[key]

    def _rotated(self, index: int, heads: Tensor, rotation: Tensor | None) -> Tensor:
        if rotation is None:
            return heads
        first = heads.shape[2] - rotation.shape[-2]
        half = self.model.blocks[index].attn.rotate_half
        patches = apply_rot_embed_cat(heads[:, :, first:], rotation, half=half)
        return torch.cat([heads[:, :, :first], patches], dim=2)

    def _layer(self, index: int, name: LayerName) -> Callable[[Tensor], Tensor]:
        if name != "qkv" or self._qkv_bias(index) is None:
            return super()._layer(index, name)
        weight, bias = self.linear(index, name)
        return lambda tokens: functional.linear(tokens, weight, bias)

    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().linear(index, name)
        return weight, self._qkv_bias(index) if name == "qkv" and bias is None else bias

    def _qkv_bias(self, index: int) -> Tensor | None:
        """Return the bias (3 C,) that timm keeps beside the fused layer; that of the keys is a buffer of zeros."""
        attention = self.model.blocks[index].attn
        if getattr(attention, "q_bias", None) is None:
            return None
        return torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
