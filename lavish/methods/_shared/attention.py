"""Attention that several methods share: without projections, through latent tokens, and with heads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError


def attend(queries: Tensor, keys: Tensor) -> Tensor:
    """Return softmax(q k^T) k for q (B, N, C) and k (B, M, C): one head, keys as values, no scaling.

    Fused, so that the N x M matrix is never stored.
    """
    return functional.scaled_dot_product_attention(
        queries.unsqueeze(1), keys.unsqueeze(1), keys.unsqueeze(1), scale=1.0
    ).squeeze(1)


def attend_through(latents: Tensor, tokens: Tensor, other: Tensor, gate: Tensor) -> Tensor:
    """Return x + g softmax(x m'^T) m' for x (B, N, C), m' = m + softmax(m y^T) y, m (M, C), y (B, N', C) and scalar g.

    The M latent tokens m attend to `other` y, then `tokens` x attend to the updated latent tokens m'.
    """
    latents = latents.expand(len(other), -1, -1)
    read = torch.baddbmm(latents, torch.bmm(latents, other.transpose(1, 2)).softmax(dim=-1), other)
    # The gate scales a few latent tokens instead of all tokens.
    return torch.baddbmm(tokens, torch.bmm(tokens, read.transpose(1, 2)).softmax(dim=-1), gate * read)


def initial_latents(latents: int, width: int, latent_init: Literal["uniform", "zeros"]) -> Tensor:
    """Return the initial latent tokens (M, C): uniform on [0, 1), or zero."""
    return torch.rand(latents, width) if latent_init == "uniform" else torch.zeros(latents, width)


class LatentAttention(nn.Module):
    """:func:`attend_through` with trained latent tokens and a gate that starts at 0."""

    def __init__(self, width: int, latents: int, latent_init: Literal["uniform", "zeros"] = "uniform") -> None:
        super().__init__()
        if latents < 1:
            raise LavishError(f"adapter.options.latents: {latents}, attention through latent tokens needs at least 1")
        self.gate = nn.Parameter(torch.zeros(()))
        self.latents = nn.Parameter(initial_latents(latents, width, latent_init))

    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Return `tokens` (B, N, C) after attending to `other` (B, N', C)."""
        return attend_through(self.latents, tokens, other, self.gate)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with `heads` heads and linear projections, initialised as torch's own."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise LavishError(f"attention of {heads} heads needs a width that is a multiple of it, not {width}")
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        # torch initialises queries, keys and values as one (3 C, C) matrix.
        bound = (6 / (4 * width)) ** 0.5
        for projection in (self.query, self.memory):
            nn.init.uniform_(projection.weight, -bound, bound)
        for projection in (self.query, self.memory, self.out):
            nn.init.zeros_(projection.bias)

    def forward(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Return (B, N, C) for `tokens` (B, N, C) that attend to `memory` (B, N', C)."""
        query = self.query(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.memory(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).flatten(2))
