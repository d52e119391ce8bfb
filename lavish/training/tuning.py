"""Hyperparameter search: the values of each trial, and the choice among trained trials."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from lavish.config.options import task_measures
from lavish.config.schema import ChoicesConfig, RangeConfig, RunConfig, SearchConfig
from lavish.errors import LavishError
from lavish.io.atomic import write_json

_DIGITS = 3
"""Significant digits of searched numbers: enough for any of them, and short enough to be written down."""


def sample(search: SearchConfig, trial: int) -> dict[str, Any]:
    """Return the values of a trial by their keys in a run.

    Trials are the points of a sequence that depends on nothing but the sampler, its seed and the number of dimensions:
    equal rows try equal multiples of their rates, and a larger number of trials goes on where a smaller one ended. The
    dimensions are in the order of their keys.
    """
    import numpy as np
    from scipy.stats import qmc

    dimensions, rng = len(search.space), np.random.default_rng(search.sampler_seed)
    if search.sampler == "uniform":
        points = rng.random((trial + 1, dimensions))
    else:
        points = qmc.Halton(dimensions, scramble=True, rng=rng).random(trial + 1)
    point = dict(zip(sorted(search.space), points[-1].tolist(), strict=True))
    return {key: _value(dimension, point[key]) for key, dimension in search.space.items()}


def _value(dimension: RangeConfig | ChoicesConfig, point: float) -> Any:
    """Return the value at a point of [0, 1)."""
    if isinstance(dimension, ChoicesConfig):
        return dimension.choices[int(point * len(dimension.choices))]
    low, high = dimension.low, dimension.high
    value = low * (high / low) ** point if dimension.scale == "log" else low + (high - low) * point
    return float(f"{value:.{_DIGITS}g}")


def choose(config: RunConfig, trials: Path, out: Path) -> None:
    """Write the choice among the trials of a run: the values whose mean over seeds is best on validation.

    Of equal ones the first is chosen. Trials whose loss became infinite or no number are worse than all others.

    Args:
        config: the run, with its search.
        trials: folder with ``trial<i>/seed<k>/record.json`` of each trial.
        out: JSON file to write; :class:`lavish.reporting.tuning.Tuning` describes it.

    Raises:
        LavishError: a record is missing or is of another trial, or no trial can be used.
    """
    search = _search_of(config)
    metric, *_ = task_measures(config.task.name).values()
    found = []
    for trial in range(search.trials):
        paths = [trials / f"trial{trial}" / f"seed{seed}" / "record.json" for seed in search.seeds]
        records = [read_trial(path) for path in paths]
        for path, record in zip(paths, records, strict=True):
            if record["values"].keys() != search.space.keys():
                raise LavishError(f"{path}: the record of another search: remove it and run the trial again")
        by_seed = [record["best_value"] for record in records]
        mean = None if None in by_seed else fmean(by_seed)
        found.append({"values": records[0]["values"], "by_seed": by_seed, "value": mean})
    usable = [trial for trial in range(search.trials) if found[trial]["value"] is not None]
    if not usable:
        raise LavishError(
            f"{trials}: the loss was not finite in any of the {search.trials} trials: lower the ranges of the method's "
            "`search_space`, or raise tuning.trials"
        )
    best = (max if metric.higher_is_better else min)(usable, key=lambda trial: found[trial]["value"])
    write_json(
        out,
        {
            "metric": metric.name,
            "selected_on": config.select_on,
            "seeds": search.seeds,
            "sampler": search.sampler,
            "search": trials.name,
            "trials": found,
            "chosen": best,
            "values": found[best]["values"],
            "at_edge": _at_edge(search, [one["values"] for one in found], best),
        },
    )


def _at_edge(search: SearchConfig, tried: list[dict[str, Any]], best: int) -> dict[str, str]:
    """Return the keys whose chosen value is the lowest or the highest that was tried, so that beyond may be better."""
    edges = {}
    for key, dimension in search.space.items():
        # Choices are in the order of the declaration.
        order = dimension.choices.index if isinstance(dimension, ChoicesConfig) else float
        places = [order(values[key]) for values in tried]
        if places[best] == min(places) < max(places):
            edges[key] = "lowest"
        elif places[best] == max(places) > min(places):
            edges[key] = "highest"
    return edges


def read_trial(path: Path) -> dict[str, Any]:
    """Return the record of a trial: its `values` by keys, and its `best_value`, None if it diverged.

    Raises:
        LavishError: the file is missing or damaged.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        best, values = record["best_value"], record["values"]
        if not isinstance(values, dict) or not (best is None or isinstance(best, float)):
            raise TypeError("'values' or 'best_value' is of another type")
    except FileNotFoundError:
        raise LavishError(f"{path} is missing: run the trial") from None
    except (KeyError, ValueError, TypeError) as error:
        raise LavishError(f"{path}: not the record of a trial ({error}): remove it and run the trial again") from None
    return record


def tuned(config: RunConfig, choice: Path | None) -> RunConfig:
    """Return a run with the chosen values of its search.

    Raises:
        LavishError: there is a search but no choice, or the other way round, or the choice is one of another search.
    """
    if (config.tuning is None) != (choice is None):
        raise LavishError(
            "the configuration has a search: give its result with --tuned"
            if choice is None
            else f"--tuned {choice}: the configuration has no search"
        )
    if choice is None:
        return config
    try:
        values = json.loads(choice.read_text(encoding="utf-8"))["values"]
    except (OSError, KeyError, ValueError) as error:
        raise LavishError(f"{choice}: not the result of a search ({error}): run `lavish choose` again") from None
    if values.keys() != _search_of(config).space.keys():
        raise LavishError(
            f"{choice}: has {', '.join(values)}, but the search is over other keys: run `lavish choose` again"
        )
    return config.with_values(values)


def _search_of(config: RunConfig) -> SearchConfig:
    if config.tuning is None:
        raise LavishError("the configuration has no search: give one with the key 'tuning'")
    return config.tuning
