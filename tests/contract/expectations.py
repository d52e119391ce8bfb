"""What each method promises: one row a method, held by test_methods.py on every backbone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import LayerScale
from torch import nn

from lavish.models.backbones.base import Backbone
from lavish.models.backbones.eva import EvaBackbone
from lavish.models.backbones.htsat import HTSATBackbone
from lavish.models.backbones.swin import SwinV2Backbone, WindowedBackbone


@dataclass(frozen=True)
class Sizes:
    """What closed formulas are made of: one block of one stream."""

    width: int
    """C"""
    hidden: int
    """Width of the feed-forward layer."""
    widened: int
    """Outputs of its first map: twice the hidden width with a gate."""
    tokens: int
    """N, the tokens of an image in this block; the same in both streams here."""
    heads: int
    prefix: int
    """Tokens before the patches."""
    patch: int
    """Side of a patch in pixels."""
    channels: int
    """Channels of an image."""
    window: int
    """Side of an attention window in patches; 0 for a ViT."""
    second: bool
    """Whether it is a block of a Swin V2."""
    key_bias: bool = True
    """Whether keys have a bias."""
    inner_norms: bool = False
    """Whether attention and the feed-forward layer have a norm before their last map."""
    layer_scale: bool = False
    """Whether both branches are scaled channel by channel."""
    positions: int = 0
    """Tokens with a trained position."""
    pre_norm: bool = False
    """Whether there is a norm before the first block, and then no bias of the patch embedding."""
    pooling: bool = False
    """Whether it pools by attention."""
    normed: int = 0
    """Channels of a batch norm of the input; 0 without one."""


@dataclass(frozen=True)
class Expectation:
    """What a method promises."""

    parameters: Callable[[list[Sizes], int], int]
    """The closed formula: trainable parameters for both streams, from the sizes of all blocks and a clip's segments."""
    frozen_at_start: bool = True
    """Whether nothing changes before the first training segment."""


def each_block(formula: Callable[[Sizes], int]) -> Callable[[list[Sizes], int], int]:
    """Return the closed formula of a method that has the same parts in each block, for both streams."""
    return lambda blocks, _: 2 * sum(formula(block) for block in blocks)


def sizes(backbone: Backbone) -> list[Sizes]:
    """Return the sizes of a backbone's blocks."""
    grids = backbone.grid_sizes(backbone.image_size)
    return [
        Sizes(width, backbone.linear(index, "fc2")[0].shape[1], len(backbone.linear(index, "fc1")[0]),
              backbone.num_prefix_tokens + rows * columns, backbone.num_heads(index), backbone.num_prefix_tokens,
              backbone.patch_size[0], backbone.in_channels,
              backbone.blocks[index].window_size[0] if isinstance(backbone, WindowedBackbone) else 0,
              isinstance(backbone, SwinV2Backbone), **_plain(backbone),
              normed=backbone.model.bn0.num_features if isinstance(backbone, HTSATBackbone) else 0)
        for index, (width, (rows, columns)) in enumerate(zip(backbone.widths, grids, strict=True))
    ]  # fmt: skip


def _plain(backbone: Backbone) -> dict[str, Any]:
    """Return what tells plain transformers apart."""
    if isinstance(backbone, WindowedBackbone):
        return {}
    model, block = backbone.model, backbone.model.blocks[0]
    return {
        "key_bias": not isinstance(backbone, EvaBackbone),
        "inner_norms": not isinstance(block.attn.norm, nn.Identity),
        "layer_scale": getattr(block, "gamma_1", None) is not None
        or isinstance(getattr(block, "ls1", None), LayerScale),
        "positions": 0 if model.pos_embed is None else model.pos_embed.shape[1],
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
        "pooling": model.attn_pool is not None,
    }


