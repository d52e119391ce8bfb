"""A training step, or a forward pass, as one CUDA graph: a GPU runs it without waiting for thousands of launches."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from lavish.data.store.batches import Batch

if TYPE_CHECKING:
    from lavish.config.schema import TrainingConfig

Function = Callable[[list[Batch]], Any]
"""Of the batches of one optimizer step, or of one batch: a step, which returns its loss, or a forward pass."""

EAGER_CALLS = 3
"""Calls with a shape before it is captured, so that kernels and the optimizer's state are ready."""
MOST_GRAPHS = 4
"""Shapes that are captured. Each graph keeps its inputs, and rare shapes would not pay for capturing them."""


def captured(
    function: Function, device: torch.device, training: TrainingConfig, reset: Callable[[], None] = lambda: None
) -> Function:
    """Return a function that a GPU captures, unless `training.capture` says otherwise; see :class:`Captured`."""
    on = device.type == "cuda" and training.capture == "auto"
    return Captured(function, device, reset) if on else function


class Captured:
    """A function that is captured once for each shape of its batches, then replayed on new batches.

    The first calls with each shape, and those with rare shapes (the last batch of an epoch), run it as it is. A replay
    runs the same kernels and draws the same random numbers, so the results are equal to the last bit.

    A function that cannot be captured, because it waits for the GPU, runs as it is; one line on standard error gives
    the reason.

    Args:
        function: a training step, including the optimizer's, or a forward pass. Between calls it keeps no tensors but
            parameters, buffers and the optimizer's state, which stay at their place in memory.
        device: the GPU.
        reset: called after a capture that failed, to drop what it has left behind, such as gradients.
    """

    def __init__(self, function: Function, device: torch.device, reset: Callable[[], None] = lambda: None) -> None:
        self._function = function
        self._reset = reset
        self._stream = torch.cuda.Stream(device)
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._gave_up = False

    def __call__(self, group: list[Batch]) -> Any:
        shape = shape_of(group)
        if shape in self._graphs:
            return self._graphs[shape].replay(group)
        self._seen[shape] += 1
        if self._gave_up or self._seen[shape] <= EAGER_CALLS or len(self._graphs) == MOST_GRAPHS:
            return self._eager(group)
        here = torch.cuda.current_stream()
        try:
            self._graphs[shape] = _Graph(self._function, group, self._stream)
        except RuntimeError as error:
            self._gave_up = True
            torch.cuda.set_stream(here)  # torch leaves the other one current
            self._reset()
            cause = error.__context__ or error  # the first of them says why
            reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
            print(f"training.capture: this run cannot be captured, so it is not ({reason})", file=sys.stderr)
            return self._eager(group)
        return self._graphs[shape].replay(group)

    def _eager(self, group: list[Batch]) -> Any:
        """Call the function on the stream that will capture it, as CUDA asks for; nothing waits on the CPU's side."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            result = self._function(group)
        here.wait_stream(self._stream)
        # Memory is given to others when the stream that allocated it is done, not those that read it.
        for tensor in tensors_of(group):
            tensor.record_stream(self._stream)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                tensor.record_stream(here)
        return result


class _Graph:
    """A captured call, with the batches that it reads and the result that it writes."""

    def __init__(self, function: Function, group: list[Batch], stream: torch.cuda.Stream) -> None:
        self._inputs = [
            batch.with_tensors({name: torch.empty_like(tensor) for name, tensor in batch.tensors().items()})
            for batch in group
        ]
        self._graph = torch.cuda.CUDAGraph()
        # Graphs share memory, since one ends before the next begins and nobody reads what is left in it. Another thread
        # prepares the next batch meanwhile, and may allocate memory.
        with torch.cuda.graph(self._graph, pool=_pool(), stream=stream, capture_error_mode="thread_local"):
            self._result = function(self._inputs)

    def replay(self, group: list[Batch]) -> Any:
        """Return the result for other batches of the same shape."""
        for own, given in zip(tensors_of(self._inputs), tensors_of(group), strict=True):
            own.copy_(given)
        self._graph.replay()
        return tree_map_only(Tensor, torch.clone, self._result)  # the next replay writes to the same place


@functools.cache
def _pool() -> Any:
    """Return the memory of this process's graphs."""
    return torch.cuda.graph_pool_handle()


def shape_of(group: list[Batch]) -> tuple[Any, ...]:
    """Return what two groups of batches have in common if the same kernels run for them."""
    return tuple(
        (len(batch), *((name, tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()))
        for batch in group
    )


def tensors_of(group: list[Batch]) -> list[Tensor]:
    """Return all tensors of batches, in an order that depends on their shape only."""
    return [tensor for batch in group for tensor in batch.tensors().values()]
