"""The common interface of frozen image transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import RmsNorm
from torch import Tensor, nn

LayerName = Literal["patch_embed", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "norm"]


@dataclass(frozen=True)
class FrozenLayer:
    """A frozen layer and its input in one stream, before it is applied."""

    name: LayerName
    block: int | None
    """None for the patch embedding and the norm after the last block."""
    layer: Callable[[Tensor], Tensor]
    tokens: Tensor
    """(B, N, C), or images (B, channels, H, W) for the patch embedding."""


Layers = Generator[FrozenLayer, Tensor, Tensor]
"""A part of the backbone as a generator: yields each layer, receives the layer's output, returns the part's output."""

Grid = tuple[int, int]
"""Rows and columns of the patches of an image."""


class Backbone(nn.Module, ABC):
    """A frozen image transformer, split into the parts between which methods act.

    Tokens are always (B, N, C). A block is two residual branches, ``attention`` and ``ffn``; each returns its update of
    the residual stream, so that pre-norm and post-norm transformers have the same interface:

        for index in range(backbone.num_blocks):
            x = backbone.enter(index, x)
            x = x + backbone.attention(index, x, grids[index])
            x = x + backbone.ffn(index, x, grids[index])
        x = backbone.final(x)

    ``grids`` are the :meth:`grid_sizes` of the images. Attention with rotary positions needs the grid, because tokens
    alone do not tell where they are: two grids may have the same number of patches, and methods may add tokens. Without
    one it is that of :attr:`image_size`. Both branches take it, so that they are called alike.

    ``embed_layers``, ``attention_layers``, ``ffn_layers`` and ``final_layers`` run the same parts layer by layer,
    for methods that change single layers.

    Methods may add tokens, between the class token and the patches. With windowed attention they take part in every
    window, and their outputs are averaged over the windows. They have no rotary position, like the class token.
    """

    model: Any
    """timm's model; only this package accesses its parts."""
    widths: tuple[int, ...]
    """Token width of each block."""
    stage_ends: tuple[int, ...]
    """Index of the last block of each stage (four stages of one scale each for a plain ViT)."""
    scale_depths: tuple[int, ...]
    """Number of blocks of each scale: of each stage with its own resolution, or all blocks of a plain ViT."""
    num_prefix_tokens: int
    """Number of tokens before the patches (class, distillation and register tokens)."""
    windowed: bool = False
    """Whether attention is limited to windows of the image, which are shifted in every second block of a stage."""

    @property
    def num_blocks(self) -> int:
        """Number of transformer blocks."""
        return len(self.widths)

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature."""
        return self.widths[-1]

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Return the input tokens (B, N, C) of the first block for normalised images (B, channels, H, W)."""

    @abstractmethod
    def enter(self, index: int, tokens: Tensor) -> Tensor:
        """Apply patch merging if block `index` is the first of a stage."""

    @abstractmethod
    def attention(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Return the attention branch of block `index`, (B, N, C)."""

    @abstractmethod
    def ffn(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Tensor:
        """Return the feed-forward branch of block `index`, (B, N, C)."""

    @abstractmethod
    def final(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block."""

    @abstractmethod
    def embed_layers(self, images: Tensor) -> Layers:
        """Run :meth:`embed` layer by layer."""

    @abstractmethod
    def attention_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        """Run :meth:`attention` layer by layer."""

    @abstractmethod
    def ffn_layers(self, index: int, tokens: Tensor, grid: Grid | None = None) -> Layers:
        """Run :meth:`ffn` layer by layer."""

    def final_layers(self, tokens: Tensor) -> Layers:
        """Run :meth:`final` layer by layer."""
        return (yield FrozenLayer("norm", None, self.model.norm, tokens))

    @abstractmethod
    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attention branch of block `index` for any sequence (B, L, C), without windows or position bias.

        `bias` (heads, L, L) is added to the attention logits.
        """

    def windows(self, index: int, tokens: Tensor) -> Tensor:
        """Split tokens (B, N, C) into the attention windows of block `index`, (B x windows, L, C)."""
        return tokens

    def from_windows(self, index: int, windows: Tensor) -> Tensor:
        """Undo :meth:`windows`."""
        return windows

    @abstractmethod
    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        """Return weight (out, in) and bias (out,) of the linear layer `qkv`, `proj`, `fc1` or `fc2` of a block."""

    @abstractmethod
    def num_heads(self, index: int) -> int:
        """Return the number of attention heads of block `index`."""

    @property
    def in_channels(self) -> int:
        """Number of channels of the images: 3, or 1 for log-mels alone."""
        return self.model.patch_embed.proj.in_channels

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that it was built for, pixels."""

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, pixels."""

    def add_tokens(self, tokens: Tensor, added: Tensor) -> Tensor:
        """Insert tokens (B, P, C) into the sequence (B, N, C) after the prefix tokens."""
        prefix = self.num_prefix_tokens
        return torch.cat([tokens[:, :prefix], added, tokens[:, prefix:]], dim=1)

    def take_tokens(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Undo :meth:`add_tokens`: return the sequence without `count` added tokens, and these tokens."""
        prefix = self.num_prefix_tokens
        rest = torch.cat([tokens[:, :prefix], tokens[:, prefix + count :]], dim=1) if prefix else tokens[:, count:]
        return rest, tokens[:, prefix : prefix + count]

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Pool normed tokens (B, N, C) into one feature per image (B, C).

        Of tokens that are all alike, at least :attr:`num_prefix_tokens` + 1, it is what this token alone gives.
        """

    @abstractmethod
    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[Grid, ...]:
        """Return the patch grid (rows, columns) in each block for images of `image_size`, or raise LavishError."""

    def norms(self) -> list[nn.Module]:
        """Return the layer norms, which `tune_norms` trains; the last one is that of the output tokens."""
        return [module for module in self.model.modules() if isinstance(module, nn.LayerNorm | RmsNorm)]

    def tunable(self, blocks: Iterable[int]) -> dict[str, nn.Parameter]:
        """Return the parameters of chosen blocks by name, for methods that train them.

        The embedding belongs to the first block, patch merging to the block after it, and the last norm to the last.
        """
        chosen = set(blocks)
        return {name: p for name, p in self.model.named_parameters() if self._block_of(name) in chosen}

    @abstractmethod
    def _block_of(self, name: str) -> int:
        """Return the block that a parameter of timm's model belongs to."""

    def freeze(self, *, stochastic_depth: bool, tune_norms: bool) -> None:
        """Freeze all parameters and buffers; the two exceptions are published practice and off by default."""
        self.requires_grad_(False)
        self._stochastic_depth = stochastic_depth
        if tune_norms:
            for norm in self.norms():
                norm.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Keep the frozen model in evaluation mode, except for its stochastic depth if that is enabled."""
        super().train(mode)
        self.model.eval()
        if mode and getattr(self, "_stochastic_depth", False):
            for module in self.model.modules():
                if type(module).__name__ == "DropPath":
                    module.train()
        return self

    def cast_products(self, dtype: torch.dtype) -> None:
        """Store the frozen weights of linear layers and convolutions in `dtype`, for forward passes under autocast.

        Autocast casts weights that are not trained in every step, to the same numbers. What is trained, norms and the
        small network of a position bias stay in float32.
        """
        for name, layer in self.model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and "cpb_mlp" not in name:
                for parameter in layer.parameters(recurse=False):
                    if not parameter.requires_grad:
                        parameter.data = parameter.data.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Return the frozen backbone's pooled features (B, C) of normalised images (B, channels, H, W)."""
        return self.pool(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """Return the frozen backbone's normed tokens (B, N, C) of normalised images (B, channels, H, W)."""
        tokens = self.embed(images)
        grids = self.grid_sizes((images.shape[-2], images.shape[-1]))
        for index in range(self.num_blocks):
            tokens = self.enter(index, tokens)
            tokens = tokens + self.attention(index, tokens, grids[index])
            tokens = tokens + self.ffn(index, tokens, grids[index])
        return self.final(tokens)


def quarters(depth: int) -> tuple[int, ...]:
    """Return the index of the last block of each quarter of a single-scale transformer."""
    return tuple(max(0, round(depth * part / 4) - 1) for part in (1, 2, 3, 4))


def stretch_linear(positions: Tensor, length: int) -> Tensor:
    """Resize a position embedding (1, N, C), with class token, to `length` tokens by 1-D linear interpolation."""
    return torch.nn.functional.interpolate(positions.transpose(1, 2), size=length, mode="linear").transpose(1, 2)


def apply_all(layers: Layers) -> Tensor:
    """Apply every layer of a part unchanged, and return the part's output."""
    layer = next(layers)
    while True:
        try:
            layer = layers.send(layer.layer(layer.tokens))
        except StopIteration as end:
            return end.value
