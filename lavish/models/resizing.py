"""Bicubic resizing with a deterministic gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Resizing(nn.Module):
    """Bicubic resizing of maps from `source` to `target` (rows, columns) as two matrix products.

    Equivalent to torch's `interpolate`, whose gradient is not deterministic on a GPU.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        self.down: Tensor
        self.across: Tensor
        self.same = source == target
        self.register_buffer("down", _bicubic(source[0], target[0]), persistent=False)
        self.register_buffer("across", _bicubic(source[1], target[1]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Resize maps (B, C, rows, columns)."""
        if self.same:
            return x
        return ((x @ self.across).transpose(2, 3) @ self.down).transpose(2, 3)


def _bicubic(length: int, size: int) -> Tensor:
    """Return the matrix (length, size) that resizes rows of `length` values to `size`."""
    units = torch.eye(length).view(length, 1, length, 1)
    return functional.interpolate(units, (size, 1), mode="bicubic").view(length, size)
