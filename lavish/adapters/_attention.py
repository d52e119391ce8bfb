"""Attention as LAVISH and its successors use it between streams: one head, no projections, no scaling."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attend(queries: Tensor, keys: Tensor) -> Tensor:
    """Return softmax(q k^T) k for q (B, N, C) and k (B, M, C): one head, keys as values, no scaling.

    Fused, so that without latent tokens no N x N' matrix is ever in memory.
    """
    return functional.scaled_dot_product_attention(
        queries.unsqueeze(1), keys.unsqueeze(1), keys.unsqueeze(1), scale=1.0
    ).squeeze(1)
