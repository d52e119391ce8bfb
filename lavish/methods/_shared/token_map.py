"""Bringing the other stream's tokens to this stream's number and width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.models.resizing import Resizing


class TokenConvolution(nn.Module):
    """y' = Lin_{C'->C}(W y + b) for y (B, N', C'): W (N, N') mixes tokens, the same for all channels.

    Equal to a 1x1 convolution whose channels are the tokens. The numbers of tokens are fixed.
    """

    def __init__(self, width: int, other_width: int, tokens: int, other_tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(other_tokens, tokens)
        self.channels = nn.Linear(other_width, width)

    def forward(self, other: Tensor) -> Tensor:
        """Turn (B, N', C') into (B, N, C)."""
        mixed = functional.linear(other.transpose(1, 2), self.tokens.weight, self.tokens.bias)
        return self.channels(mixed.transpose(1, 2))


class TokenResizing(nn.Module):
    """y' = bicubic(Lin_{C'->C} y): the patch grid is resized without trained weights; prefix tokens are unchanged."""

    def __init__(self, width: int, other_width: int, grid: tuple[int, int], other_grid: tuple[int, int]) -> None:
        super().__init__()
        self.channels = nn.Linear(other_width, width)
        self.grid = other_grid
        self.resize = Resizing(other_grid, grid)

    def forward(self, other: Tensor) -> Tensor:
        """Turn (B, prefix + N', C') into (B, prefix + N, C)."""
        mapped = self.channels(other)
        if self.resize.same:
            return mapped
        prefix = mapped.shape[1] - self.grid[0] * self.grid[1]
        patches = self.resize(mapped[:, prefix:].transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        return torch.cat([mapped[:, :prefix], patches], dim=1)
