"""What a training step must not do on a GPU, shown on a CPU by the operators that it runs.

Nothing reads a value from the device: the program would wait for it, and the step could not be captured. Nothing is
computed by an operator that has no deterministic form on a GPU.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lavish.checks.method import BACKBONES, PAIRS, SEGMENTS, SMALL_OPTIONS, Subject, images, randomise
from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from lavish.data.formats.base import NOT_ANNOTATED
from lavish.training import loop
from lavish.training.jobs import RunInputs, provide_weights, train
from tests.stores import contents_of_tasks, run_values, write_store

CLIPS = 4
TASKS: list[tuple[str, dict[str, Any]]] = [
    ("event_localization", {"loss": "ce"}),
    ("event_localization", {"loss": "bce_softmax"}),
    ("segmentation", {"channels": 8, "levels": 1}),
    ("segmentation", {"channels": 8, "levels": 1, "tpavi": True}),
    ("segmentation", {"channels": 8, "levels": 1, "tpavi": True, "matching": "divergence"}),
    ("segmentation", {"channels": 8, "levels": 1, "tpavi": True, "matching": "cosine"}),
    ("question_answering", {"width": 8, "standardise": True}),
    ("action_recognition", {"grid": 2, "pooling": "attention", "label_smoothing": 0.1}),
]


class Refusing(TorchDispatchMode):
    """Raises an error for operators whose result, or the size of it, the program reads, and for those without a
    deterministic form on a GPU.

    They are those that the documentation of ``torch.use_deterministic_algorithms`` lists, but for bilinear resizing,
    which torch then replaces itself.
    """

    NOT_DETERMINISTIC = re.compile(
        r"upsample_(bicubic|nearest)\w+_backward|_?adaptive_\w*pool\w*_backward|avg_pool3d_backward|max_pool3d_with_indices_backward|"
        r"fractional_max_pool\w*_backward|max_unpool\w*|(reflection|replication)_pad\w*_backward|grid_sampler_\w*_backward|"
        r"nll_loss2d_forward|_ctc_loss_backward|_embedding_bag\w*|put_?|histc|kthvalue|median|cumsum|resize_"
    )

    READING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "_unique2", "repeat_interleave")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masked = name.startswith(("index", "_index_put")) and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if name in self.READING or masked:
            raise AssertionError(f"a step reads from the device: {func}")
        if self.NOT_DETERMINISTIC.fullmatch(name):
            raise AssertionError(f"a step is not deterministic on a GPU: {func}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each task and the weights."""
    folder = tmp_path_factory.mktemp("inputs")
    contents = contents_of_tasks(CLIPS, np.random.default_rng(0))
    contents["segmentation"]["masks"][1:, 1] = NOT_ANNOTATED
    for task, content in contents.items():
        for split in ("train", "val"):
            write_store(folder / task / split, clips=CLIPS, **content)
    provide_weights(parse(RunConfig, run_values(), "test").backbone, folder / "weights.safetensors")
    return folder


def stepped(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Train for an epoch with :class:`Refusing` in every step."""
    step, steps = loop._step, []

    def watched(*arguments: Any) -> torch.Tensor:
        with Refusing():
            steps.append(step(*arguments))
        return steps[-1]

    monkeypatch.setattr(loop, "_step", watched)
    options = {"epochs": 1, "batch_size": 2, "lr_adapter": 0.01, "lr_head": 0.01} | changes.pop("training", {})
    config = parse(RunConfig, run_values(training=options, **changes), "test")
    train(RunInputs(config, 0, folder / config.task.name, folder / "weights.safetensors"), out)
    assert len(steps) > 1


def test_every_task_is_tested() -> None:
    assert {task for task, _ in TASKS} == set(built_in("tasks"))


@pytest.mark.parametrize(("task", "options"), TASKS)
def test_no_task_reads_from_the_device(task, options, folder, tmp_path, monkeypatch) -> None:
    stepped(folder, tmp_path, monkeypatch, task={"name": task, "options": options})


@pytest.mark.parametrize("method", built_in("methods"))
def test_no_method_reads_from_the_device(method, folder, tmp_path, monkeypatch) -> None:
    adapter = {"method": method, "options": SMALL_OPTIONS.get(method, {})}
    stepped(folder, tmp_path, monkeypatch, adapter=adapter)


@pytest.mark.parametrize("backbone", [*BACKBONES, *PAIRS])
def test_no_backbone_reads_from_the_device(backbone) -> None:
    model = randomise(Subject("lavish", backbone, {}).encoder()).train()
    given = images(model)
    with Refusing():
        features = model(given, SEGMENTS)
        torch.stack([x.square().sum() for one in features.values() for x in (one.pooled, *one.stages)]).sum().backward()


@pytest.mark.parametrize("recompute", ["adapters", "blocks"])
def test_recomputing_reads_nothing_either(recompute, folder, tmp_path, monkeypatch) -> None:
    stepped(folder, tmp_path, monkeypatch, training={"recompute": recompute, "accumulate": 2, "batch_size": 1})


def test_losses_that_are_read_later_are_the_same(folder, tmp_path, monkeypatch) -> None:
    """As on a GPU: several losses at a time, the last ones at the end of the epoch."""
    config = parse(RunConfig, run_values(training={"epochs": 2, "batch_size": 1, "lr_head": 0.01}), "test")
    inputs = RunInputs(config, 0, folder / config.task.name, folder / "weights.safetensors")
    train(inputs, tmp_path / "at once")
    device = type("Device", (), {"type": "later"})
    monkeypatch.setattr(loop, "LOSSES_READ_EVERY", 3)
    epoch = loop._epoch
    monkeypatch.setattr(loop, "_epoch", lambda *arguments: epoch(*arguments[:-1], device))
    monkeypatch.setattr(loop, "autocast", lambda *_: torch.autocast("cpu", enabled=False))
    train(inputs, tmp_path / "later")
    first, second = ((tmp_path / name / "history.csv").read_bytes() for name in ("at once", "later"))
    assert first == second
    assert json.loads((tmp_path / "later/record.json").read_text())["step_seconds_median"] > 0


def test_frames_are_laid_out_as_a_convolution_on_a_gpu_wants_them() -> None:
    from lavish.learner.model import AudioVisualModel

    model: Any = AudioVisualModel.__new__(AudioVisualModel)
    torch.nn.Module.__init__(model)
    model.frame_mean, model.frame_scale = torch.zeros(3), torch.ones(3)
    images = model.images("visual", torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    assert images.shape == (2, 3, 8, 8) and images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "reading",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.max()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.nn.functional.one_hot(x.long(), 3),
    ],
)
def test_what_reads_is_refused(reading: Any) -> None:
    with Refusing(), pytest.raises(AssertionError, match="a step reads from the device"):
        reading(torch.ones(2))


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bicubic"),
        lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2),
        lambda x: x.cumsum(0),
    ],
)
def test_what_is_not_deterministic_is_refused(operator: Any) -> None:
    with Refusing(), pytest.raises(AssertionError, match="a step is not deterministic on a GPU"):
        operator(torch.ones(1, 1, 4, 4, requires_grad=True)).sum().backward()
