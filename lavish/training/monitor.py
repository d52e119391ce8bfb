"""The course of a training, for TensorBoard or Weights & Biases.

Written for people who watch a training; nothing of this project reads it. The numbers are those of history.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lavish.errors import LavishError

Kind = Literal["none", "tensorboard", "wandb"]
Report: TypeAlias = Callable[[int, Mapping[str, float]], None]
"""Takes an epoch and its numbers."""


def silent(_epoch: int, _values: Mapping[str, float]) -> None:
    """Write nothing."""


@contextmanager
def monitor(kind: Kind, training: Path, config: Mapping[str, Any]) -> Iterator[Report]:
    """Yield a function that writes the numbers of an epoch.

    Args:
        kind: `tensorboard`, or `wandb`, which writes offline runs: nothing is sent, `wandb sync` does that.
        training: folder of the training, ``results/runs/<run>/seed<k>``; written is ``results/monitor/<kind>/``.
        config: configuration of the run, for filters.

    Raises:
        LavishError: the package is not installed.
    """
    folder = training.parent.parent.parent / "monitor" / kind
    name = f"{training.parent.name}-{training.name}"
    if kind == "none":
        yield silent
    elif kind == "tensorboard":
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise _not_installed(kind) from None
        with SummaryWriter(str(folder / name)) as writer:

            def write(epoch: int, values: Mapping[str, float]) -> None:
                for key, value in values.items():
                    writer.add_scalar(key, value, epoch)
                writer.flush()

            yield write
    else:
        try:
            import wandb
        except ImportError:
            raise _not_installed(kind) from None
        folder.mkdir(parents=True, exist_ok=True)
        with wandb.init(mode="offline", project="lavish", name=name, dir=str(folder), config=dict(config)) as run:
            yield lambda epoch, values: run.log(dict(values), step=epoch)


def _not_installed(kind: str) -> LavishError:
    return LavishError(f"`monitor: {kind}` needs the package {kind}: `pip install {kind}`, or say `monitor: none`")
