"""timm's Swin and Swin V2: blocks with windowed attention, patch merging at the start of a stage.

Swin has norms before its attention and its feed-forward layer and a table of position biases; Swin V2 has them behind,
cosine attention, and a network that computes the position bias.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2, window_partition, window_reverse
from torch import Tensor
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.backbones.base import Backbone, FrozenLayer, Grid, LayerName, Layers, apply_all


class WindowedBackbone(Backbone):
    """What Swin and Swin V2 have in common."""

    num_prefix_tokens = 0
    windowed = True

    def __init__(self, model: SwinTransformer | SwinTransformerV2) -> None:
        super().__init__()
        self.model: Any = model
        self.blocks: list[Any] = [
            block for stage in model.layers for block in stage.blocks
        ]  # a plain list, because `model` registers them
        self.widths = tuple(block.dim for block in self.blocks)
        self.scale_depths = depths = tuple(len(stage.blocks) for stage in model.layers)
        self.stage_ends = tuple(end - 1 for end in accumulate(depths))
        self._constants: dict[tuple[str, int, torch.device, torch.dtype], tuple[list[int], Tensor]] = {}
        self._merges_before = {end + 1 for end in self.stage_ends[:-1]}
        self._stage_of = [stage for stage, depth in enumerate(depths) for _ in range(depth)]

    def embed(self, images: Tensor) -> Tensor:
        return self.model.patch_embed(images).flatten(1, 2)

    def embed_layers(self, images: Tensor) -> Layers:
        patches = yield FrozenLayer("patch_embed", None, self.model.patch_embed, images)
        return patches.flatten(1, 2)

    def enter(self, index: int, tokens: Tensor) -> Tensor:
        if index not in self._merges_before:
            return tokens
        stage = self.model.layers[self._stage_of[index]]
        added, patches = self._split(tokens, stage.input_resolution)
        merged = stage.downsample(patches.unflatten(1, stage.input_resolution)).flatten(1, 2)
        if not added.shape[1]:
            return merged
        # An added token has no neighbours: it is merged with copies of itself.
        copies = stage.downsample(added.flatten(0, 1)[:, None, None].expand(-1, 2, 2, -1))
        return torch.cat([copies.view(*added.shape[:2], -1), merged], dim=1)

    def windows(self, index: int, tokens: Tensor) -> Tensor:
        return _windows(self.blocks[index], tokens)

    def from_windows(self, index: int, windows: Tensor) -> Tensor:
        return _from_windows(self.blocks[index], windows)

    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        block = self.blocks[index]
        if name == "qkv":
            return block.attn.qkv.weight, self._qkv_bias(index)
        layer = block.attn.proj if name == "proj" else getattr(block.mlp, name)
        return layer.weight, layer.bias

    def num_heads(self, index: int) -> int:
        return self.blocks[index].attn.num_heads

    def _block_of(self, name: str) -> int:
        part, *rest = name.split(".")
        if part != "layers":
            return self.num_blocks - 1 if part == "norm" else 0
        stage, kind = int(rest[0]), rest[1]
        first = self._stage_of.index(stage)
        return first + int(rest[2]) if kind == "blocks" else first

    @property
    def image_size(self) -> tuple[int, int]:
        return tuple(self.model.patch_embed.img_size)

    @property
    def patch_size(self) -> tuple[int, int]:
        return tuple(self.model.patch_embed.patch_size)

    @staticmethod
    def _split(tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Split tokens into added ones (B, P, C) and patches (B, rows x columns, C)."""
        count = tokens.shape[1] - grid[0] * grid[1]
        return tokens[:, :count], tokens[:, count:]

    def final(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)

    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        expected = self.image_size
        if tuple(image_size) != expected:
            raise LavishError(
                f"a Swin of {expected[0]} x {expected[1]} needs both streams at that size, not {image_size[0]} x "
                f"{image_size[1]}: set data.frame_size, data.spectrogram.mel_bins and data.spectrogram.frames to it"
            )
        return tuple(tuple(block.input_resolution) for block in self.blocks)

    @abstractmethod
    def _qkv_bias(self, index: int) -> Tensor | None:
        """Return the bias (3 C,) of queries, keys and values."""

    def _qkv(self, index: int, tokens: Tensor) -> Tensor:
        return functional.linear(tokens, self.blocks[index].attn.qkv.weight, self._qkv_bias(index))

    @abstractmethod
    def _attend(self, index: int, qkv: Tensor, bias: Tensor | None) -> Tensor:
        """Return the attention (B, L, C) of queries, keys and values (B, L, 3 C), with a bias (..., L, L)."""

    @abstractmethod
    def _window_bias(self, index: int) -> Tensor:
        """Return the relative position bias (heads, L, L) of a window."""

    def _constant(self, name: str, index: int, compute: Callable[[int], Tensor]) -> Tensor:
        """Return what attention computes from its parameters alone; of a frozen block once for each device and type."""
        attention = self.blocks[index].attn
        parameters = list(attention.parameters())
        if torch.jit.is_tracing() or any(parameter.requires_grad for parameter in parameters):
            return compute(index)  # operations are counted as published: with the network of the position bias
        key = (name, index, attention.qkv.weight.device, attention.qkv.weight.dtype)
        versions = [parameter._version for parameter in parameters]  # torch counts changes in place, as by loading
        known, constant = self._constants.get(key, (None, None))
        if constant is None or known != versions:
            with torch.inference_mode(False), torch.no_grad():  # training may follow an evaluation
                constant = compute(index)
            self._constants[key] = versions, constant
        return constant

    def _bias(self, index: int) -> Tensor:
        """Return what is added to the logits of each window (windows, heads, L, L); of all alike, (1, heads, L, L)."""
        bias, mask = self._window_bias(index).unsqueeze(0), self.blocks[index].attn_mask
        return bias if mask is None else bias + mask.unsqueeze(1)

    def _attention(self, index: int, tokens: Tensor) -> Tensor:
        """Return attention with its projections, of patches without added tokens.

        Equal to the layers one by one, but windows are cut from C channels instead of 3 C of queries, keys and values.
        """
        block = self.blocks[index]
        qkv = self._qkv(index, _windows(block, tokens))
        mixed = self._attend(index, qkv, self._constant("bias", index, self._bias))
        return _from_windows(block, block.attn.proj(mixed))

    def _has_added(self, index: int, tokens: Tensor) -> bool:
        """Return whether there are tokens beside the patches."""
        rows, columns = self.blocks[index].input_resolution
        return tokens.shape[1] != rows * columns

    def _attend_in_windows(self, index: int, qkv: Tensor) -> Tensor:
        """Attend within shifted windows; added tokens join every window, and their outputs are averaged."""
        block = self.blocks[index]
        added, patches = self._split(qkv, block.input_resolution)
        extra, windows = added.shape[1], _windows(block, patches, self._qkv_bias(index))
        number = len(windows) // len(added)
        bias = self._constant("bias", index, self._bias)
        if not extra:
            return _from_windows(block, self._attend(index, windows, bias))
        windows = torch.cat([added.repeat_interleave(number, dim=0), windows], dim=1)
        mixed = self._attend(index, windows, functional.pad(bias, (extra, 0, extra, 0)))
        outside = mixed[:, :extra].unflatten(0, (len(added), number)).mean(dim=1)
        return torch.cat([outside, _from_windows(block, mixed[:, extra:])], dim=1)


