"""STG-CMA: spatial, temporal and global cross-modal adaptation of a frozen image transformer.

Wang et al., "Towards Efficient Audio-Visual Learners via Empowering Pre-trained Vision Transformers with Cross-Modal
Adaptation", CVPR Workshops 2024 (OpenReview tWGBpVI5nm), and the public code.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.methods._shared.attention import attend
from lavish.methods._shared.hidden_width import hidden_width
from lavish.methods.base import Method, site_name
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import (
    POSITIONS,
    Blocks,
    ForwardContext,
    MethodContext,
    Position,
    Stream,
    Streams,
    other_stream,
)


class StgCma(Method):
    """Three bottlenecks per block and stream: over time, after attention and after the feed-forward layer.

        temporal   x <- x + DropPath( U_t E_t( attention over the T segments at each token position ) )
        spatial    s = attention(x), likewise s' of the other stream;  h = E_s(s), h' = E'_s(s')
                   x <- x + s + U_s( h + g softmax(h h'^T) h' )
        global     the same after the feed-forward layer, with bottlenecks of its own and the same g
        E(z) = GELU(D z)

    Temporal attention uses the block's frozen attention. Attention between streams is over the tokens of one segment in
    the bottleneck's width, with one head, no projections and no scaling. Each U starts at zero, and so does the scalar
    g, one per block and stream. Segment embeddings that start at zero are added to the tokens before the first block.
    The final norm is trained.

    On a windowed backbone, as published for Swin: the temporal part is in the unshifted blocks only (every second block
    of a stage), with a trained bias per head and distance between segments instead of embeddings; spatial attention is
    within the backbone's windows, global attention over the whole image; the final norm stays frozen.

    Published for one backbone that both streams share. Two are possible (ours) if their bottlenecks have equal widths,
    and, where attention is within windows, equal windows. A block that runs without a block of the other stream has no
    attention between streams.

    Differences from the paper, for Swin V2 instead of Swin: a bottleneck reads the branch after its norm. Windows that
    the shift wraps around the image border are not masked. DropPath drops the temporal update of an image.

    Options:
        reduction: C / h of all blocks, or of each stage ("2 4 8 16"). Published: 16, 32 or 8 for CLIP;
            "2 4 8 16" for Swin-L, "4 4 8 8" for Swin-B, "8 8 16 16" for the tiny variants.
        drop_path: probability of dropping a temporal update in the last block; it rises linearly from 0 in the first.
    """

    cross_modal = True
    temporal = True
    budget_option = "reduction"
    search_space = {"reduction": ("choices", 4, 8, 16), "drop_path": ("choices", 0.0, 0.1, 0.2)}

    def __init__(self, context: MethodContext, *, reduction: int | str = 16, drop_path: float = 0.2) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise LavishError(
                f"adapter.options.drop_path: {drop_path} is not a probability; choose 0 or more, and less than 1"
            )
        self.down = nn.ModuleDict()
        self.up = nn.ModuleDict()
        self.gates = nn.ParameterDict()
        self.positions = nn.ParameterDict()
        self.tables = nn.ParameterDict()
        self.drops = nn.ModuleDict()
        hidden = {stream: _hidden_widths(reduction, backbone) for stream, backbone in context.backbones.items()}
        segments = context.segments
        for blocks in context.steps:
            if context.readers and len(blocks) == 2:
                _check_alike(blocks, hidden, context)
            for stream, block in blocks.items():
                backbone = context.backbones[stream]
                kinds: list[str] = [*POSITIONS]
                if _is_temporal(backbone, block):
                    kinds.append("temporal")
                    self.drops[f"{block}_{stream}"] = DropPath(drop_path * block / max(1, backbone.num_blocks - 1))
                for kind in kinds:
                    width, inner = backbone.widths[block], hidden[stream][block]
                    self.down[f"{block}_{kind}_{stream}"] = nn.Sequential(nn.Linear(width, inner), nn.GELU())
                    self.up[f"{block}_{kind}_{stream}"] = up = nn.Linear(inner, width)
                    nn.init.zeros_(up.weight)
                    nn.init.zeros_(up.bias)
                if stream in context.readers and len(blocks) == 2:
                    self.gates[f"{block}_{stream}"] = nn.Parameter(torch.zeros(()))
                if backbone.windowed and "temporal" in kinds:
                    table = torch.empty(2 * segments - 1, backbone.num_heads(block))
                    self.tables[f"{block}_{stream}"] = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        for stream, backbone in context.backbones.items():
            if not backbone.windowed:
                self.positions[stream] = nn.Parameter(torch.zeros(segments, 1, backbone.widths[0]))
        distance = torch.arange(segments)[:, None] - torch.arange(segments)
        self.distance: Tensor
        self.register_buffer("distance", distance + segments - 1, persistent=False)

    def tuned_parameters(self, stream: Stream, backbone: Backbone) -> Iterable[nn.Parameter]:
        return () if backbone.windowed else backbone.norms()[-1].parameters()

    def after_embedding(self, tokens: Streams, context: ForwardContext) -> Streams:
        placed = dict(tokens)
        for stream, x in tokens.items():
            if stream in self.positions:
                clips = x.unflatten(0, (-1, context.segments))
                placed[stream] = (clips + self.positions[stream][: context.segments]).flatten(0, 1)
        return placed

    def before_block(self, blocks: Blocks, tokens: Streams, context: ForwardContext) -> Streams:
        moved = dict(tokens)
        for stream, x in tokens.items():
            if (name := f"{blocks[stream]}_{stream}") in self.drops:
                moved[stream] = x + self.drops[name](self._temporal(blocks[stream], stream, x, context))
        return moved

    def _temporal(self, block: int, stream: Stream, tokens: Tensor, context: ForwardContext) -> Tensor:
        """Return U_t E_t of the frozen attention over a clip's segments, separately at each token position."""
        bias = None
        if (name := f"{block}_{stream}") in self.tables:
            bias = self.tables[name][self.distance[: context.segments, : context.segments]].permute(2, 0, 1)
        over_segments = tokens.unflatten(0, (-1, context.segments)).transpose(1, 2).flatten(0, 1)
        attended = context.backbones[stream].attention_over(block, over_segments, bias)
        key = f"{block}_temporal_{stream}"
        update = self.up[key](self.down[key](attended))
        return update.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        keys = {stream: site_name(blocks[stream], position, stream) for stream in tokens}
        if any(key not in self.down for key in keys.values()):  # the step is not adapted
            return {}
        inner = {stream: self.down[keys[stream]](branch) for stream, branch in branches.items()}
        updates: Streams = {}
        for stream, hidden in inner.items():
            if (name := f"{blocks[stream]}_{stream}") in self.gates:
                other = inner[other_stream(stream)]
                read = (
                    attend(hidden, other) if position == "ffn" else _in_windows(blocks, stream, hidden, other, context)
                )
                hidden = hidden + self.gates[name] * read
            updates[stream] = self.up[keys[stream]](hidden)
        return updates


def _in_windows(blocks: Blocks, stream: Stream, hidden: Tensor, other: Tensor, context: ForwardContext) -> Tensor:
    """Return :func:`attend` within the windows of the blocks; all tokens are one window without windowed attention."""
    own, beside = context.backbones[stream], other_stream(stream)
    keys = context.backbones[beside].windows(blocks[beside], other)
    return own.from_windows(blocks[stream], attend(own.windows(blocks[stream], hidden), keys))


def _is_temporal(backbone: Backbone, block: int) -> bool:
    """Return whether a block has the temporal part: every one, or every second one of a stage with windows."""
    if not backbone.windowed:
        return True
    starts = [0, *(end + 1 for end in backbone.stage_ends[:-1])]
    return (block - max(start for start in starts if start <= block)) % 2 == 0


def _check_alike(blocks: Blocks, hidden: dict[Stream, list[int]], context: MethodContext) -> None:
    """Raise LavishError if the streams of two backbones cannot attend to each other in these blocks."""
    if len(set(map(id, context.backbones.values()))) == 1:
        return
    sizes = set()
    for stream, block in blocks.items():
        windows = context.backbones[stream].windows(block, torch.empty(1, context.tokens[stream][block], 1)).shape
        windowed = any(backbone.windowed for backbone in context.backbones.values())
        sizes.add((hidden[stream][block], (context.grids[stream][block], windows) if windowed else None))
    if len(sizes) > 1:
        raise LavishError(
            f"adapter 'stg_cma' attends between bottlenecks of equal width, on Swin in equal grids and windows, which "
            f"blocks {blocks} do not have: choose other backbones"
        )


def _hidden_widths(reduction: int | str, backbone: Backbone) -> list[int]:
    """Return the bottleneck's width in each block, from one reduction for all, or a string with one for each stage."""
    stages = len(backbone.stage_ends)
    parts = str(reduction).split()
    if not all(part.isdecimal() for part in parts) or len(parts) not in (1, stages):
        raise LavishError(
            f"adapter.options.reduction: '{reduction}' should be an integer, or one for each of the backbone's "
            f"{stages} stages in one string, such as '{' '.join(str(2 ** (stage + 1)) for stage in range(stages))}'"
        )
    reductions = [int(part) for part in parts] * (stages if len(parts) == 1 else 1)
    stage_of = [sum(end < block for end in backbone.stage_ends[:-1]) for block in range(backbone.num_blocks)]
    return [hidden_width(width, reductions[stage]) for width, stage in zip(backbone.widths, stage_of, strict=True)]
