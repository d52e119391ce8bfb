"""Sites and contexts of methods."""

from __future__ import annotations

from lavish.methods.base import AdapterSite
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import STREAMS, MethodContext, Position, Stream
from lavish.models.pairing import pair_blocks


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


def method_context(backbone: Backbone, segments: int = 1, readers: tuple[Stream, ...] = STREAMS) -> MethodContext:
    """Return the context of a method on all blocks of a shared backbone, each with 2 x 2 patches and a class token."""
    backbones = dict.fromkeys(STREAMS, backbone)
    return MethodContext(
        backbones=backbones,
        readers=frozenset(readers),
        steps=pair_blocks(backbones),
        tokens=dict.fromkeys(STREAMS, (5,) * backbone.num_blocks),
        grids=dict.fromkeys(STREAMS, ((2, 2),) * backbone.num_blocks),
        segments=segments,
    )
