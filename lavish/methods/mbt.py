"""MBT: bottleneck tokens that the late blocks of both streams share.

Nagrani et al., "Attention Bottlenecks for Multimodal Fusion", NeurIPS 2021 (arXiv 2107.00135), and the public code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from lavish.errors import LavishError
from lavish.methods._shared.late_steps import late_steps
from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import Blocks, ForwardContext, MethodContext, Stream, Streams


class Mbt(Method):
    """In the last third of the blocks, a few tokens join both sequences; after each block their values are averaged.

        [x | b_x] = block([x | b]),   [y | b_y] = block([y | b]),   b <- (b_x + b_y) / 2

    One set b of tokens, from N(0, 0.02), is all that is trained. Both blocks receive the same b. The tokens are removed
    before the final norm, and their outputs of the last block are discarded.

    Differences from the paper: it trains two transformers, one per modality; here the backbones are frozen, or one
    frozen backbone serves both streams, unless `train_backbone`. Two backbones must have equal widths where the tokens
    pass; they are averaged where blocks of both run side by side. A stream that may not read the other keeps its own
    tokens b_x, without averaging. On Swin the tokens take part in every window, and patch merging maps each of them by
    itself. The head is the task's, on features without the tokens.

    A public copy appends such tokens to both streams without averaging them, so that no information is exchanged; not
    followed.

    Options:
        bottlenecks: number of tokens (4; the published code has one more with a class token; 4 to 256 are reported to
            perform alike).
        layers: number of the backbone's last blocks that have them; by default a third, as published (4 of 12), and
            at least two. `fusion.layers` may exclude some.
        train_backbone: train the whole backbone, as published.
    """

    cross_modal = True
    budget_option = "bottlenecks"
    search_space = {"lr_adapter": ("log", 0.25, 32.0), "bottlenecks": ("choices", 2, 4, 8)}

    def __init__(
        self,
        context: MethodContext,
        *,
        bottlenecks: int = 4,
        layers: int | None = None,
        train_backbone: bool = False,
    ) -> None:
        super().__init__()
        self.steps = late_steps(layers, context)
        if bottlenecks < 1:
            raise LavishError(f"adapter.options.bottlenecks: {bottlenecks} should be at least 1")
        if context.readers and len(self.steps) < 2:
            raise LavishError(
                "adapter.options.layers: tokens pass from one block to the next, so that a single block exchanges "
                "nothing between the streams; choose at least two"
            )
        for blocks in self.steps:
            widths = {context.backbones[stream].widths[block] for stream, block in blocks.items()}
            if len(widths) > 1:
                raise LavishError(
                    "adapter 'mbt': both streams share its tokens, so their backbones must have equal widths, not "
                    f"{' and '.join(map(str, sorted(widths)))} in blocks {blocks}: choose other backbones"
                )
        self.readers = context.readers
        self.train_backbone = train_backbone
        first = context.streams[0]
        width = context.backbones[first].widths[self.steps[0][first]]
        self.tokens = nn.Parameter(0.02 * torch.randn(bottlenecks, width))

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        return backbone.parameters() if self.train_backbone else ()

    def before_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        if blocks != self.steps[0]:
            return tokens
        return {s: context.backbones[s].add_tokens(x, self.tokens.expand(len(x), -1, -1)) for s, x in tokens.items()}

    def after_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        last = blocks == self.steps[-1]
        if blocks not in self.steps or not (last or self.readers):
            return tokens
        parts = {stream: context.backbones[stream].take_tokens(x, len(self.tokens)) for stream, x in tokens.items()}
        if last:
            return {stream: rest for stream, (rest, _) in parts.items()}
        average = torch.stack([written for _, written in parts.values()]).mean(dim=0)
        read = {stream: context.backbones[stream].add_tokens(parts[stream][0], average) for stream in self.readers}
        return {stream: read.get(stream, x) for stream, x in tokens.items()}
