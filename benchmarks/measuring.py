"""What the benchmarks of training steps share: the frozen backbone's own step, and medians of functions in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import inf
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lavish.training.device import mark, seconds_between

AT_LEAST = 2
"""Turns of each function that count, however long they take."""


def frozen_timm(model: Any, images: Tensor) -> None:
    """Run timm's forward pass, and the backward pass down to the tokens that enter the first block."""
    hook = model.patch_embed.register_forward_hook(lambda *call: call[-1].requires_grad_())
    model.forward_features(images).sum().backward()
    hook.remove()


def medians(
    functions: Mapping[str, Callable[[], Any]],
    device: torch.device,
    *,
    repeats: int,
    untimed: int = 2,
    calls: int = 1,
    until: float = inf,
    before: Callable[[str], object] | None = None,
    failed: Callable[[str, Exception], object] | None = None,
) -> dict[str, float]:
    """Return the median seconds of a call of each function; they take turns.

    Args:
        functions: what is measured, by name.
        device: a GPU is waited for before and after each turn, so that no function starts behind the work of another.
        repeats: turns of each function.
        untimed: turns before the first that counts: they allocate.
        calls: calls in a turn; on a GPU several, because the next step is launched while one is computed.
        until: when to end earlier, on the clock of `time.monotonic`.
        before: called with the name before each turn.
        failed: called with the name and the error of a function that fails, which is then left out; None: it is raised.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(-untimed, repeats):
        if repeat >= AT_LEAST and time.monotonic() > until:
            break
        for name in list(seconds):
            if before is not None:
                before(name)
            wait(device)
            start = mark(device)
            try:
                for _ in range(calls):
                    functions[name]()
                end = mark(device)
                wait(device)
            except Exception as error:
                if failed is None:
                    raise
                failed(name, error)
                del seconds[name]
                continue
            if repeat >= 0:
                seconds[name].append(seconds_between(start, end) / calls)
    return {name: median(values) for name, values in seconds.items()}


def wait(device: torch.device) -> None:
    """Wait until a GPU has done everything; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def traced(step: Callable[[], None]) -> dict[str, float]:
    """Return the number of kernels of a step, and the time for which the GPU is busy."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        step()
        torch.cuda.synchronize()
    events = [one for one in trace.events() if one.device_type == DeviceType.CUDA and not one.is_user_annotation]
    return {
        "kernels": sum(not one.name.startswith(("Memcpy", "Memset")) for one in events),
        "busy, ms": round(covered([(one.time_range.start, one.time_range.end) for one in events]) / 1000, 3),
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """Return how much of the time lies in at least one of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
