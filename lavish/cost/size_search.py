"""Search for the size of a method at which a run has as many trainable parameters as another run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lavish.config.hashing import digest
from lavish.config.options import budget_option
from lavish.config.schema import RunConfig
from lavish.errors import LavishError
from lavish.learner.uninitialised import uninitialised_backbones, uninitialised_model
from lavish.planning.parameter_budgets import Match, Request, with_size

if TYPE_CHECKING:
    from torch import nn

    from lavish.models.backbones.base import Backbone

_LARGEST = 2**16
# Maximum number of models built for one search.
_MOST = 48


def search(requests: Mapping[str, Request]) -> dict[str, dict[str, int]]:
    """Return the size of each request and its counts (:class:`lavish.planning.parameter_budgets.Match`).

    Raises:
        LavishError: naming the request, if its method accepts no size or its target has no trainable parameters.
    """
    counts = _Counts()
    return {name: asdict(_match(name, one, counts)) for name, one in requests.items()}


def _match(name: str, one: Request, counts: _Counts) -> Match:
    target, budget = counts.of(one.target)
    if budget == 0:
        raise LavishError(
            f"{name}: the variant to match has no trainable parameters below the head: name another variant"
        )
    refusals: list[str] = []

    def trainable(size: int) -> int | None:
        try:
            return counts.of(with_size(one.config, size))[0]
        except LavishError as error:
            refusals.append(str(error))
            return None

    found = nearest_size(trainable, target)
    if found is None:
        option = budget_option(one.config.adapter.method)
        raise LavishError(f"{name}: no '{option}' of method '{one.config.adapter.method}' can be built: {refusals[0]}")
    size, parameters = found
    return Match(size, parameters, target, budget)


def nearest_size(count: Callable[[int], int | None], target: int) -> tuple[int, int] | None:
    """Return the positive integer whose count is closest to `target`, with its count; the smaller one in a tie.

    Sizes are doubled until their counts pass the target; the interval that encloses it is then bisected.

    Args:
        count: monotonic in the size, not strictly; None for an invalid size.
        target: the wanted count.
    """
    counts: dict[int, int | None] = {}

    def known() -> list[tuple[int, int]]:
        return sorted((size, value) for size, value in counts.items() if value is not None)

    size = 1
    while size <= _LARGEST and not (_passed([value - target for _, value in known()]) or _ended(counts)):
        counts[size] = count(size)
        size *= 2
    for _ in range(_MOST - len(counts)):
        middle = _next(counts, known(), target)
        if middle is None:
            break
        counts[middle] = count(middle)
    return min(known(), key=lambda found: (abs(found[1] - target), found[0]), default=None)


def _ended(counts: Mapping[int, int | None]) -> bool:
    """Tell whether three consecutive doublings were refused after an accepted size."""
    last = list(counts.values())[-3:]
    return len(last) == 3 and last == [None] * 3 and any(value is not None for value in counts.values())


def _passed(misses: list[int]) -> bool:
    """Tell whether larger sizes cannot help: the target has been passed, or they move away from it."""
    if not misses:
        return False
    return misses[-1] == 0 or misses[0] * misses[-1] < 0 or abs(misses[-1]) > abs(misses[0])


def _next(counts: Mapping[int, int | None], known: list[tuple[int, int]], target: int) -> int | None:
    """Return the next size: as close as possible to the middle of an interval that may contain the target."""
    intervals = [
        (low, high)
        for (low, below), (high, above) in itertools.pairwise(known)
        if min(below, above) <= target <= max(below, above)
    ]
    if not intervals and known and max(counts) > known[-1][0]:
        # All powers of two beyond the largest accepted one were refused: other sizes may be accepted.
        intervals = [(known[-1][0], 3 * known[-1][0])]
    untried = [
        (abs(2 * size - low - high), size)
        for low, high in intervals
        for size in range(low + 1, high)
        if size not in counts
    ]
    return min(untried, default=(0, None))[1]


class _Counts:
    """Counts the trainable parameters of configurations; equal backbones are built once."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int]] = {}
        self._backbones: dict[str, tuple[tuple[Backbone, Backbone | None], list[bool]]] = {}

    def of(self, config: RunConfig) -> tuple[int, int]:
        """Return the number of trainable parameters of a run, and how many of them are below the head."""
        key = digest(config)
        if key not in self._known:
            self._known[key] = self._count(config)
        return self._known[key]

    def _count(self, config: RunConfig) -> tuple[int, int]:
        if config.audio_encoder is not None and config.audio_encoder.use == "none":
            config = config.model_copy(update={"audio_encoder": None})
        model, _ = uninitialised_model(config, self._frozen(config))
        below = sum(parameter.numel() for parameter in model.adapter_parameters())
        every = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return every + model.task.unused_parameters(), below

    def _frozen(self, config: RunConfig) -> tuple[Backbone, Backbone | None]:
        key = digest(*config.used_backbones(), config.modalities, config.data.image_sizes())
        if key not in self._backbones:
            built = uninitialised_backbones(config)
            self._backbones[key] = built, [parameter.requires_grad for parameter in _parameters(built)]
        backbones, trained = self._backbones[key]
        # A previous method may have made some of them trainable.
        for parameter, flag in zip(_parameters(backbones), trained, strict=True):
            parameter.requires_grad_(flag)
        return backbones


def _parameters(backbones: tuple[Backbone, Backbone | None]) -> list[nn.Parameter]:
    return [parameter for backbone in backbones if backbone is not None for parameter in backbone.parameters()]


def read_requests(values: Any) -> dict[str, Request]:
    """Validate the content of `--requests`."""
    from lavish.config.validation import parse

    return {name: parse(Request, one, f"--requests: {name}") for name, one in dict(values).items()}
