"""Small run directories as training, evaluation and cost leave them, and a table over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lavish.config.hashing import canonical_json
from lavish.config.options import task_measures

SEEDS = (0, 1, 2)
CLIPS = 80
TASK = "event_localization"
# Of the tasks that the configuration has, as planning writes them into a table's specification.
MEASURES = {
    key: [asdict(one) for one in task_measures(task).values()]
    for key, task in {
        TASK: TASK,
        "segmentation_s4": "segmentation",
        "question_answering": "question_answering",
    }.items()
}


def record(seed: int, selected_on: str = "val") -> dict[str, Any]:
    return {
        "seed": seed,
        "metric": "accuracy",
        "selected_on": selected_on,
        "best_epoch": 2,
        "best_value": 0.8,
        "epochs": 3,
        "wall_seconds": 12.5,
        "step_seconds_median": 0.04 + 0.001 * seed,
        "units_per_step": 8,
        "checkpoint_bytes": 1_234_567,
        "peak_memory_bytes": (1 + seed) * 2**30,
        "device": "cpu",
    }


class RunMaker:
    """Writes a run directory from scores (seeds, clips)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(
        self,
        name: str,
        scores: Any,
        *,
        macs: int = 3_000_000,
        selected_on: str = "val",
        metric: str = "accuracy",
        clips: list[str] | None = None,
        columns: dict[str, Any] | None = None,
        whole: dict[str, list[float]] | None = None,
    ) -> Path:
        """Write a run; `columns` are measures that are means of units (seeds, units), `whole` those that are not."""
        run = self.root / name
        for index, line in enumerate(np.atleast_2d(np.asarray(scores, dtype=float))):
            seed = SEEDS[index]
            more = {measure: np.asarray(values)[index] for measure, values in (columns or {}).items()}
            numbers = {measure: values[index] for measure, values in (whole or {}).items()}
            self.evaluation(run / f"seed{seed}", line, clips, metric=metric, columns=more, whole=numbers)
            (run / f"seed{seed}" / "record.json").write_text(json.dumps(record(seed, selected_on) | {"metric": metric}))
        cost = {
            "trainable_params": 170_000,
            "total_params": 319_000,
            "adapter_params": 150_000,
            "adapter_macs": macs,
            "total_macs": 51_000_000 + macs,
            "adapter_macs_without_norms": macs - 1,
            "macs_by_module": {"model.encoder": macs},
        }
        (run / "cost.json").write_text(json.dumps(cost))
        return run

    def evaluation(
        self,
        directory: Path,
        scores: Any,
        clips: list[str] | None = None,
        *,
        metric: str = "accuracy",
        columns: dict[str, np.ndarray] | None = None,
        whole: dict[str, float] | None = None,
        folder: str = "test",
        origin: dict[str, Any] | None = None,
    ) -> None:
        """Write one evaluation; YouTube ids may begin with a dash, so these do."""
        (directory / folder).mkdir(parents=True, exist_ok=True)
        scores = np.asarray(scores, dtype=float)
        clips = clips or [f"-clip{index}" for index in range(len(scores))]
        means = {name: float(np.nanmean(values)) for name, values in (columns or {}).items()}
        measures = {"loss": 0.5, **means, **(whole or {})}
        metrics = {"metric": metric, "value": float(scores.mean()), "measures": measures, "origin": origin or {}}
        (directory / folder / "metrics.json").write_text(json.dumps(metrics))
        table = pa.table({"clip": clips, "score": scores, "labels": [[0, 1]] * len(clips), **(columns or {})})
        pq.write_table(table, directory / folder / "predictions.parquet")


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Return a function that writes a run directory below `tmp_path`."""
    return RunMaker(tmp_path)


@pytest.fixture(scope="session")
def draw_scores() -> Callable[..., np.ndarray]:
    """Return a function that draws segment accuracies (seeds, clips) around a logit, with shared clip difficulty."""
    difficulty = np.random.default_rng(0).standard_normal(CLIPS)

    def draw(logit: float, number: int) -> np.ndarray:
        generator = np.random.default_rng([1, number])
        chance = 1 / (1 + np.exp(-(logit + difficulty)))
        return generator.binomial(10, chance, (len(SEEDS), CLIPS)) / 10

    return draw


@pytest.fixture(scope="session")
def table_root(tmp_path_factory: pytest.TempPathFactory, draw_scores: Callable[..., np.ndarray]) -> Path:
    """Return a folder with the runs of :func:`table_spec`; tests must not change it."""
    make = RunMaker(tmp_path_factory.mktemp("runs"))
    make("full", draw_scores(1.6, 0))
    make("no_fusion", draw_scores(1.6, 1), macs=2_500_000)
    make("frozen", draw_scores(0.6, 2), macs=0)
    make("on_test", draw_scores(1.7, 3), macs=4_000_000, selected_on="test")
    return make.root


@pytest.fixture
def table_spec(table_root: Path) -> dict[str, Any]:
    """Return a fresh table of five rows in two sections; one variant occurs twice, one has not been run."""

    def row(variant: str, label: str, *, select_on: str = "val", **more: Any) -> dict[str, Any]:
        run = {"folder": str(table_root / variant), "select_on": select_on}
        return {"variant": variant, "label": label, "task": TASK, "runs": {TASK: run}, **more}

    published = {
        "id": "ave_lavish_swinv2l",
        "table": "ave",
        "method": "LAVISH",
        "encoders": "Swin-V2-L (shared)",
        "metric": "accuracy",
        "value": "81.1",
        "selection": "test-selected",
        "source": "a results figure; issues 2, 9",
    }
    frozen = row("frozen", "frozen backbone")
    spec = {
        "name": "ablation",
        "title": "Ablation of LAVISH",
        "description": "What each part contributes.",
        "task": TASK,
        "measures": MEASURES,
        "baseline": "full",
        "columns": [
            "metric", "difference", "trainable_params", "total_params", "adapter_gmacs", "total_gmacs", "published",
        ],
        "seeds": list(SEEDS),
        "sections": [
            {
                "title": "Fusion",
                "rows": [
                    row("full", "LAVISH", published=[published]),
                    row("no_fusion", "no cross-modal attention"),
                    frozen,
                ],
            },
            {
                "title": "Selection & more",
                "rows": [
                    frozen,
                    row("on_test", "LAVISH, 50% | test", select_on="test"),
                    row("absent", "audio → visual"),
                ],
            },
        ],
        "figures": {"cost": {"kind": "metric_against_cost", "title": "Accuracy against cost", "section": "Fusion"}},
        "facts": {"data": "composed clips of 8 classes", "backbone": "a small ViT"},
    }  # fmt: skip
    # Through JSON, as the workflow hands it over: keys are sorted, and nothing is shared between rows.
    return json.loads(canonical_json(spec))
