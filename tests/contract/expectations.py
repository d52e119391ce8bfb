"""What each method promises: one row a method, held by test_methods.py on every backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lavish.backbones.base import Backbone


@dataclass(frozen=True)
class Sizes:
    """What closed formulas are made of: one block of one stream."""

    width: int
    """C"""
    hidden: int
    """Width of the feed-forward layer."""
    tokens: int
    """N, the tokens of a picture in this block; the same in both streams here."""
    heads: int


@dataclass(frozen=True)
class Expectation:
    """What a method promises."""

    parameters: Callable[[list[Sizes], int], int]
    """The closed formula: trainable parameters for both streams, from the sizes of all blocks and a clip's steps."""
    frozen_at_start: bool = True
    """Whether nothing changes before the first training step."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options that fit the tests' small backbones, where the defaults do not."""


def each_block(formula: Callable[[Sizes], int]) -> Callable[[list[Sizes], int], int]:
    """Return the closed formula of a method that has the same parts in each block, for both streams."""
    return lambda blocks, _: 2 * sum(formula(block) for block in blocks)


def sizes(backbone: Backbone) -> list[Sizes]:
    """Return the sizes of a backbone's blocks."""
    grids = backbone.grid_sizes(backbone.image_size)
    return [
        Sizes(width, len(backbone.linear(index, "fc1")[0]), backbone.num_prefix_tokens + rows * columns,
              backbone.num_heads(index))
        for index, (width, (rows, columns)) in enumerate(zip(backbone.widths, grids, strict=True))
    ]  # fmt: skip


def _lavish(block: Sizes) -> int:
    # Latent tokens, two grouped maps, batch norms inside and layer norms around the bottleneck, two gates; 2 positions.
    c, h, groups, latents = block.width, block.width // 8, 2, 2
    return 2 * (latents * c + 2 * c * h // groups + 2 * h + 2 * c + 4 * c + 2)


def _temporal_gates(width: int, d: int) -> int:
    # After the backbone: a linear map and an LSTM in both directions for each stream; of its output, a map and two
    # layers, a gate, a map and one layer. A layer: four maps of attention, two of the feed-forward network, two norms.
    def recurrence(inner: int, hidden: int) -> int:
        return (width + 1) * inner + 2 * 4 * hidden * (inner + hidden + 2)

    layer = 4 * (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 4 * d
    visual, audio = recurrence(2 * d, d), recurrence(d // 2, d // 2)
    return visual + audio + 2 * (2 * d + 1) * d + 2 * (d + 1) * d + 2 * (3 * layer + d + 1)


def _bottleneck(c: int, reduction: int = 8, groups: int = 2) -> int:
    # Two grouped maps, batch norms inside, layer norms around.
    h = c // reduction
    return 2 * c * h // groups + 2 * h + 2 * c + 4 * c


def _dg_sct(blocks: list[Sizes], _: int) -> int:
    # Channel and token attention, token map, 32 latent tokens, bottleneck, two gates; 2 positions, 2 streams.
    def adapter(c: int, n: int) -> int:
        return 4 * c * c + 5 * c + 1 + n * n + n + c * c + c + 32 * c + _bottleneck(c) + 2

    return 4 * sum(adapter(b.width, b.tokens) for b in blocks) + _temporal_gates(blocks[-1].width, d=8)


def _av_moe(blocks: list[Sizes], _: int) -> int:
    # Token map, router of two experts, two bottlenecks with a gate, latent tokens and a gate; 2 positions, 2 streams.
    def mixture(c: int, n: int) -> int:
        router = 256 * c + 4256 + 33 * 2
        return n * n + n + c * c + c + router + 2 * (_bottleneck(c) + 1) + 32 * c + 1

    return 4 * sum(mixture(b.width, b.tokens) for b in blocks) + _temporal_gates(blocks[-1].width, d=8)


METHODS: dict[str, Expectation] = {
    "av_moe": Expectation(_av_moe, options={"skip": 1, "balance": 0.01, "temporal_width": 8}),
    "dg_sct": Expectation(_dg_sct, options={"temporal_width": 8}),
    "lavish": Expectation(each_block(_lavish)),
}
