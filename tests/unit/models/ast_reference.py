"""The audio spectrogram transformer, written out step by step as the paper and the public code describe it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ast_features(
    weights: dict[str, Tensor], spectrograms: Tensor, *, grid: tuple[int, int], stride: tuple[int, int], heads: int
) -> Tensor:
    """Return (B, C) for spectrograms (B, 1, mel bins, frames), with plain matrix products.

    `grid` is that of the position embedding in `weights`.
    """
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    size = kernel.shape[2:]
    rows = range(0, spectrograms.shape[2] - size[0] + 1, stride[0])
    columns = range(0, spectrograms.shape[3] - size[1] + 1, stride[1])
    patches = [
        spectrograms[:, 0, row : row + size[0], column : column + size[1]].flatten(1) @ kernel.flatten(1).T + bias
        for row in rows
        for column in columns
    ]
    positions = weights["pos_embed"][0]
    table = resize(resize(positions[2:].unflatten(0, grid), len(rows), 0), len(columns), 1).flatten(0, 1)
    x = torch.stack(patches, dim=1) + table
    first = torch.cat([weights["cls_token"][0], weights["dist_token"][0]]) + positions[:2]
    x = torch.cat([first.expand(len(x), -1, -1), x], dim=1)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for index in range(depth):
        block = {
            name.removeprefix(f"blocks.{index}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"blocks.{index}.")
        }
        x = x + attention(norm(x, block, "norm1"), block, heads)
        hidden = linear(norm(x, block, "norm2"), block, "mlp.fc1")
        x = x + linear(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), block, "mlp.fc2")
    x = norm(x, weights, "norm")
    return (x[:, 0] + x[:, 1]) / 2


def resize(table: Tensor, length: int, dim: int) -> Tensor:
    """Cut the middle out of a table (rows, columns, C) along a dimension, or stretch it linearly."""
    own = table.shape[dim]
    if length <= own:
        return table.narrow(dim, int(own / 2) - int(length / 2), length)
    taken = []
    for index in range(length):
        place = min(max((index + 0.5) * own / length - 0.5, 0.0), own - 1.0)
        low = int(place)
        high = min(low + 1, own - 1)
        taken.append((1 - (place - low)) * table.select(dim, low) + (place - low) * table.select(dim, high))
    return torch.stack(taken, dim)


def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x: Tensor, weights: dict[str, Tensor], heads: int) -> Tensor:
    queries, keys, values = linear(x, weights, "attn.qkv").chunk(3, dim=-1)
    width = x.shape[-1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(width)
        mixed.append(logits.softmax(dim=-1) @ values[..., part])
    return linear(torch.cat(mixed, dim=-1), weights, "attn.proj")
