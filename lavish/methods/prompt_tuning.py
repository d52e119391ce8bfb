"""Visual prompt tuning: learned tokens are added to the sequence."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from lavish.errors import LavishError
from lavish.methods.base import Method
from lavish.models.interfaces import Blocks, ForwardContext, MethodContext, Streams


class PromptTuning(Method):
    """Learned tokens after the class token, before the patches.

        deep:     [c, _, x] <- block([c, P, x])        P (p, C) in every block; its outputs are discarded
        shallow:  [c, P, x] <- block([c, P, x])        P (p, C) enters the first block and stays until the last

    Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv 2203.12119). Prompts are initialised uniformly within
    sqrt(6 / (3 P_h P_w + C)), with patches of P_h x P_w pixels and the first block's width C. Unimodal; each stream has
    its own prompts. They are removed before the final norm, so the head does not see them.

    On Swin V2 prompts take part in every window without a position bias, their outputs are averaged over the windows,
    and patch merging merges a shallow prompt with itself, as in VPT's code for Swin. Two defects of that code are not
    copied: it repeats prompts over windows in another order than that of the windows, which mixes the images of a
    batch, and it averages prompts into the pooled feature.

    Options:
        length: number p of prompts (5; the paper selects from 1 to 200 per data set).
        depth: 'deep', the better one in the paper, or 'shallow'.
    """

    budget_option = "length"
    search_space = {"lr_adapter": ("log", 0.25, 32.0), "length": ("choices", 2, 5, 10, 20)}

    def __init__(self, context: MethodContext, *, length: int = 5, depth: Literal["deep", "shallow"] = "deep") -> None:
        super().__init__()
        if length < 1:
            raise LavishError(f"adapter.options.length: {length}: choose 1 or more")
        self._length = length
        chosen = {stream: context.blocks(stream) for stream in context.streams}
        deep = depth == "deep"
        self._leave = {stream: blocks if deep else blocks[-1:] for stream, blocks in chosen.items()}
        prompts = {}
        for step in context.steps:
            for stream, block in step.items():
                if deep or block == chosen[stream][0]:
                    backbone = context.backbones[stream]
                    bound = math.sqrt(6 / (3 * math.prod(backbone.patch_size) + backbone.widths[0]))
                    prompts[f"{block}_{stream}"] = torch.empty(length, backbone.widths[block]).uniform_(-bound, bound)
        self.prompts = nn.ParameterDict(prompts)

    def before_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        entered = dict(tokens)
        for stream, x in tokens.items():
            if (name := f"{blocks[stream]}_{stream}") in self.prompts:
                entered[stream] = context.backbones[stream].add_tokens(x, self.prompts[name].expand(len(x), -1, -1))
        return entered

    def after_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        left = dict(tokens)
        for stream, x in tokens.items():
            if blocks[stream] in self._leave[stream]:
                left[stream] = context.backbones[stream].take_tokens(x, self._length)[0]
        return left
