"""The types that pass between backbone, method, encoder and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

Stream = Literal["visual", "audio"]


Position = Literal["attention", "ffn"]


Streams = dict[Stream, Tensor]
"""A tensor of each stream; row b of all belongs to the same moment of the same clip."""


STREAMS: tuple[Stream, ...] = get_args(Stream)


@dataclass(frozen=True)
class StreamFeatures:
    """What the encoder gives the head of one stream; the leading axis B counts clips x segments."""

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
