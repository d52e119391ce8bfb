"""Temporal gates of DG-SCT and AVMoE: each stream's segments weight the other stream's features after the backbone.

The layers are those of Xia and Zhao, "Cross-modal Background Suppression for Audio-Visual Event Localization",
CVPR 2022, without its head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import MultiHeadAttention
from lavish.models.interfaces import MethodContext, Stream, Streams, other_stream

if TYPE_CHECKING:
    from lavish.models.interfaces import StreamFeatures

_HEADS = 4


class PostNormLayer(nn.Module):
    """x' = LN(x + attention(x, memory)), then LN(x' + Lin ReLU Lin x') with four times the width inside."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(width, _HEADS, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return (B, N, C) for `tokens` (B, N, C) that attend to `memory` (B, N', C), by default to themselves."""
        read = self.attention(tokens, tokens if memory is None else memory)
        tokens = self.norm1(tokens + self.dropout(read))
        return self.norm2(tokens + self.dropout(self.ffn(tokens)))


class Recurrence(nn.Module):
    """A linear map, then a bidirectional LSTM over the segments; with ReLU and dropout in between if `rectified`."""

    def __init__(self, width: int, inner: int, out: int, *, rectified: bool) -> None:
        super().__init__()
        self.reduce = nn.Linear(width, inner)
        self.between = nn.Sequential(nn.ReLU(), nn.Dropout(0.2)) if rectified else nn.Identity()
        self.lstm = nn.LSTM(inner, out // 2, batch_first=True, bidirectional=True)

    def forward(self, segments: Tensor) -> Tensor:
        """Turn (clips, segments, width) into (clips, segments, out)."""
        return self.lstm(self.between(self.reduce(segments)))[0]


class TemporalGates(nn.Module):
    """Gates between the streams' segments, computed from the pooled features of whole clips, (clips, segments, D) each.

        r = BiLSTM(Lin f)                             visual D -> 2d -> 2d with ReLU and dropout; audio D -> d/2 -> d
        K = two post-norm layers over Lin_{->d} r     of a stream that the other may read
        h = sigmoid(w K), one number per segment      this stream's gate on the other
        q = Lin_{->d} r;  f' = post-norm layer of q attending to [K' ; q], times 1 + gamma h'
                                                      K', h' of the other stream, if it may be read

    'features' replaces the pooled features by f' of width d (as on AVE). 'maps' has no q: pooled features, tokens and
    stages are multiplied by 1 + gamma h' (as on AVSBench, where the published code scales decoder maps). 'none' changes
    nothing.
    """

    def __init__(
        self,
        widths: dict[Stream, int],
        readers: frozenset[Stream],
        kind: Literal["features", "maps", "none"],
        *,
        width: int,
        gamma: float,
    ) -> None:
        super().__init__()
        self.feature_dims = dict.fromkeys(widths, width) if kind == "features" else widths
        """Width of each stream's pooled features after the gates."""
        if kind != "none" and (width < _HEADS or width % _HEADS):
            raise LavishError(f"adapter.options.temporal_width: {width} is not a multiple of {_HEADS}")
        self.gamma = gamma
        self.recurrences, self.relations, self.gates = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.queries, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for stream, features in widths.items():
            is_read = kind != "none" and other_stream(stream) in readers
            visual = stream == "visual"
            out = 2 * width if visual else width
            if kind == "features" or is_read:
                self.recurrences[stream] = Recurrence(features, out if visual else width // 2, out, rectified=visual)
            if is_read:
                layers = (PostNormLayer(width) for _ in range(2))
                self.relations[stream] = nn.Sequential(nn.Linear(out, width), *layers)
                self.gates[stream] = nn.Linear(width, 1)
            if kind == "features":
                self.queries[stream] = nn.Linear(out, width)
                self.decoders[stream] = PostNormLayer(width)

    def forward(self, features: dict[Stream, StreamFeatures], segments: int) -> dict[Stream, StreamFeatures]:
        """Return the features that the head receives; the rows of `features` are clips x `segments`."""
        moments, keys, scales = Streams(), Streams(), Streams()
        for stream, whole in features.items():
            if stream in self.recurrences:
                moments[stream] = self.recurrences[stream](whole.pooled.unflatten(0, (-1, segments)))
            if stream in self.gates:
                keys[stream] = self.relations[stream](moments[stream])
                scales[other_stream(stream)] = 1 + self.gamma * self.gates[stream](keys[stream]).sigmoid()
        finished = dict(features)
        for stream, whole in features.items():
            if stream in self.queries:
                query = self.queries[stream](moments[stream])
                memory = torch.cat([keys[other_stream(stream)], query], dim=1) if stream in scales else query
                pooled = self.decoders[stream](query, memory)
                pooled = pooled * scales[stream] if stream in scales else pooled
                finished[stream] = replace(whole, pooled=pooled.flatten(0, 1))
            elif stream in scales:
                finished[stream] = _scaled(whole, scales[stream].flatten(0, 1))
        return finished


def build_gates(
    kind: Literal["features", "maps", "none"], context: MethodContext, *, width: int, gamma: float
) -> TemporalGates:
    """Build the gates for the features of the backbones."""
    widths = {stream: backbone.feature_dim for stream, backbone in context.backbones.items()}
    return TemporalGates(widths, context.readers, kind, width=width, gamma=gamma)


def _scaled(features: StreamFeatures, scale: Tensor) -> StreamFeatures:
    """Multiply all features by `scale` (B, 1)."""
    whole = scale.unsqueeze(-1)
    return replace(
        features,
        pooled=features.pooled * scale,
        tokens=features.tokens * whole,
        stages=tuple(stage * whole for stage in features.stages),
    )
