"""Bicubic resizing whose gradient is the same each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Resizing(nn.Module):
    """Bicubic resizing of maps from `source` to `target`, (rows, columns) each, as two matrix products.

    `interpolate` gives the same, but on a GPU its gradient is another one each time.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        self.down: Tensor
        self.across: Tensor
        self.same = source == target
        self.register_buffer("down", _bicubic(source[0], target[0]), persistent=False)
        self.register_buffer("across", _bicubic(source[1], target[1]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, C, rows, columns) of `source` into those of `target`."""
        if self.same:
            return x
        return ((x @ self.across).transpose(2, 3) @ self.down).transpose(2, 3)


def _bicubic(length: int, size: int) -> Tensor:
    """Return the matrix (length, size) by which rows of `length` values are resized to `size`."""
    units = torch.eye(length).view(length, 1, length, 1)
    return functional.interpolate(units, (size, 1), mode="bicubic").view(length, size)
