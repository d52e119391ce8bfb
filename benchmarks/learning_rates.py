"""Which learning rate each row of a table does best with, on the selection split and with a seed of its own.

    python benchmarks/learning_rates.py peft --task event_localization --rates 0.0005 0.002 0.008 0.032

Reads what the workflow has prepared: make the table once, or its data and weights, before. Each row is trained with
each rate in place of `training.lr_adapter`; the test split is never read. Prints a table, in markdown, of the metric on
the selection split, with the best rate of each row marked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tabulate import tabulate

import lavish.planning.experiments
from lavish.config.schema import RunConfig
from lavish.planning.identities import Run


def main() -> None:
    """Train every row with every rate and print what the selection split says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="name of a file of config/tables")
    parser.add_argument("--task", required=True, help="the rows' runs on this task")
    parser.add_argument("--rates", type=float, nargs="+", required=True, help="values of training.lr_adapter")
    parser.add_argument("--rows", nargs="*", default=[], help="variants; all by default")
    parser.add_argument("--seed", type=int, default=100, help="none of those that are reported")
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--configfile", type=Path, action="append", default=[], help="laid over config/config.yaml")
    options = parser.parse_args()

    experiments = lavish.planning.experiments.load([Path("config/config.yaml"), *options.configfile], {})
    experiments.table(options.table)  # an error if it cannot be made
    labels = [one for one in experiments.labels if (one.table, one.task) == (options.table, options.task)]
    variants = {one.run: one.variant for one in labels if not options.rows or one.variant in options.rows}
    runs = [experiments.run(name) for name in variants]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = {
            (run.name, rate): pool.submit(_train, _with_rate(run.config, rate), options.seed, run, Path(folder))
            for run in runs
            for rate in options.rates
        }
        rows = []
        for run in runs:
            values = [found[run.name, rate].result() for rate in options.rates]
            best = max(values)
            cells = [f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in values]
            cells = [f"**{value:.1f}**" if value == best else f"{value:.1f}" for value in values]
            rows.append([variants[run.name], *cells])
    print(tabulate(rows, headers=["variant", *map(str, options.rates)], tablefmt="github", disable_numparse=True))


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    return config.model_copy(update={"training": config.training.model_copy(update={"lr_adapter": rate})})


def _train(config: RunConfig, seed: int, run: Run, folder: Path) -> float:
    """Return the best value on the selection split, in percent; a training that diverges is worth nothing."""
    from lavish.errors import LavishError
    from lavish.training.jobs import RunInputs, train

    kind = "pretrained" if run.backbone.pretrained else "pinned"
    weights = Path(f"results/weights/{kind}/{run.backbone.name}.safetensors")
    out = folder / f"{run.name}-{config.training.lr_adapter}"
    try:
        train(RunInputs(config, seed, Path(f"results/data/prepared/{run.data.name}"), weights), out)
    except LavishError:
        return float("-inf")
    return 100 * json.loads((out / "record.json").read_text())["best_value"]


if __name__ == "__main__":
    main()
