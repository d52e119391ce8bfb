"""LoRA: low-rank updates of the backbone's linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.methods.base import Method
from lavish.models.backbones.base import Backbone, FrozenLayer, LayerName
from lavish.models.interfaces import ForwardContext, MethodContext, Stream, Streams

_PARTS: dict[str, tuple[LayerName, int | None]] = {
    "q": ("qkv", 0), "k": ("qkv", 1), "v": ("qkv", 2), "qkv": ("qkv", None),
    "proj": ("proj", None), "fc1": ("fc1", None), "fc2": ("fc2", None),
}  # fmt: skip
"""The frozen layer of each name, and which third of its output."""


class LoRA(Method):
    """A low-rank update of chosen linear layers of each block.

        W x + b + alpha / r * B A x        A (r, in), B (out, r)

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685). A is initialised as
    torch's linear layers (Kaiming-uniform, a = sqrt 5), B with 0: the output is unchanged at first, and only B has a
    gradient in the first step. Unimodal; each stream has its own updates. Streams may share the frozen weights, so the
    updates are not merged into them: :meth:`merge` keeps the sums W + alpha / r * B A of each stream for evaluation.

    Options:
        rank: r (8).
        alpha: see above (8; conventions differ, loralib has 1; only alpha / r matters, which is 1 here).
        layers: the layers, separated by spaces, of q, k, v (thirds of the fused layer), qkv (one update of all
            three), proj, fc1 and fc2 ('q v', as in the paper).
    """

    budget_option = "rank"
    search_space = {
        "lr_adapter": ("log", 0.0625, 8.0),
        "rank": ("choices", 2, 4, 8, 16, 32),
        "alpha": ("choices", 4.0, 8.0, 16.0, 32.0),
    }

    def __init__(
        self,
        context: MethodContext,
        *,
        rank: int = 8,
        alpha: float = 8.0,
        layers: str = "q v",
    ) -> None:
        super().__init__()
        self._blocks = {stream: context.blocks(stream) for stream in context.streams}
        if rank < 1:
            raise LavishError(f"adapter.options.rank: {rank}: choose 1 or more")
        if alpha <= 0:
            raise LavishError(f"adapter.options.alpha: {alpha}: choose more than 0")
        self._parts: dict[LayerName, list[str]] = {}
        for part in _chosen(layers):
            self._parts.setdefault(_PARTS[part][0], []).append(part)
        for blocks in context.steps:
            for layer, parts in self._parts.items():
                for part in parts:
                    for stream, block in blocks.items():
                        outputs, inputs = context.backbones[stream].linear(block, layer)[0].shape
                        rows = outputs if _PARTS[part][1] is None else outputs // 3
                        self.add_module(f"{block}_{part}_{stream}", _LowRank(inputs, rows, rank, alpha / rank))

    def intercepted_layers(self, stream: Stream, block: int | None) -> frozenset[str]:
        return frozenset(self._parts) if block in self._blocks[stream] else frozenset()

    def apply_layer(self, layers: dict[Stream, FrozenLayer], context: ForwardContext) -> Streams:
        outputs: Streams = {}
        for stream, frozen in layers.items():
            block, name, tokens = frozen.block, frozen.name, frozen.tokens
            merged = self._buffers.get(f"{block}_{name}_{stream}_merged")
            if merged is not None and block is not None:
                outputs[stream] = functional.linear(tokens, merged, context.backbones[stream].linear(block, name)[1])
                continue
            outputs[stream] = frozen.layer(tokens)
            for part in self._parts[name]:
                # In place: nothing else needs the frozen layer's output, and its thirds are views of it.
                _rows(outputs[stream], part).add_(self.get_submodule(f"{block}_{part}_{stream}")(tokens))
        return outputs

    @torch.no_grad()
    def merge(self, backbones: dict[Stream, Backbone]) -> None:
        """Compute the effective weights (out, in) of each stream and evaluate with them until training continues.

        Call it again after loading other parameters.
        """
        for stream, blocks in self._blocks.items():
            for block in blocks:
                for layer, parts in self._parts.items():
                    weight = backbones[stream].linear(block, layer)[0].detach().clone()
                    for part in parts:
                        update: Any = self.get_submodule(f"{block}_{part}_{stream}")
                        # Applied to the identity, the update returns the transpose of its matrix.
                        _rows(weight.T, part).add_(update(torch.eye(weight.shape[1]).to(weight)))
                    self.register_buffer(f"{block}_{layer}_{stream}_merged", weight, persistent=False)

    def unmerge(self) -> None:
        """Discard the effective weights."""
        for name in [name for name in self._buffers if name.endswith("_merged")]:
            delattr(self, name)

    def train(self, mode: bool = True) -> LoRA:
        """Switch between training, which discards merged weights, and evaluation."""
        if mode:
            self.unmerge()
        super().train(mode)
        return self


class _LowRank(nn.Module):
    """The update scale * B A x of one linear layer."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        self.scale = scale
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.up(self.scale * self.down(tokens))


def _chosen(layers: str) -> list[str]:
    """Return the names in `layers`; raise LavishError for an unknown name, no name, and overlapping names."""
    parts = layers.split()
    unknown = [part for part in parts if part not in _PARTS]
    twice = len(set(parts)) < len(parts) or ("qkv" in parts and {"q", "k", "v"} & set(parts))
    if unknown or twice or not parts:
        reason = (
            f"there is no '{unknown[0]}'" if unknown else "a layer is updated twice" if twice else "no layer is given"
        )
        raise LavishError(
            f"adapter.options.layers: '{layers}': {reason}; choose from {', '.join(_PARTS)}, separated by spaces, "
            "where qkv is q, k and v together"
        )
    return parts


def _rows(outputs: Tensor, part: str) -> Tensor:
    """Return the view of a frozen layer's output (..., out) that belongs to a part of it."""
    third, width = _PARTS[part][1], outputs.shape[-1] // 3
    return outputs if third is None else outputs.narrow(-1, third * width, width)
