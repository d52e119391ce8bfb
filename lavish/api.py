"""The public Python API, re-exported by :mod:`lavish`: thin functions over the packages below."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.config.sources import available
from lavish.errors import LavishError

if TYPE_CHECKING:
    import pandas as pd

    from lavish.reporting.statistics import PairedTest


def available_methods() -> list[str]:
    """Return the names of all methods, sorted."""
    return available("methods")


def available_tasks() -> list[str]:
    """Return the names of all tasks, sorted."""
    return available("tasks")


def load_results(results: str | PathLike[str]) -> pd.DataFrame:
    """Return the evaluated runs below a folder, one row per run, seed and split.

    The columns are `run` (the run's folder), `seed`, `split`, `metric`, `value`, `best_epoch`, the counts of cost.json
    (`trainable_params`, `total_params`, `adapter_params`, `adapter_macs`, `total_macs`; missing where the cost has not
    been counted) and one `measures.<name>` per further measure. Raises LavishError when the folder does not exist or a
    file in it is invalid.
    """
    import pandas as pd

    from lavish.reporting.records import MissingResult, read_cost, read_evaluation, read_record

    root = Path(results)
    if not root.is_dir():
        raise LavishError(f"{root} is not a folder: give the folder that holds the runs")
    rows: list[dict[str, Any]] = []
    for path in sorted(root.rglob("seed*/*/metrics.json")):
        split, training = path.parent.name, path.parents[1]
        record, evaluation = read_record(training), read_evaluation(training, split)
        row = {
            "run": str(training.parent),
            "seed": record.seed,
            "split": split,
            "metric": evaluation.metric,
            "value": evaluation.value,
            "best_epoch": record.best_epoch,
        }
        counts = ("trainable_params", "total_params", "adapter_params", "adapter_macs", "total_macs")
        try:
            cost = read_cost(training.parent)
            row |= {name: getattr(cost, name) for name in counts}
        except MissingResult:
            row |= dict.fromkeys(counts)
        rows.append(row | {f"measures.{name}": value for name, value in evaluation.measures.items()})
    return pd.DataFrame(rows)


def compare(a: str | PathLike[str], b: str | PathLike[str], split: str = "test") -> PairedTest:
    """Return the difference a - b of two runs' metrics, with its 95 % confidence interval and two-sided p-value.

    `a` and `b` are folders of runs, as in the column `run` of :func:`load_results`. The seeds that both have are
    paired, and so are the test units. Raises LavishError when there are none in common or the units differ.
    """
    from lavish.reporting.records import read_run, unit_order
    from lavish.reporting.statistics import clip_values, paired_test

    first, second = Path(a), Path(b)
    seeds = sorted(_seeds(first) & _seeds(second))
    if not seeds:
        raise LavishError(f"{first} and {second} have no seed in common: train both with the same seeds")
    one, other = read_run(first, seeds, split), read_run(second, seeds, split)
    if one.metric != other.metric:
        raise LavishError(f"{first} has the metric '{one.metric}', {second} '{other.metric}': compare runs of one task")
    order = unit_order(one.clips, other.clips)
    if order is None:
        raise LavishError(f"{first} and {second} were evaluated on different clips: evaluate both on the same data")
    return paired_test(clip_values(one.scores, one.clips), clip_values(other.scores[:, order], one.clips))


def _seeds(run: Path) -> set[int]:
    return {int(path.name[4:]) for path in run.glob("seed*") if path.name[4:].isdigit()}
