"""Small runs of every method and task, which take moments on a GPU."""

from __future__ import annotations

from typing import Any

from lavish.checks.method import SMALL_OPTIONS
from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from tests.stores import TASK_OPTIONS, run_values

CLIPS = 8
METHODS, TASKS = built_in("methods"), built_in("tasks")
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "swinv2": {"img_size": 16, "embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2], "window_size": 2},
}


def configured(task: str, method: str, backbone: str = "vit", **training: Any) -> RunConfig:
    """Return a run that fits the stores, with changes to its training."""
    values = run_values(
        task={"name": task, "options": TASK_OPTIONS[task]},
        adapter={"method": method, "options": SMALL_OPTIONS.get(method, {})},
        backbone={"model": backbone, "spec": BACKBONES[backbone], "weights": {"source": "random"}},
        # Three steps an epoch, the last one with fewer clips.
        training={"epochs": 2, "batch_size": 3, "lr_adapter": 0.01, "lr_head": 0.01, **training},
    )
    return parse(RunConfig, values, "test").resolved()
