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


def _windowed(blocks: list[Sizes]) -> bool:
    return len({block.width for block in blocks}) > 1  # of the tests' backbones, only Swin V2 has stages


def _stg_cma(blocks: list[Sizes], steps: int) -> int:
    count = 0
    for index, block in enumerate(blocks):
        c, h = block.width, block.width // 4
        bottleneck = 2 * c * h + h + c
        in_stage = sum(earlier.width == c for earlier in blocks[:index])
        count += 4 * bottleneck + 2  # spatial and global in two streams, two gates
        if not _windowed(blocks):
            count += 2 * bottleneck
        elif in_stage % 2 == 0:
            count += 2 * bottleneck + 2 * (2 * steps - 1) * block.heads  # a table of biases by distance
    # Embeddings of the steps, and the last norm.
    return count if _windowed(blocks) else count + 2 * steps * blocks[0].width + 2 * blocks[-1].width


def _cola(block: Sizes) -> int:
    # q, k, v, the projection, both maps of the feed-forward layer; r = 4, and a hyper-network of width C / 4 for each.
    c, f, r, h = block.width, block.hidden, 4, block.width // 4
    hyper = c * h + h + 2 * h + h * r * r + r * r + 2 * r * r
    return 4 * (2 * r * (c + c)) + 2 * (2 * r * (c + f)) + 6 * (hyper + 1)


def _mbt(blocks: list[Sizes], _: int) -> int:
    return 4 * blocks[-2].width  # tokens that join before the last block but one


def _molt(blocks: list[Sizes], _: int) -> int:
    width, latents = blocks[-1].width, 3
    d = width // 4
    # A norm, the map to d, two sets of latent tokens, the router; in the last two blocks.
    layers = sum(2 * b.width + b.width * d + d + 2 * latents * d + 2 * d * 2 + 2 for b in blocks[-2:])
    # The importance of a layer, the tokens' queries, the way back.
    return 2 * (layers + d + width * d + d + d * width + width)


METHODS: dict[str, Expectation] = {
    "cola": Expectation(each_block(_cola), options={"rank": 4, "alpha": 2.0, "reduction": 4}),
    "lavish": Expectation(each_block(_lavish)),
    "mbt": Expectation(_mbt, frozen_at_start=False, options={"layers": 2}),
    "molt": Expectation(_molt, options={"layers": 2, "latents": 3}),
    "stg_cma": Expectation(_stg_cma, options={"reduction": 4}),
}
