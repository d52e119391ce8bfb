"""What every adapter is: a small trainable module beside one frozen sublayer of one stream."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from lavish.options import available, method_class, method_path

Stream = Literal["visual", "audio"]


class Adapter(nn.Module, ABC):
    """One stream's adapter beside one sublayer; a method is one file of this package with one subclass.

    The constructor takes the stream, the token widths of this and of the other stream and whether anything may cross,
    then the method's options, keyword-only, each with a type and a default: they are what `adapter.options` may say.
    """

    crosses: ClassVar[bool] = True
    """Whether the method reads the other stream at all, where the direction of fusion lets it."""

    @abstractmethod
    def forward(self, tokens: Tensor, other: Tensor) -> Tensor:
        """Return the update of this stream's `tokens` (B, N, C) given the `other` stream's (B, N', C').

        Row b of both belongs to the same moment of the same clip. The update is added to the residual stream.
        """


def adapter_class(method: str) -> type[Adapter]:
    """Return the subclass of :class:`Adapter` in ``lavish/adapters/<method>.py``."""
    module = importlib.import_module(f"lavish.adapters.{method}")
    return getattr(module, method_class("adapters", method_path("adapters", method)).name)


def methods() -> list[str]:
    """Return the names of all adapter methods: one file each."""
    return available("adapters")


def build_adapter(
    method: str, stream: Stream, width: int, other_width: int, cross_modal: bool, options: dict[str, Any]
) -> Adapter:
    """Build one adapter; `options` are the method's own and are validated by its constructor's signature."""
    return adapter_class(method)(stream, width, other_width, cross_modal, **options)
