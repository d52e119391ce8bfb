"""The last steps of a forward pass at which the streams meet, for methods that act only there."""

from __future__ import annotations

from lavish.errors import LavishError
from lavish.models.interfaces import Blocks, MethodContext
from lavish.models.pairing import pair_blocks


def late_steps(layers: int | None, context: MethodContext) -> tuple[Blocks, ...]:
    """Return the chosen steps among the last `layers` at which every stream has a block.

    None: the last third of them, at least two.

    Raises:
        LavishError: if there are fewer, or `fusion.layers` includes none of them.
    """
    steps = [blocks for blocks in pair_blocks(context.backbones) if len(blocks) == len(context.streams)]
    count = max(2, round(len(steps) / 3)) if layers is None else layers
    if not 1 <= count <= len(steps):
        raise LavishError(f"adapter.options.layers: {count}, but the backbone has {len(steps)} blocks")
    late = tuple(blocks for blocks in context.meetings if blocks in steps[-count:])
    if not late:
        raise LavishError(
            f"adapter.options.layers: fusion.layers includes none of the last {count} blocks; choose later blocks "
            "there or more blocks here"
        )
    return late
