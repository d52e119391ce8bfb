"""Computing again in the backward pass what the forward pass did not keep: less memory, more time, the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "adapters", "blocks"]
"""What is recomputed: nothing, the insides of a method's modules, or each step of the encoder as a whole."""


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms below a module that have running statistics."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None]


class Recomputed:
    """Calls functions of which the backward pass keeps the arguments only, and runs them again.

    A function runs again with the random numbers and the autocast of the first time. It must not change anything but
    the running statistics of `norms`, which are updated the first time only. Without gradients it is called once.

    While a step is captured as a CUDA graph, the state of the random numbers cannot be read. So functions that drew
    none before are captured without it, and those that did are refused by torch.
    """

    def __init__(self, norms: Sequence[_BatchNorm]) -> None:
        self.norms = norms
        self._draws = False

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(*arguments)``."""
        if not torch.is_grad_enabled():
            return function(*arguments)
        updated: list[_BatchNorm] = []
        contexts = (_noting(self.norms, updated), _updating_copies(updated))
        capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
        before = 0 if capturing else _drawn()
        result = checkpoint(
            function,
            *arguments,
            use_reentrant=False,
            context_fn=lambda: contexts,
            preserve_rng_state=self._draws or not capturing,
        )
        self._draws = self._draws or (not capturing and _drawn() != before)
        return result


def _drawn() -> int:
    """Return how many random numbers this process's GPU has drawn; 0 without one."""
    if not torch.cuda.is_initialized():
        return 0
    return torch.cuda.default_generators[torch.cuda.current_device()].get_offset()


def recompute_insides(method: nn.Module) -> None:
    """Let each module that a method's hooks call keep its inputs only; its output is computed again when needed."""
    for module in called_modules(method):
        module.forward = partial(Recomputed(batch_norms(module)), module.forward)


def called_modules(method: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that a method's hooks call, but for single layers, which have no insides."""
    for module in method.children():
        if isinstance(module, nn.ModuleDict | nn.ModuleList):
            yield from called_modules(module)
        elif next(module.children(), None) is not None:
            yield module


@contextmanager
def _noting(norms: Sequence[_BatchNorm], updated: list[_BatchNorm]) -> Iterator[None]:
    """Append the norms whose statistics the block updates to `updated`."""
    before = [_updates(norm) for norm in norms]
    yield
    updated += [norm for norm, count in zip(norms, before, strict=True) if _updates(norm) != count]


def _updates(norm: _BatchNorm) -> int:
    """Return how often the statistics were updated, from torch's count of in-place changes: no device is waited for."""
    assert norm.num_batches_tracked is not None
    return norm.num_batches_tracked._version


@contextmanager
def _updating_copies(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let batch norms update copies of their statistics, and give them their own back afterwards."""
    kept: list[dict[str, Tensor | None]] = [dict(norm._buffers) for norm in norms]
    for norm, own in zip(norms, kept, strict=True):
        norm._buffers.update({name: None if value is None else value.clone() for name, value in own.items()})
    try:
        yield
    finally:
        for norm, own in zip(norms, kept, strict=True):
            norm._buffers.update(own)
