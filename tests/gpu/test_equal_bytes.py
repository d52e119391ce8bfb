"""Trainings on a GPU end with equal bytes, also captured, interrupted and resumed: every method and task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lavish.training import checkpoint, loop
from lavish.training.jobs import RunInputs, provide_weights, train
from tests.gpu.small import BACKBONES, METHODS, TASKS, configured

pytestmark = pytest.mark.gpu

RUNS = [
    *((method, task, "vit", "auto") for method in METHODS for task in TASKS),
    # Windows, and the gradient of their position biases.
    *((method, "event_localization", "swinv2", "auto") for method in ("lavish", "full_finetuning")),
    # Without capture, so that one can tell what a difference comes from.
    *(("lavish", task, "vit", "none") for task in TASKS),
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
@pytest.mark.parametrize(("method", "task", "backbone", "capture"), RUNS)
def test_a_captured_and_interrupted_training_ends_with_the_bytes_of_one_that_is_neither(
    method, task, backbone, capture, precision, device, stores, weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(checkpoint, "forget_state", lambda out: None)  # it has the last weights and the moments
    monkeypatch.setattr("lavish.training.capture.EAGER_CALLS", 1)  # the second of two whole batches is captured

    def training(capture: str) -> RunInputs:
        config = configured(task, method, backbone, precision=precision, capture=capture)
        return RunInputs(config, 0, stores / task, weights / f"{backbone}.safetensors", device=device)

    train(training("none"), tmp_path / "whole")
    interrupted(training(capture), tmp_path / "again", monkeypatch)
    train(training(capture), tmp_path / "again")
    assert "training.capture" not in capsys.readouterr().err, "it was not captured"
    assert results(tmp_path / "again") == results(tmp_path / "whole")


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
