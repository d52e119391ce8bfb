"""Trainings on a GPU that are made again end with equal bytes, also if they are interrupted: every method and task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lavish.training import checkpoint, loop
from lavish.training.jobs import RunInputs, provide_weights, train
from tests.gpu.small import BACKBONES, METHODS, TASKS, configured

pytestmark = pytest.mark.gpu

MODES: dict[str, dict[str, Any]] = {"eager": {}}
"""Changes to a training that change no byte."""
RUNS = [
    *((method, task, "vit") for method in METHODS for task in TASKS),
    # Windows, and the gradient of their position biases.
    *((method, "event_localization", "swinv2") for method in ("lavish", "full_finetuning")),
]


class Killed(BaseException):
    """Stands for SIGKILL: nothing gets to clean up."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the weights of each backbone."""
    folder = tmp_path_factory.mktemp("weights")
    for name in BACKBONES:
        provide_weights(configured("event_localization", "lavish", name).backbone, folder / f"{name}.safetensors")
    return folder


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(("method", "task", "backbone"), RUNS)
def test_a_training_that_is_interrupted_ends_with_the_bytes_of_one_that_is_not(
    method, task, backbone, precision, device, stores, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "forget_state", lambda out: None)  # it has the last weights and the moments

    def training(mode: str) -> RunInputs:
        config = configured(task, method, backbone, precision=precision, **MODES[mode])
        return RunInputs(config, 0, stores / task, weights / f"{backbone}.safetensors", device=device)

    train(training("eager"), tmp_path / "whole")
    for mode in MODES:
        interrupted(training(mode), tmp_path / mode, monkeypatch)
        train(training(mode), tmp_path / mode)
        assert results(tmp_path / mode) == results(tmp_path / "whole"), mode


def interrupted(inputs: RunInputs, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the end of the second epoch, of which nothing is saved."""
    evaluate, calls = loop.evaluate, []

    def dies_in_the_second_epoch(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise Killed
        return evaluate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", dies_in_the_second_epoch)
        with pytest.raises(Killed):
            train(inputs, out)


def results(out: Path) -> dict[str, bytes]:
    """Return the history, and all weights and moments."""
    files = [out / "best.safetensors", out / "resume.safetensors"]
    found = {f"{file.stem} {name}": array.tobytes() for file in files for name, array in load_file(file).items()}
    return found | {"history": (out / "history.csv").read_bytes()}