def _lavish(block: Sizes) -> int:
    # Latent tokens, two grouped maps, batch norms inside and layer norms around the bottleneck, two gates; 2 positions.
    c, h, groups, latents = block.width, block.width // 8, 2, 2
    return 2 * (latents * c + 2 * c * h // groups + 2 * h + 2 * c + 4 * c + 2)


def _bottleneck(c: int, h: int) -> int:
    return 2 * c * h + h + c


def _compacter(blocks: list[Sizes], _: int) -> int:
    # Per map: n factors s t of rank 1 and a bias; n matrices (n, n) a stream; 2 positions.
    n, reduction = 4, 4
    maps = sum((b.width + h) + h + (h + b.width) + b.width for b in blocks for h in [b.width // reduction])
    return 2 * (n**3 + 2 * maps)


def _ssf(blocks: list[Sizes], _: int) -> int:
    # Behind norm1, qkv, proj, norm2, fc1, fc2; behind the patch embedding and the last norm.
    inside = sum(2 * (b.width + 3 * b.width + b.width + b.width + b.widened + b.width) for b in blocks)
    return 2 * (inside + 2 * blocks[0].width + 2 * blocks[-1].width)


def _norms(blocks: list[Sizes], _: int) -> int:
    # Two in each block and the last one, and further ones of some plain transformers. In a Swin also that of the patch
    # embedding and of each merging: before the linear map of four patches, and behind it in a Swin V2.
    channels = sum(2 * b.width + b.inner_norms * (b.width + b.hidden) for b in blocks)
    channels += (1 + blocks[-1].pre_norm + blocks[-1].pooling) * blocks[-1].width
    if blocks[0].window:
        merged = [wide if blocks[0].second else 4 * narrow for narrow, wide in _merged(blocks)]
        channels += blocks[0].width + sum(merged)
    return 2 * channels


def _biases(blocks: list[Sizes], _: int) -> int:
    # Of qkv (no keys in Swin V2, but a network of 512 channels for the position bias), proj, fc1, fc2 and the norms. Of
    # attention pooling: query, keys, values, projection, and a feed-forward layer of 4 C.
    first = blocks[0]
    inside = sum(
        (2 * b.width + 512 if b.second else (2 + b.key_bias) * b.width) + 2 * b.width + b.widened for b in blocks
    )
    outside = (not first.pre_norm) * first.width + 9 * first.pooling * first.width + first.normed
    return inside + outside + _norms(blocks, 0) // 2


def _everything(blocks: list[Sizes], _: int) -> int:
    first = blocks[0]
    total = _biases(blocks, 0) + _norms(blocks, 0) // 2 + first.channels * first.patch**2 * first.width + first.normed
    for b in blocks:
        total += 4 * b.width**2 + b.width * (b.widened + b.hidden) + 2 * b.layer_scale * b.width
        if b.second:  # temperature of the cosines; position bias from two coordinates
            total += b.heads + 512 * (2 + b.heads)
        elif b.window:  # a table of position biases
            total += (2 * b.window - 1) ** 2 * b.heads
    if first.window:
        return total + sum(4 * narrow * wide for narrow, wide in _merged(blocks))
    if first.pooling:  # the query, and the maps that _biases lists
        total += first.width + 12 * first.width**2
    return total + (first.prefix + first.positions) * first.width


def _merged(blocks: list[Sizes]) -> list[tuple[int, int]]:
    """Return the widths before and behind each merging of patches."""
    return [(a.width, b.width) for a, b in itertools.pairwise(blocks) if a.width != b.width]


def _temporal_gates(width: int, d: int) -> int:
    # After the backbone: a linear map and an LSTM in both directions for each stream; of its output, a map and two
    # layers, a gate, a map and one layer. A layer: four maps of attention, two of the feed-forward network, two norms.
    def recurrence(inner: int, hidden: int) -> int:
        return (width + 1) * inner + 2 * 4 * hidden * (inner + hidden + 2)

    layer = 4 * (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 4 * d
    visual, audio = recurrence(2 * d, d), recurrence(d // 2, d // 2)
    return visual + audio + 2 * (2 * d + 1) * d + 2 * (d + 1) * d + 2 * (3 * layer + d + 1)


def _grouped_bottleneck(c: int, reduction: int = 8, groups: int = 2) -> int:
    # Two grouped maps, batch norms inside, layer norms around.
    h = c // reduction
    return 2 * c * h // groups + 2 * h + 2 * c + 4 * c


def _dg_sct(blocks: list[Sizes], _: int) -> int:
    # Channel and token attention, token map, 32 latent tokens, bottleneck, two gates; 2 positions, 2 streams.
    def adapter(c: int, n: int) -> int:
        return 4 * c * c + 5 * c + 1 + n * n + n + c * c + c + 32 * c + _grouped_bottleneck(c) + 2

    return 4 * sum(adapter(b.width, b.tokens) for b in blocks) + _temporal_gates(blocks[-1].width, d=8)


def _av_moe(blocks: list[Sizes], _: int) -> int:
    # Token map, router of two experts, two bottlenecks with a gate, latent tokens and a gate; 2 positions, 2 streams.
    def mixture(c: int, n: int) -> int:
        router = 256 * c + 4256 + 33 * 2
        return n * n + n + c * c + c + router + 2 * (_grouped_bottleneck(c) + 1) + 32 * c + 1

    return 4 * sum(mixture(b.width, b.tokens) for b in blocks) + _temporal_gates(blocks[-1].width, d=8)


def _stg_cma(blocks: list[Sizes], segments: int) -> int:
    count = 0
    for index, block in enumerate(blocks):
        c, h = block.width, block.width // 4
        bottleneck = 2 * c * h + h + c
        in_stage = sum(earlier.width == c for earlier in blocks[:index])
        count += 4 * bottleneck + 2  # spatial and global in two streams, two gates
        if not blocks[0].window:
            count += 2 * bottleneck
        elif in_stage % 2 == 0:
            count += 2 * bottleneck + 2 * (2 * segments - 1) * block.heads  # a table of biases by distance
    # Embeddings of the segments, and the last norm.
    return count if blocks[0].window else count + 2 * segments * blocks[0].width + 2 * blocks[-1].width


def _cola(block: Sizes) -> int:
    # q, k, v, the projection, both maps of the feed-forward layer; r = 4, and a hyper-network of width C / 4 for each.
    c, r, h = block.width, 4, block.width // 4
    hyper = c * h + h + 2 * h + h * r * r + r * r + 2 * r * r
    return 4 * (2 * r * (c + c)) + 2 * r * (c + block.widened) + 2 * r * (block.hidden + c) + 6 * (hyper + 1)


def _mbt(blocks: list[Sizes], _: int) -> int:
    return 4 * blocks[-2].width  # tokens that join before the last block but one


def _molt(blocks: list[Sizes], _: int) -> int:
    width, latents = blocks[-1].width, 3
    d = width // 4
    # A norm, the map to d, two sets of latent tokens, the router; in the last two blocks.
    layers = sum(2 * b.width + b.width * d + d + 2 * latents * d + 2 * d * 2 + 2 for b in blocks[-2:])
    # The importance of a layer, the way back.
    return 2 * (layers + d + d * width + width)


METHODS: dict[str, Expectation] = {
    # Both give the head features over time in place of the backbone's.
    "av_moe": Expectation(_av_moe, frozen_at_start=False),
    "bitfit": Expectation(_biases),
    "cola": Expectation(each_block(_cola)),
    "compacter": Expectation(_compacter),
    "dg_sct": Expectation(_dg_sct, frozen_at_start=False),
    "full_finetuning": Expectation(_everything),
    "ia3": Expectation(each_block(lambda b: 2 * b.width + b.hidden)),
    "lavish": Expectation(each_block(_lavish)),
    "lora": Expectation(each_block(lambda b: 4 * 8 * b.width)),
    "mbt": Expectation(_mbt, frozen_at_start=False),
    "molt": Expectation(_molt),
    "norm_tuning": Expectation(_norms),
    "parallel": Expectation(each_block(lambda b: _bottleneck(b.width, b.width // 2))),
    "prompt_tuning": Expectation(each_block(lambda b: 5 * b.width), frozen_at_start=False),
    "sequential": Expectation(each_block(lambda b: 2 * _bottleneck(b.width, b.width // 4)), frozen_at_start=False),
    "ssf": Expectation(_ssf, frozen_at_start=False),
    "stg_cma": Expectation(_stg_cma),
}
