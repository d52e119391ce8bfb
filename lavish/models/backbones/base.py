"""The one interface over frozen image transformers that the rest of the library knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

LayerName = Literal["patch_embed", "norm1", "qkv", "proj", "norm2", "fc1", "fc2", "norm"]


@dataclass(frozen=True)
class FrozenLayer:
    """A frozen layer about to be applied to one stream's tokens."""

    name: LayerName
    block: int | None
    """None outside of blocks: the patch embedding and the norm after the last block."""
    layer: Callable[[Tensor], Tensor]
    tokens: Tensor
    """(B, N, C), or the pictures (B, 3, H, W) that are to be embedded."""


Layers = Generator[FrozenLayer, Tensor, Tensor]
"""A part of the backbone, layer by layer: yields each before it is applied, is sent its output, returns the part's."""


class Backbone(nn.Module, ABC):
    """A frozen image transformer, taken apart into the pieces adapters act beside.

    Tokens are always (B, N, C). A block is two residual branches, ``attention`` and ``ffn``; each returns what is added
    to the residual stream, so that pre-norm and post-norm transformers look alike:

        for index in range(backbone.num_blocks):
            x = backbone.enter(index, x)
            x = x + backbone.attention(index, x)
            x = x + backbone.ffn(index, x)
        x = backbone.final(x)

    What acts on single layers goes through the same parts layer by layer: ``embedding_layers``, ``attention_layers``,
    ``ffn_layers`` and ``final_layers``.

    Tokens that stand for nothing in the picture may be added: they come behind the class token, before the patches.
    Where attention has windows, they take part in every window, and what the windows make of them is averaged.
    """

    model: Any
    """timm's model; its parts are reached through it in this package only."""
    widths: tuple[int, ...]
    """Token width of each block."""
    stage_ends: tuple[int, ...]
    """Index of the last block of each stage (four stages of one scale each for a plain ViT)."""
    num_prefix_tokens: int
    """Tokens before the grid of patches (class, distillation and register tokens)."""
    windowed: bool = False
    """Whether attention sees one window of the picture at a time, shifted in every second block of a stage."""

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
    def embedding_layers(self, images: Tensor) -> Layers:
        """Do what :meth:`embed` does, layer by layer."""

    @abstractmethod
    def attention_layers(self, index: int, tokens: Tensor) -> Layers:
        """Do what :meth:`attention` does, layer by layer."""

    @abstractmethod
    def ffn_layers(self, index: int, tokens: Tensor) -> Layers:
        """Do what :meth:`ffn` does, layer by layer."""

    def final_layers(self, tokens: Tensor) -> Layers:
        """Do what :meth:`final` does, layer by layer."""
        return (yield FrozenLayer("norm", None, self.model.norm, tokens))

    @abstractmethod
    def attention_over(self, index: int, sequence: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the attention branch of block `index` over a sequence (B, L, C) that is no picture.

        `bias` (heads, L, L) is added to the logits; there are no windows and no bias of the backbone's own.
        """

    def windows(self, index: int, tokens: Tensor) -> Tensor:
        """Cut a picture's tokens (B, N, C) into what block `index` attends within: (B x windows, L, C)."""
        return tokens

    def from_windows(self, index: int, windows: Tensor) -> Tensor:
        """Undo :meth:`windows`."""
        return windows

    @abstractmethod
    def linear(self, index: int, name: LayerName) -> tuple[Tensor, Tensor | None]:
        """Return weight (out, in) and bias (out,) of the frozen linear map `qkv`, `proj`, `fc1` or `fc2` of a block."""

    @abstractmethod
    def num_heads(self, index: int) -> int:
        """Return how many heads the attention of block `index` has."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the pictures it was built for."""

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of a patch."""

    def add_tokens(self, tokens: Tensor, added: Tensor) -> Tensor:
        """Put further tokens (B, P, C) into the sequence (B, N, C): behind the class token, before all else."""
        prefix = self.num_prefix_tokens
        return torch.cat([tokens[:, :prefix], added, tokens[:, prefix:]], dim=1)

    def take_tokens(self, tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Undo :meth:`add_tokens`: return the sequence without the first `count` added tokens, and those."""
        prefix = self.num_prefix_tokens
        rest = torch.cat([tokens[:, :prefix], tokens[:, prefix + count :]], dim=1) if prefix else tokens[:, count:]
        return rest, tokens[:, prefix : prefix + count]

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """Pool normed tokens (B, N, C) into one feature a picture (B, C)."""

    @abstractmethod
    def grid_sizes(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Return the patch grid (rows, columns) in each block for a picture of `image_size`, or raise LavishError."""

    def norms(self) -> list[nn.Module]:
        """Return the normalisation layers of the blocks and the final one (those `tune_norms` trains)."""
        return [module for module in self.model.modules() if isinstance(module, nn.LayerNorm)]

    def tunable(self, blocks: Iterable[int]) -> dict[str, nn.Parameter]:
        """Return the parameters of chosen blocks by name, for methods that train the backbone's own.

        What leads to a block goes with it (embedding, merging of patches), and what follows the last one with that.
        """
        chosen = set(blocks)
        return {name: p for name, p in self.model.named_parameters() if self._block_of(name) in chosen}

    @abstractmethod
    def _block_of(self, name: str) -> int:
        """Return the block that a parameter of timm's model goes with."""

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
