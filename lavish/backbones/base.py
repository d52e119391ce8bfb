"""The one interface over frozen image transformers that the rest of the library knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A frozen image transformer, taken apart into the pieces adapters act beside.

    Tokens are always (B, N, C). A block is two residual branches, ``attention`` and ``ffn``; each returns what is added
    to the residual stream, so that pre-norm and post-norm transformers look alike:

        for index in range(backbone.num_blocks):
            x = backbone.enter(index, x)
            x = x + backbone.attention(index, x)
            x = x + backbone.ffn(index, x)
        x = backbone.final(x)
    """

    model: Any
    """timm's model; its parts are reached through it in this package only."""
    widths: tuple[int, ...]
    """Token width of each block."""
    stage_ends: tuple[int, ...]
    """Index of the last block of each stage (four stages of one scale each for a plain ViT)."""
    num_prefix_tokens: int
    """Tokens before the grid of patches (class, distillation and register tokens)."""

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
        """Turn normalised images (B, 3, H, W) into the tokens (B, N, C) that enter the first block."""

    @abstractmethod
    def enter(self, index: int, tokens: Tensor) -> Tensor:
        """Do what happens before block `index` (merging patches at the start of a stage)."""

    @abstractmethod
    def attention(self, index: int, tokens: Tensor) -> Tensor:
        """Return the attention branch of block `index`, (B, N, C)."""

    @abstractmethod
    def ffn(self, index: int, tokens: Tensor) -> Tensor:
        """Return the feed-forward branch of block `index`, (B, N, C)."""

    @abstractmethod
    def final(self, tokens: Tensor) -> Tensor:
        """Apply the norm after the last block."""

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Pool normed tokens (B, N, C) into one feature a picture (B, C)."""

    @abstractmethod
    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the patch grid (rows, columns) in each block for a picture of `image_size`, or raise LavishError."""

    def norms(self) -> list[nn.Module]:
        """Return the normalisation layers of the blocks and the final one (those `tune_norms` trains)."""
        return [module for module in self.model.modules() if isinstance(module, nn.LayerNorm)]

    def freeze(self, *, stochastic_depth: bool, tune_norms: bool) -> None:
        """Stop all gradients and fix all buffers; both exceptions are published practice, off by default."""
        self.requires_grad_(False)
        self._stochastic_depth = stochastic_depth
        if tune_norms:
            for norm in self.norms():
                norm.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Keep the frozen model in evaluation mode, unless its stochastic depth was asked for."""
        super().train(mode)
        self.model.eval()
        if mode and getattr(self, "_stochastic_depth", False):
            for module in self.model.modules():
                if type(module).__name__ == "DropPath":
                    module.train()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the frozen backbone's pooled features (B, C) of normalised images (B, 3, H, W)."""
        return self.pool(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """Return the frozen backbone's normed tokens (B, N, C) of normalised images (B, 3, H, W)."""
        tokens = self.embed(images)
        for index in range(self.num_blocks):
            tokens = self.enter(index, tokens)
            tokens = tokens + self.attention(index, tokens)
            tokens = tokens + self.ffn(index, tokens)
        return self.final(tokens)


def quarters(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of a single-scale transformer of at least one block."""
    return tuple(max(0, round(depth * part / 4) - 1) for part in (1, 2, 3, 4))


def stretch_linear(positions: Tensor, length: int) -> Tensor:
    """Stretch a position embedding (1, N, C), class token included, to `length` tokens by 1-D linear interpolation."""
    return torch.nn.functional.interpolate(positions.transpose(1, 2), size=length, mode="linear").transpose(1, 2)
