"""Which blocks of two backbones run side by side, so that their streams can meet there."""

from __future__ import annotations

from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import Blocks, Stream


def pair_blocks(backbones: dict[Stream, Backbone]) -> tuple[Blocks, ...]:
    """Return the steps of a forward pass: at each, a block of every stream, or a block of the deeper backbone alone.

    Blocks are paired in order. Where two backbones have the same number of scales (Swin and HTS-AT: four stages), stage
    by stage, otherwise as one stage. In a stage with blocks d <= D, block j of the shallow backbone meets block
    ceil((j + 1) D / d) - 1 of the deep one, the last of its share: DG-SCT (arXiv 2311.05152) pairs block j of 6 with
    block 3 j + 2 of 18, CoLA (arXiv 2604.03314) every second block of 24 with one of 12. Backbones of equal depth are
    paired one to one.
    """
    if len(backbones) == 1:
        ((stream, backbone),) = backbones.items()
        return tuple({stream: block} for block in range(backbone.num_blocks))
    (first, one), (second, two) = backbones.items()
    depths = one.scale_depths, two.scale_depths
    if len(depths[0]) != len(depths[1]):
        depths = (one.num_blocks,), (two.num_blocks,)
    steps: list[Blocks] = []
    start = {first: 0, second: 0}
    for stage in zip(*depths, strict=True):
        blocks = dict(zip((first, second), stage, strict=True))
        deep, shallow = (first, second) if blocks[first] >= blocks[second] else (second, first)
        partners = {-(-(j + 1) * blocks[deep] // blocks[shallow]) - 1: j for j in range(blocks[shallow])}
        for block in range(blocks[deep]):
            own = {deep: start[deep] + block}
            if block in partners:
                own[shallow] = start[shallow] + partners[block]
            steps.append({stream: own[stream] for stream in (first, second) if stream in own})
        start = {stream: start[stream] + blocks[stream] for stream in start}
    return tuple(steps)
