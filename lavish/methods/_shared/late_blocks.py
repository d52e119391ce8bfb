"""The last blocks of a backbone, for methods that act only there."""

from __future__ import annotations

from lavish.errors import LavishError
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import MethodContext


def late_blocks(layers: int | None, backbone: Backbone, context: MethodContext) -> tuple[int, ...]:
    """Return the chosen blocks among the backbone's last `layers`; None: its last third, at least two.

    Raises:
        LavishError: if the backbone has fewer blocks, or `fusion.layers` includes none of them.
    """
    count = max(2, round(backbone.num_blocks / 3)) if layers is None else layers
    if not 1 <= count <= backbone.num_blocks:
        raise LavishError(f"adapter.options.layers: {count}, but the backbone has {backbone.num_blocks} blocks")
    late = tuple(block for block in context.blocks if block >= backbone.num_blocks - count)
    if not late:
        raise LavishError(
            f"adapter.options.layers: fusion.layers includes none of the last {count} blocks; choose later blocks "
            "there or more blocks here"
        )
    return late
