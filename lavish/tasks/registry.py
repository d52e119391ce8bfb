"""Building a task's head from its name."""

from __future__ import annotations

import importlib
from typing import Any

from lavish.config.options import method_class, method_path
from lavish.tasks.base import FeatureShape, Task


def task_class(name: str) -> type[Task]:
    """Return the subclass of :class:`Task` in ``lavish/tasks/<name>.py``."""
    module = importlib.import_module(f"lavish.tasks.{name}")
    return getattr(module, method_class("tasks", method_path("tasks", name)).name)


def build_task(name: str, shape: FeatureShape, options: dict[str, Any]) -> Task:
    """Build a task's head for features of this shape."""
    return task_class(name)(shape, **options)
