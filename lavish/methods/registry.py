"""Building a method from its name: adapters are put at their places, all others place themselves."""

from __future__ import annotations

import importlib
from typing import Any, get_args

from lavish.config.options import available, method_class, method_path
from lavish.methods.base import Adapter, AdapterSite, ForwardContext, Method, MethodContext
from lavish.models.backbones.base import Backbone
from lavish.models.interfaces import Position, Streams


class _Adapters(Method):
    """One :class:`Adapter` at every place; every one reads the streams before any is updated."""

    def __init__(
        self,
        backbone: Backbone,
        context: MethodContext,
        kind: type[Adapter],
        options: dict[str, Any],
        position: str,
        arrangement: str,
    ) -> None:
        super().__init__()
        self._reads_output = arrangement == "sequential"
        positions: tuple[Position, ...] = get_args(Position)
        if position != "both":
            positions = tuple(p for p in positions if p == position)
        for block in context.blocks:
            width = backbone.widths[block]
            for here in positions:
                for stream in context.streams:
                    tokens = context.tokens[stream][block]
                    other = context.tokens[context.streams[-1 - context.streams.index(stream)]][block]
                    crosses = stream in context.readers
                    site = AdapterSite(stream, block, here, width, width, tokens, other, crosses)
                    self.add_module(f"{block}_{here}_{stream}", kind(site, **options))

    def residual_update(
        self, block: int, position: Position, tokens: Streams, branches: Streams, context: ForwardContext
    ) -> Streams:
        read = branches if self._reads_output else tokens
        streams = list(read)
        updates: Streams = {}
        for own, stream in enumerate(streams):
            adapter = self._modules.get(f"{block}_{position}_{stream}")
            if adapter is not None:
                updates[stream] = adapter(read[stream], read[streams[-1 - own]])
        return updates


def adapter_class(method: str) -> type[Adapter] | type[Method]:
    """Return the class in ``lavish/methods/<method>.py``."""
    module = importlib.import_module(f"lavish.methods.{method}")
    return getattr(module, method_class("methods", method_path("methods", method)).name)


def methods() -> list[str]:
    """Return the names of all methods: one file each."""
    return available("methods")


def build_method(
    method: str,
    backbone: Backbone,
    context: MethodContext,
    options: dict[str, Any],
    position: str = "default",
    arrangement: str = "default",
) -> Method:
    """Build a method; `options` are its own and are validated by its constructor's signature.

    `position` and `arrangement` place an :class:`Adapter`; 'default' is its own, as its class says.
    """
    kind = adapter_class(method)
    if not issubclass(kind, Adapter):
        return kind(backbone, context, **options)
    position = kind.position if position == "default" else position
    arrangement = kind.arrangement if arrangement == "default" else arrangement
    return _Adapters(backbone, context, kind, options, position, arrangement)
