"""The last blocks of a backbone, where some methods act alone."""

from __future__ import annotations

from lavish.errors import LavishError
from lavish.methods.base import MethodContext
from lavish.models.backbones.base import Backbone


def late_blocks(layers: int | None, backbone: Backbone, context: MethodContext) -> tuple[int, ...]:
    """Return the chosen blocks among the backbone's last `layers`; None: its last third, at least two.

    Raises:
        LavishError: where there are not that many, or none of them was chosen.
    """
    count = max(2, round(backbone.num_blocks / 3)) if layers is None else layers
    if not 1 <= count <= backbone.num_blocks:
        raise LavishError(f"adapter.options.layers: {count}, but the backbone has {backbone.num_blocks} blocks")
    late = tuple(block for block in context.blocks if block >= backbone.num_blocks - count)
    if not late:
        raise LavishError(
            f"adapter.options.layers: the last {count} blocks, none of which is among fusion.layers; choose later "
            "blocks there or more of them here"
        )
    return late
