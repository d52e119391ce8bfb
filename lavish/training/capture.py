"""The training step as one CUDA graph, which a GPU runs without waiting for thousands of kernels to be launched."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from lavish.data.store.batches import Batch

Step = Callable[[list[Batch]], Tensor]
"""Takes the batches of one optimizer step; returns the loss as a scalar on the device."""

EAGER_STEPS = 3
"""Steps of a shape that run as they are before it is captured, so that kernels and the optimizer's state are ready."""
MOST_GRAPHS = 4
"""Shapes that are captured. Each graph keeps memory of its own, and rare shapes would not pay for it."""


class CapturedStep:
    """A training step that is captured once for each shape of its batches, then replayed on new batches.

    The first steps of each shape, and those of rare shapes (the last batch of an epoch), run as they are. A replay runs
    the same kernels as the step itself and draws the same random numbers, so the results are equal to the last bit.

    A step that cannot be captured, because it waits for the GPU, runs as it is; one line on standard error gives the
    reason.

    Args:
        step: the training step, including the optimizer's. Between calls it keeps no tensors but its parameters,
            buffers and optimizer state, which stay at their place in memory.
        device: the GPU.
    """

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step = step
        self._stream = torch.cuda.Stream(device)
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._gave_up = False

    def __call__(self, group: list[Batch]) -> Tensor:
        shape = shape_of(group)
        if shape in self._graphs:
            return self._graphs[shape].replay(group)
        self._seen[shape] += 1
        if self._gave_up or self._seen[shape] <= EAGER_STEPS or len(self._graphs) == MOST_GRAPHS:
            return self._eager(group)
        try:
            self._graphs[shape] = _Graph(self._step, group, self._stream)
        except RuntimeError as error:
            self._gave_up = True
            reason = str(error).strip().splitlines()[0]
            print(f"training.capture: this step cannot be captured, so it runs as it is ({reason})", file=sys.stderr)
            return self._eager(group)
        return self._graphs[shape].replay(group)

    def _eager(self, group: list[Batch]) -> Tensor:
        """Run the step on the stream that will capture it, as CUDA asks for; nothing waits on the CPU's side."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            loss = self._step(group)
        here.wait_stream(self._stream)
        for tensor in tensors_of(group):
            tensor.record_stream(self._stream)
        loss.record_stream(here)
        return loss


class _Graph:
    """A captured step, with the batches that it reads and the loss that it writes."""

    def __init__(self, step: Step, group: list[Batch], stream: torch.cuda.Stream) -> None:
        self._inputs = [_map(batch, torch.empty_like) for batch in group]
        self._graph = torch.cuda.CUDAGraph()
        # Another thread prepares the next batch meanwhile, and may allocate memory.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._loss = step(self._inputs)

    def replay(self, group: list[Batch]) -> Tensor:
        """Run the step on other batches of the same shape."""
        for own, given in zip(tensors_of(self._inputs), tensors_of(group), strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._loss.clone()  # the next replay writes another loss to the same place


def shape_of(group: list[Batch]) -> tuple[Any, ...]:
    """Return what two groups of batches have in common if the same kernels run for them."""
    return tuple(
        (len(batch), *((name, tensor.shape, tensor.dtype) for name, tensor in _named(batch))) for batch in group
    )


def tensors_of(group: list[Batch]) -> list[Tensor]:
    """Return all tensors of batches, in an order that depends on their shape only."""
    return [tensor for batch in group for _, tensor in _named(batch)]


def _named(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
        elif isinstance(value, dict):
            yield from ((f"{field.name}.{key}", value[key]) for key in sorted(value))


def _map(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Return a batch with the results of a function for all tensors."""
    changes: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = function(value)
        elif isinstance(value, dict):
            changes[field.name] = {key: function(tensor) for key, tensor in value.items()}
    return replace(batch, **changes)
