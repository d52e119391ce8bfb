"""The hidden width of a bottleneck from its reduction."""

from __future__ import annotations

from lavish.errors import LavishError


def hidden_width(width: int, reduction: int) -> int:
    """Return `width` // `reduction`; raise LavishError if that is zero."""
    if not 1 <= reduction <= width:
        raise LavishError(
            f"adapter.options.reduction: {reduction} does not fit a width of {width}; choose 1 to {width}"
        )
    return width // reduction
