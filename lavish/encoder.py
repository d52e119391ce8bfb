"""The two-stream encoder: the only place that walks a backbone's blocks.

Both streams, video frames and spectrograms seen as pictures, pass through one shared frozen backbone; adapters sit
beside its sublayers and let the streams read each other (LAVISH, arXiv 2212.07983, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lavish.adapters.base import Adapter, Stream, build_adapter
from lavish.backbones.base import Backbone
from lavish.errors import LavishError

Direction = Literal["both", "a2v", "v2a", "none"]
Position = Literal["attention", "ffn"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
_READERS: dict[Direction, set[Stream]] = {
    "both": {"visual", "audio"},
    "a2v": {"visual"},
    "v2a": {"audio"},
    "none": set(),
}


@dataclass(frozen=True)
class StreamFeatures:
    """What the encoder gives the head of one stream; the leading axis B counts clips x steps."""

    pooled: Tensor
    """(B, D) feature of the whole picture."""
    tokens: Tensor
    """(B, N, D) normed tokens of the last block."""
    stages: tuple[Tensor, ...]
    """Tokens (B, N_s, C_s) at the end of each of the backbone's stages, the last one normed."""
    grids: tuple[tuple[int, int], ...]
    """Rows and columns of the patches of each stage."""

    @property
    def patches(self) -> Tensor:
        """The tokens (B, rows x columns, D) of the last block that stand for a patch, row by row."""
        rows, columns = self.grids[-1]
        return self.tokens[:, -rows * columns :]

    def maps(self) -> list[Tensor]:
        """Return the stages as feature maps (B, C_s, rows, columns), without tokens that stand for no patch."""
        return [
            tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
            for tokens, (rows, columns) in zip(self.stages, self.grids, strict=True)
        ]


class TwoStreamEncoder(nn.Module):
    """A frozen backbone with adapters in the chosen blocks, positions and directions."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        streams: tuple[Stream, ...] = STREAMS,
        method: str = "lavish",
        options: dict[str, Any] | None = None,
        direction: Direction = "both",
        positions: tuple[Position, ...] = ("attention", "ffn"),
        arrangement: Literal["parallel", "sequential"] = "parallel",
        layers: str | list[int] = "all",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.streams = streams
        self.arrangement = arrangement
        self.adapters = nn.ModuleDict()
        if method == "none":
            return
        readers = _READERS[direction] if len(streams) == 2 else set()
        for index in chosen_blocks(layers, backbone.num_blocks):
            width = backbone.widths[index]
            for position in positions:
                for stream in streams:
                    self.adapters[f"{index}_{position}_{stream}"] = build_adapter(
                        method, stream, width, width, stream in readers, options or {}
                    )

    def forward(self, pictures: dict[Stream, Tensor]) -> dict[Stream, StreamFeatures]:
        """Encode normalised pictures (B, 3, H, W) of each stream; row b of both is the same moment of the same clip."""
        # Without anything to train below the head, no activation needs to be kept.
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):
            return self._encode(pictures)

    def _encode(self, pictures: dict[Stream, Tensor]) -> dict[Stream, StreamFeatures]:
        backbone = self.backbone
        tokens = [backbone.embed(pictures[stream]) for stream in self.streams]
        ends: list[dict[int, Tensor]] = [{} for _ in self.streams]
        for index in range(backbone.num_blocks):
            tokens = _together(lambda x, index=index: backbone.enter(index, x), tokens)
            tokens = self._sublayer(index, "attention", tokens)
            tokens = self._sublayer(index, "ffn", tokens)
            if index in backbone.stage_ends:
                for kept, x in zip(ends, tokens, strict=True):
                    kept[index] = x
        tokens = _together(backbone.final, tokens)
        return {
            stream: StreamFeatures(
                backbone.pool(x),
                x,
                (*(kept[end] for end in backbone.stage_ends[:-1]), x),
                self._stage_grids(pictures[stream]),
            )
            for stream, x, kept in zip(self.streams, tokens, ends, strict=True)
        }

    def _stage_grids(self, pictures: Tensor) -> tuple[tuple[int, int], ...]:
        grids = self.backbone.grid_sizes((pictures.shape[-2], pictures.shape[-1]))
        return tuple(grids[end] for end in self.backbone.stage_ends)

    @torch.no_grad()
    def frozen_tokens(self, pictures: Tensor) -> Tensor:
        """Return the patch tokens (B, N, D) of normalised pictures as the backbone alone makes them, without gradient.

        Without adapters and even where its norms are tuned: as they are now, but not trained through this path.
        """
        tokens = self.backbone.encode(pictures)
        return tokens[:, self.backbone.num_prefix_tokens :]

    def _sublayer(self, index: int, position: Position, tokens: list[Tensor]) -> list[Tensor]:
        """Add one frozen residual branch and its adapters; every adapter reads the streams before any is updated."""
        frozen = self.backbone.attention if position == "attention" else self.backbone.ffn
        branches = _together(lambda x: frozen(index, x), tokens)
        read = branches if self.arrangement == "sequential" else tokens
        updated = []
        for own, stream in enumerate(self.streams):
            x = tokens[own] + branches[own]
            key = f"{index}_{position}_{stream}"
            if key in self.adapters:
                x = x + self.adapters[key](read[own], read[-1 - own])
            updated.append(x)
        return updated

    def adapter_modules(self) -> list[Adapter]:
        """Return every adapter, in the order of blocks."""
        return list(self.adapters.values())  # type: ignore[arg-type]


def chosen_blocks(layers: str | list[int], num_blocks: int) -> list[int]:
    """Return block indices of `all`, `first k`, `last k` or an explicit list; an error when one does not exist."""
    blocks = list(range(num_blocks))
    if layers == "all":
        return blocks
    if isinstance(layers, str):
        which, count = layers.split()
        if int(count) > num_blocks:
            raise LavishError(f"fusion.layers: '{layers}', but the backbone has {num_blocks} blocks")
        return blocks[: int(count)] if which == "first" else blocks[-int(count) :]
    unknown = sorted(set(layers) - set(blocks))
    if unknown:
        raise LavishError(f"fusion.layers: no block {unknown[0]}; the backbone has blocks 0 to {num_blocks - 1}")
    return sorted(set(layers))


def _together(function: Any, tokens: list[Tensor]) -> list[Tensor]:
    """Apply a frozen map to each stream, as one batch where both have the same number of tokens."""
    if len(tokens) == 2 and tokens[0].shape == tokens[1].shape:
        return list(function(torch.cat(tokens)).chunk(2))
    return [function(x) for x in tokens]
