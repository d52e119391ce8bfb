"""The course of a training, for TensorBoard and Weights & Biases."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.training.jobs import RunInputs, provide_weights, train
from lavish.training.monitor import monitor
from tests.stores import run_values, write_store

TRAINING = Path("results/runs/event_localization-0a1b2c3d/seed0")


class FakeWriter:
    """Stands for TensorBoard's writer, which needs a package that is not installed here."""

    def __init__(self, folder: str) -> None:
        self.folder, self.values, self.closed = folder, [], False
        made.append(self)

    def __enter__(self) -> FakeWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.values.append((key, value, step))

    def flush(self) -> None:
        pass

    def log(self, values: dict[str, float], step: int) -> None:
        self.values += [(key, value, step) for key, value in values.items()]


made: list[Any] = []


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    tensorboard, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    tensorboard.SummaryWriter = FakeWriter

    def init(**options: Any) -> FakeWriter:
        run = FakeWriter(options["dir"])
        run.options = options
        return run

    wandb.init = init
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    monkeypatch.setitem(sys.modules, "wandb", wandb)


@pytest.fixture
def inputs(tmp_path: Path) -> RunInputs:
    config = parse(RunConfig, run_values(), "test")
    for seed, split in enumerate(("train", "val", "test")):
        write_store(tmp_path / "data" / split, seed=seed)
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    return RunInputs(config, 0, tmp_path / "data", tmp_path / "vit.safetensors")


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_every_epoch_of_a_training_is_written(
    kind: Any, inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(inputs, TRAINING)
    assert made == []
    plain = (TRAINING / "history.csv").read_bytes()
    train(RunInputs(inputs.config, 0, inputs.data, inputs.weights, monitor=kind), TRAINING)
    assert (TRAINING / "history.csv").read_bytes() == plain
    (writer,) = made
    assert writer.closed and str(tmp_path / "results/monitor" / kind) in writer.folder
    keys = {key for key, _, _ in writer.values}
    assert {"train_loss", "selection_accuracy", f"{inputs.config.training.batch_of}_per_second"} <= keys
    epochs = [step for key, _, step in writer.values if key == "train_loss"]
    assert epochs == list(range(inputs.config.training.epochs))


def test_runs_of_weights_and_biases_are_offline(tmp_path: Path) -> None:
    with monitor("wandb", tmp_path / TRAINING, {"adapter": {"method": "lavish"}}) as report:
        report(0, {"train_loss": 1.0})
    (run,) = made
    assert run.options["mode"] == "offline"
    assert run.options["name"] == "event_localization-0a1b2c3d-seed0"
    assert run.options["config"]["adapter"]["method"] == "lavish"


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *others: Any) -> Any:
        if name in ("torch.utils.tensorboard", "wandb"):
            raise ImportError(name)
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(LavishError, match=f"`monitor: {kind}` needs the package {kind}"), monitor(kind, TRAINING, {}):
        pass
