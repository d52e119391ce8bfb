"""The search space of a run: what its method declares, as ranges of keys of the run.

A method declares in its class what is searched and where::

    search_space = {"lr_adapter": ("log", 0.25, 32), "alpha": ("choices", 4.0, 8.0, 16.0)}

Learning rates (`lr_adapter`, `lr_head`) are multiples of the task's own, because those that work differ by orders of
magnitude between backbones; other names are options of the method. The learning rate of a method's parameters is
searched in any case, of a run without a method that of the head.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

from lavish.config.options import budget_option, check_options, class_attribute, option_model
from lavish.config.schema import ChoicesConfig, RangeConfig, RunConfig, SearchConfig, TuningConfig
from lavish.config.sources import SourceError, method_path
from lavish.errors import LavishError, did_you_mean

FIRST_SEED = 1000
"""The seeds of searches begin here, which keeps them apart from those of tables."""

RATES = ("lr_adapter", "lr_head")
"""Names that are learning rates, not options."""

_DEFAULT = {"lr_adapter": ("log", 0.0625, 8.0)}
_WITHOUT_METHOD = {"lr_head": ("log", 0.125, 8.0)}


def with_search(
    config: RunConfig,
    tuning: TuningConfig,
    *,
    rates: RunConfig,
    reported: Collection[int],
    fixed: Collection[str],
    where: str,
) -> RunConfig:
    """Return a run with the search that replaces values of its configuration.

    Args:
        config: the run as its row writes it.
        tuning: the budget.
        rates: the run whose learning rates declared ones are multiples of: the defaults of the task.
        reported: the seeds of the table, which the search does not use.
        fixed: options that are not searched, because the row says what they are.
        where: the row, for messages.

    Raises:
        LavishError: the method declares a space that cannot be read, or the run selects on the test split.
    """
    if config.select_on == "test":
        raise LavishError(f"{where}: select_on is 'test', but a search selects on validation: remove one of the two")
    if config.tuning is not None:
        raise LavishError(
            f"{where}: key 'tuning' is for the workflow: declare `search_space` in the class of the method"
        )
    size = budget_option(config.adapter.method)
    left_out = {*fixed} if tuning.size or size is None else {*fixed, size}
    space: dict[str, RangeConfig | ChoicesConfig] = {}
    for name, declared in declared_space(config.adapter.method).items():
        if name in RATES:
            rate = getattr(rates.training, name)
            dimension = RangeConfig(scale=declared[0], low=declared[1] * rate, high=declared[2] * rate)
            space[f"training.{name}"] = dimension
        elif name not in left_out:
            space[f"adapter.options.{name}"] = _dimension(declared)
    seeds = (seed for seed in itertools.count(FIRST_SEED) if seed not in reported)
    search = SearchConfig(
        trials=tuning.trials,
        seeds=[*itertools.islice(seeds, tuning.seeds)],
        sampler=tuning.sampler,
        sampler_seed=tuning.sampler_seed,
        space=space,
    )
    return config.model_copy(update={"tuning": search})


def one_trial(search: SearchConfig) -> SearchConfig:
    """Return what a single trial depends on: with another number of trials or seeds it is the same one."""
    return search.model_copy(update={"trials": 1, "seeds": []})


def declared_space(method: str) -> dict[str, tuple[Any, ...]]:
    """Return what a method declares, checked: by name ``(scale, low, high)`` or ``("choices", value, ...)``.

    Raises:
        SourceError: naming the file and the entry that is wrong.
    """
    if method == "none":
        return _WITHOUT_METHOD
    declared = class_attribute("methods", method, "search_space", {})
    where = f"{method_path('methods', method)}: search_space"
    if not isinstance(declared, dict):
        raise SourceError(f"{where} is {declared!r}: write a dictionary of names and ranges")
    for name, dimension in declared.items():
        known = (*RATES, *option_model("methods", method).model_fields)
        if name not in known:
            raise SourceError(f"{where}: '{name}' is no option and no learning rate{did_you_mean(str(name), known)}")
        _check(dimension, f"{where}: '{name}'")
        if name in RATES:
            if dimension[0] != "log":
                raise SourceError(f"{where}: '{name}' is {dimension!r}: write ('log', lowest, highest) for a rate")
            continue
        for value in dimension[1:]:
            check_options("methods", method, {name: value})
    return _DEFAULT | declared


def _check(dimension: Any, where: str) -> None:
    """Raise SourceError unless `dimension` is a range or several choices."""
    match dimension:
        case ("choices", _, _, *_):
            return
        case (("log" | "linear") as scale, float() | int() as low, float() | int() as high):
            if low < high and (low > 0 or scale == "linear"):
                return
    raise SourceError(
        f"{where} is {dimension!r}: write ('log', lowest, highest) with positive numbers, ('linear', lowest, highest) "
        "or ('choices', one, another, ...)"
    )


def _dimension(declared: Sequence[Any]) -> RangeConfig | ChoicesConfig:
    if declared[0] == "choices":
        return ChoicesConfig(choices=list(declared[1:]))
    return RangeConfig(scale=declared[0], low=declared[1], high=declared[2])
