"""Methods by name: finding their class, and building them."""

from __future__ import annotations

from typing import Any

from lavish.config.options import method_class
from lavish.config.sources import available, load_module, method_path
from lavish.methods.base import Adapter, Method, adapter_sites, site_name
from lavish.models.interfaces import POSITIONS, Blocks, ForwardContext, MethodContext, Position, Streams, other_stream


class SiteAdapters(Method):
    """One :class:`Adapter` per site. All of them read the streams before any is updated."""

    def __init__(
        self,
        context: MethodContext,
        kind: type[Adapter],
        options: dict[str, Any],
        position: str,
        arrangement: str,
        adapted: str,
    ) -> None:
        super().__init__()
        self._reads_output = arrangement == "sequential"
        positions = [each for each in POSITIONS if position in ("both", each)]
        for site in adapter_sites(context, positions):
            if adapted in ("both", site.stream):
                self.add_module(site.name, kind(site, **options))

    def residual_update(
        self, blocks: Blocks, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        read = branches if self._reads_output else tokens
        updates: Streams = {}
        for stream, x in read.items():
            adapter = self._modules.get(site_name(blocks[stream], position, stream))
            if adapter is not None:
                updates[stream] = adapter(x, read.get(other_stream(stream), x))
        return updates


def adapter_class(method: str) -> type[Adapter] | type[Method]:
    """Return the class of a method; a LavishError if the file of an external one cannot be imported."""
    return getattr(load_module("methods", method), method_class("methods", method_path("methods", method)).name)


def methods() -> list[str]:
    """Return the names of all methods: built-in, added by file and installed by distributions."""
    return available("methods")


def build_method(
    method: str,
    context: MethodContext,
    options: dict[str, Any],
    position: str = "default",
    arrangement: str = "default",
    adapted: str = "both",
) -> Method:
    """Build a method from its name and its options.

    `position`, `arrangement` and `adapted` apply to an :class:`Adapter`; 'default' means those of its class.
    """
    kind = adapter_class(method)
    if not issubclass(kind, Adapter):
        return kind(context, **options)
    position = kind.position if position == "default" else position
    arrangement = kind.arrangement if arrangement == "default" else arrangement
    return SiteAdapters(context, kind, options, position, arrangement, adapted)
