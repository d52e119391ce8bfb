"""What every task is: a trainable head with its loss and its metric."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from lavish.adapters.base import Stream
from lavish.encoder import StreamFeatures
from lavish.options import method_class, method_path

Targets = dict[str, Tensor]


class Task(nn.Module, ABC):
    """A task is one file of this package with one subclass.

    The constructor takes the widths of the features that reach the head, in order, and the names of the classes, then
    the task's options, keyword-only, each with a type and a default: they are what `task.options` may say.
    """

    metric: ClassVar[str]
    """Name of the selection metric; higher is better and it is the mean of the units' scores."""

    @abstractmethod
    def forward(self, streams: dict[Stream, StreamFeatures], features: list[Tensor]) -> Tensor:
        """Return the head's output from the encoder's streams and the pooled features (clips, steps, D) in order."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Targets) -> Tensor:
        """Return the scalar training loss, a mean over the batch's clips."""

    @abstractmethod
    def score(self, output: Tensor, targets: Targets) -> dict[str, np.ndarray]:
        """Return, per unit of the batch, `score` and whatever else the predictions should keep."""


def task_class(name: str) -> type[Task]:
    """Return the subclass of :class:`Task` in ``lavish/tasks/<name>.py``."""
    module = importlib.import_module(f"lavish.tasks.{name}")
    return getattr(module, method_class("tasks", method_path("tasks", name)).name)


def build_task(name: str, widths: list[int], classes: list[str], options: dict[str, Any]) -> Task:
    """Build a task's head on features of these widths."""
    return task_class(name)(widths, classes, **options)
