"""Building a task's head from its name."""

from __future__ import annotations

from typing import Any

from lavish.config.options import method_class
from lavish.config.sources import load_module, method_path
from lavish.tasks.base import FeatureShape, Task


def task_class(name: str) -> type[Task]:
    """Return the class of a task; a LavishError if the file of an external one cannot be imported."""
    return getattr(load_module("tasks", name), method_class("tasks", method_path("tasks", name)).name)


def build_task(name: str, shape: FeatureShape, options: dict[str, Any]) -> Task:
    """Build a task's head for features of this shape."""
    return task_class(name)(shape, **options)
