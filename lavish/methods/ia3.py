"""(IA)^3: keys, values and hidden units of the backbone are scaled."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from lavish.methods.base import Method
from lavish.models.backbones.base import FrozenLayer
from lavish.models.interfaces import ForwardContext, MethodContext, Stream, Streams


class IA3(Method):
    """Scale the keys, the values and the hidden units of the feed-forward layer, channel by channel.

        K <- l_k * K        V <- l_v * V        ffn(x) = W_2 (l_ff * act(W_1 x + b_1)) + b_2

    Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", NeurIPS 2022
    (arXiv 2205.05638). All scales are initialised with 1, so the output is unchanged at first; 2 C and the hidden width
    per block, 6 C in a ViT. Unimodal; each stream has its own scales.

    Swin V2 compares queries and keys by their cosine similarity, over the channels of a head: there l_k changes the
    direction of keys, not their length.
    """

    search_space = {"lr_adapter": ("log", 0.25, 32.0)}

    def __init__(self, context: MethodContext) -> None:
        super().__init__()
        self._blocks = {stream: context.blocks(stream) for stream in context.streams}
        self.scales = nn.ParameterDict()
        for blocks, layer in product(context.steps, ("qkv", "fc2")):
            for stream, block in blocks.items():
                backbone = context.backbones[stream]
                size = 2 * backbone.widths[block] if layer == "qkv" else backbone.linear(block, "fc2")[0].shape[1]
                self.scales[f"{block}_{layer}_{stream}"] = nn.Parameter(torch.ones(size))

    def intercepted_layers(self, stream: Stream, block: int | None) -> frozenset[str]:
        return frozenset({"qkv", "fc2"}) if block in self._blocks[stream] else frozenset()

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        return {stream: self._scaled(stream, frozen) for stream, frozen in layers.items()}

    def _scaled(self, stream: Stream, here: FrozenLayer) -> Tensor:
        scale = self.scales[f"{here.block}_{here.name}_{stream}"]
        if here.name == "fc2":
            return here.layer(scale * here.tokens)
        queries, rest = here.layer(here.tokens).split([len(scale) // 2, len(scale)], dim=-1)
        return torch.cat([queries, scale * rest], dim=-1)
