"""Sites and contexts of adapters without a backbone."""

from __future__ import annotations

from lavish.methods.base import AdapterSite
from lavish.models.interfaces import STREAMS, MethodContext, Position, Stream


def adapter_site(
    stream: Stream = "visual",
    width: int = 16,
    tokens: int = 5,
    other_width: int | None = None,
    other_tokens: int = 7,
    *,
    position: Position = "attention",
    cross_modal: bool = True,
) -> AdapterSite:
    """Return a site of block 0 with one class token before a row of patches."""
    return AdapterSite(
        stream=stream,
        block=0,
        position=position,
        width=width,
        other_width=width if other_width is None else other_width,
        tokens=tokens,
        other_tokens=other_tokens,
        grid=(1, tokens - 1),
        other_grid=(1, other_tokens - 1),
        cross_modal=cross_modal,
    )


def method_context(blocks: int, segments: int = 1, readers: tuple[Stream, ...] = STREAMS) -> MethodContext:
    """Return the context of a method with both streams, 2 x 2 patches and a class token in each block."""
    return MethodContext(
        streams=STREAMS,
        readers=frozenset(readers),
        blocks=tuple(range(blocks)),
        tokens=dict.fromkeys(STREAMS, (5,) * blocks),
        grids=dict.fromkeys(STREAMS, ((2, 2),) * blocks),
        segments=segments,
    )