class SwinBackbone(WindowedBackbone):
    """A timm ``SwinTransformer`` (swin_*) as a :class:`Backbone`; its residual branch is ``f(norm(x))``."""

    def __init__(self, model: SwinTransformer, name: str) -> None:
        if not isinstance(model, SwinTransformer):
            raise LavishError(f"backbone.model '{name}' is a {type(model).__name__}, not timm's SwinTransformer")
        super().__init__(model)

    def attention(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        if self._has_added(index, tokens):
            return apply_all(self.attention_layers(index, tokens))
        block = self.blocks[index]
        return block.drop_path1(self._attention(index, block.norm1(tokens)))

    def attention_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        block = self.blocks[index]
        normed = yield FrozenLayer("norm1", index, block.norm1, tokens)
        qkv = yield FrozenLayer("qkv", index, block.attn.qkv, normed)
        mixed = self._attend_in_windows(index, qkv)
        return block.drop_path1((yield FrozenLayer("proj", index, block.attn.proj, mixed)))

    def ffn(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        block = self.blocks[index]
        return block.drop_path2(block.mlp(block.norm2(tokens)))

    def ffn_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        block = self.blocks[index]
        mlp = block.mlp
        normed = yield FrozenLayer("norm2", index, block.norm2, tokens)
        hidden = mlp.norm(mlp.act((yield FrozenLayer("fc1", index, mlp.fc1, normed))))
        return block.drop_path2((yield FrozenLayer("fc2", index, mlp.fc2, hidden)))

    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        block = self.blocks[index]
        mixed = self._attend(index, self._qkv(index, block.norm1(sequence)), bias)
        return block.drop_path1(block.attn.proj(mixed))

    def _qkv_bias(self, index: int) -> Tensor | None:
        return self.blocks[index].attn.qkv.bias

    def _attend(self, index: int, qkv: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.num_heads(index), -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return _fused(q, k, v, bias)

    def _window_bias(self, index: int) -> Tensor:
        return self.blocks[index].attn._get_rel_pos_bias().squeeze(0)


class SwinV2Backbone(WindowedBackbone):
    """A timm ``SwinTransformerV2`` (swinv2_*) as a :class:`Backbone`; its residual branch is ``norm(f(x))``."""

    def __init__(self, model: SwinTransformerV2, name: str) -> None:
        if not isinstance(model, SwinTransformerV2):
            raise LavishError(
                f"backbone.model '{name}' is a {type(model).__name__}, not timm's SwinTransformerV2 "
                "(swinv2_cr_* is another architecture)"
            )
        super().__init__(model)

    def attention(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        if self._has_added(index, tokens):
            return apply_all(self.attention_layers(index, tokens))
        block = self.blocks[index]
        return block.drop_path1(block.norm1(self._attention(index, tokens)))

    def attention_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        # The linear layers are applied to the whole sequence instead of window by window, which is equivalent.
        block = self.blocks[index]
        qkv = yield FrozenLayer("qkv", index, lambda x: self._qkv(index, x), tokens)
        mixed = yield FrozenLayer("proj", index, block.attn.proj, self._attend_in_windows(index, qkv))
        return block.drop_path1((yield FrozenLayer("norm1", index, block.norm1, mixed)))

    def ffn(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        block = self.blocks[index]
        return block.drop_path2(block.norm2(block.mlp(tokens)))

    def ffn_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        block = self.blocks[index]
        mlp = block.mlp
        hidden = mlp.norm(mlp.act((yield FrozenLayer("fc1", index, mlp.fc1, tokens))))
        out = yield FrozenLayer("fc2", index, mlp.fc2, hidden)
        return block.drop_path2((yield FrozenLayer("norm2", index, block.norm2, out)))

    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        block = self.blocks[index]
        mixed = self._attend(index, self._qkv(index, sequence), bias)
        return block.drop_path1(block.norm1(block.attn.proj(mixed)))

    def _qkv_bias(self, index: int) -> Tensor | None:
        attention = self.blocks[index].attn
        if attention.q_bias is None:
            return None
        return torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])

    def _attend(self, index: int, qkv: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = qkv.unflatten(-1, (3, self.num_heads(index), -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q = functional.normalize(q, dim=-1) * self._constant("scale", index, self._scale)
        return _fused(q, functional.normalize(k, dim=-1), v, bias, scale=1.0)

    def _scale(self, index: int) -> Tensor:
        """Return the factor of the cosines of each head, (heads, 1, 1)."""
        return self.blocks[index].attn.logit_scale.clamp(max=math.log(100.0)).exp()

    def _window_bias(self, index: int) -> Tensor:
        block = self.blocks[index]
        attention = block.attn
        table = attention.cpb_mlp(attention.relative_coords_table).view(-1, attention.num_heads)
        area = block.window_size[0] * block.window_size[1]
        bias = table[attention.relative_position_index.view(-1)].view(area, area, -1)
        return 16 * torch.sigmoid(bias.permute(2, 0, 1))


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None = None) -> Tensor:
    """Return the attention (W, L, C) of windows (W, heads, L, C / heads), fused, so that no L x L matrix is kept.

    `bias` (windows of an image, heads, L, L), one for all (1, heads, L, L), or for a sequence (heads, L, L).
    """
    count, heads = len(q), q.shape[1]
    if bias is not None and bias.dim() == 4 and len(bias) > 1:
        # As further heads of the image, so that the bias is not repeated for each image.
        q, k, v = (x.reshape(-1, len(bias) * heads, *x.shape[2:]) for x in (q, k, v))
        bias = bias.flatten(0, 1).unsqueeze(0)
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return mixed.reshape(count, heads, *mixed.shape[2:]).transpose(1, 2).flatten(2)


def _windows(block: Any, patches: Tensor, padding: Tensor | None = None) -> Tensor:
    """Split patches (B, rows x columns, C) into the block's shifted windows (B x windows, L, C).

    A grid that is no multiple of the window is padded with zeros, or with the values of `padding` (C,).
    """
    (rows, columns), size, shift = block.input_resolution, block.window_size, block.shift_size
    grid = patches.unflatten(1, (rows, columns))
    if any(shift):
        grid = torch.roll(grid, shifts=(-shift[0], -shift[1]), dims=(1, 2))
    missing = (-rows % size[0], -columns % size[1])
    if any(missing):
        grid = functional.pad(grid, (0, 0, 0, missing[1], 0, missing[0]))
        if padding is not None:  # the queries, keys and values of zeros are the biases
            grid[:, rows:], grid[:, :rows, columns:] = padding, padding
    return window_partition(grid, size).flatten(1, 2)


def _from_windows(block: Any, windows: Tensor) -> Tensor:
    """Undo :func:`_windows`."""
    (rows, columns), size, shift = block.input_resolution, block.window_size, block.shift_size
    padded = (rows + -rows % size[0], columns + -columns % size[1])
    grid = window_reverse(windows.unflatten(1, size), size, padded)[:, :rows, :columns]
    if any(shift):
        grid = torch.roll(grid, shifts=shift, dims=(1, 2))
    return grid.flatten(1, 2)
