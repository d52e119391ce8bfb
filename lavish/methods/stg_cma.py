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
from lavish.models.interfaces import POSITIONS, ForwardContext, MethodContext, Position, Streams, other_stream


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

    def __init__(
        self, backbone: Backbone, context: MethodContext, *, reduction: int | str = 16, drop_path: float = 0.2
    ) -> None:
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
        reductions = _each_stage(reduction, len(backbone.stage_ends))
        segments, starts = context.segments, [0, *(end + 1 for end in backbone.stage_ends[:-1])]
        for block in context.blocks:
            stage = sum(start <= block for start in starts) - 1
            width = backbone.widths[block]
            kinds: list[str] = [*POSITIONS]
            if not backbone.windowed or (block - starts[stage]) % 2 == 0:
                kinds.append("temporal")
                self.drops[str(block)] = DropPath(drop_path * block / max(1, backbone.num_blocks - 1))
            for stream in context.streams:
                for kind in kinds:
                    hidden = hidden_width(width, reductions[stage])
                    self.down[f"{block}_{kind}_{stream}"] = nn.Sequential(nn.Linear(width, hidden), nn.GELU())
                    self.up[f"{block}_{kind}_{stream}"] = up = nn.Linear(hidden, width)
                    nn.init.zeros_(up.weight)
                    nn.init.zeros_(up.bias)
                if stream in context.readers:
                    self.gates[f"{block}_{stream}"] = nn.Parameter(torch.zeros(()))
                if backbone.windowed and "temporal" in kinds:
                    table = torch.empty(2 * segments - 1, backbone.num_heads(block))
                    self.tables[f"{block}_{stream}"] = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        if not backbone.windowed:
            for stream in context.streams:
                self.positions[stream] = nn.Parameter(torch.zeros(segments, 1, backbone.widths[0]))
        distance = torch.arange(segments)[:, None] - torch.arange(segments)
        self.distance: Tensor
        self.register_buffer("distance", distance + segments - 1, persistent=False)

    def tuned_parameters(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        return () if backbone.windowed else backbone.norms()[-1].parameters()

    def after_embedding(self, tokens: Streams, context: ForwardContext) -> Streams:
        if not self.positions:
            return tokens
        return {
            stream: (x.unflatten(0, (-1, context.segments)) + self.positions[stream][: context.segments]).flatten(0, 1)
            for stream, x in tokens.items()
        }

    def before_block(self, block: int, tokens: Streams, context: ForwardContext) -> Streams:
        if str(block) not in self.drops:
            return tokens
        return {
            stream: x + self.drops[str(block)](self._temporal(block, stream, x, context))
            for stream, x in tokens.items()
        }

    def _temporal(self, block: int, stream: str, tokens: Tensor, context: ForwardContext) -> Tensor:
        """Return U_t E_t of the frozen attention over a clip's segments, separately at each token position."""
        bias = None
        if self.tables:
            bias = self.tables[f"{block}_{stream}"][self.distance[: context.segments, : context.segments]].permute(
                2, 0, 1
            )
        over_segments = tokens.unflatten(0, (-1, context.segments)).transpose(1, 2).flatten(0, 1)
        attended = context.backbone.attention_over(block, over_segments, bias)
        key = f"{block}_temporal_{stream}"
        update = self.up[key](self.down[key](attended))
        return update.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)

    def residual_update(
        self, block: int, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        keys = {stream: site_name(block, position, stream) for stream in tokens}
        if any(key not in self.down for key in keys.values()):
            return {}
        inner = {stream: self.down[keys[stream]](branch) for stream, branch in branches.items()}
        updates: Streams = {}
        for stream, hidden in inner.items():
            if f"{block}_{stream}" in self.gates:
                read = self._attend(block, position, hidden, inner[other_stream(stream)], context.backbone)
                hidden = hidden + self.gates[f"{block}_{stream}"] * read
            updates[stream] = self.up[keys[stream]](hidden)
        return updates

    @staticmethod
    def _attend(block: int, position: Position, hidden: Tensor, other: Tensor, backbone: Backbone) -> Tensor:
        if position == "ffn":
            return attend(hidden, other)
        return backbone.from_windows(block, attend(backbone.windows(block, hidden), backbone.windows(block, other)))


def _each_stage(reduction: int | str, stages: int) -> list[int]:
    """Return the reduction of each stage from one number for all, or from a string with one number for each."""
    parts = str(reduction).split()
    if not all(part.isdecimal() for part in parts) or len(parts) not in (1, stages):
        raise LavishError(
            f"adapter.options.reduction: '{reduction}' should be an integer, or one for each of the backbone's "
            f"{stages} stages in one string, such as '{' '.join(str(2 ** (stage + 1)) for stage in range(stages))}'"
        )
    return [int(part) for part in parts] * (stages if len(parts) == 1 else 1)
