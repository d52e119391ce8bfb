"""Capturing steps, without a GPU: which steps are captured and replayed, with what inputs, and whether they can be.

The stand-in for a CUDA graph records the step and runs it at each replay. What a graph needs of a step, that it is the
same operators on the same memory for each batch, is shown by a trace of the operators, which is replayed. That a real
graph ends with the same bytes is tested in tests/gpu.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from lavish.checks.method import SMALL_OPTIONS
from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from lavish.data.store.batches import Batch, SplitReader
from lavish.learner.build import build_model
from lavish.learner.model import AudioVisualModel
from lavish.tasks.segmentation import Segmented
from lavish.training import capture, loop
from tests.stores import TASK_OPTIONS, contents_of_tasks, run_values, write_store

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Stream:
    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...


class Graph:
    """Runs what was captured in it; `step` in a capture is not run."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.replays = 0
        self.run: Any = None

    def replay(self) -> None:
        self.replays += 1
        self.run()


class Steps:
    """A step that adds up its inputs, and notes how it was called."""

    def __init__(self) -> None:
        self.eager: list[float] = []
        self.graphs: list[Graph] = []
        self.refuses = False

    def __call__(self, group: list[Batch]) -> torch.Tensor:
        if Graph.capturing is None:
            self.eager.append(float(self.loss(group)))
            return self.loss(group)
        if self.refuses:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore lines")
        result = torch.zeros(())
        Graph.capturing.run = lambda: result.copy_(self.loss(group))
        self.graphs.append(Graph.capturing)
        return result

    @staticmethod
    def loss(group: list[Batch]) -> torch.Tensor:
        return torch.stack([tensor.double().sum() for tensor in capture.tensors_of(group)]).sum().float()


@contextmanager
def capturing(graph: Graph, *, pool: Any, stream: Any, capture_error_mode: str) -> Any:
    assert pool == "memory"
    assert capture_error_mode == "thread_local", "another thread copies the next batch meanwhile"
    Graph.capturing = graph
    try:
        yield
    finally:
        Graph.capturing = None


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(capture, "_pool", lambda: "memory")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    return Steps()


def batch(value: float, clips: int = 2) -> Batch:
    return Batch(
        frames=None,
        log_mels=torch.full((clips, 3), value),
        audio_features=None,
        targets={"labels": torch.full((clips,), int(value)), "annotated": torch.arange(clips)},
        units=np.arange(clips),
        frozen={"visual": torch.full((clips, 2), value)},
    )


def test_the_first_steps_of_a_shape_run_as_they_are_and_later_ones_are_replayed(steps: Steps) -> None:
    step = capture.Captured(steps, GPU)
    losses = [step([batch(value)]) for value in range(6)]  # kept, as the loop keeps them until it reads them
    assert [float(loss) for loss in losses] == [float(Steps.loss([batch(value)])) for value in range(6)]
    assert len(steps.eager) == capture.EAGER_CALLS == 3
    assert [graph.replays for graph in steps.graphs] == [3]


def test_each_shape_has_a_graph_of_its_own_and_a_rare_one_has_none(steps: Steps) -> None:
    step = capture.Captured(steps, GPU)
    for _ in range(3):  # an epoch
        for value in range(4):
            assert step([batch(value)] * 2) == Steps.loss([batch(value)] * 2)
        assert step([batch(7, clips=1)]) == Steps.loss([batch(7, clips=1)])
    assert [graph.replays for graph in steps.graphs] == [12 - 3]
    assert len(steps.eager) == 3 + 3


def test_there_are_only_so_many_graphs(steps: Steps) -> None:
    step = capture.Captured(steps, GPU)
    for clips in range(1, 8):
        for value in range(5):
            assert step([batch(value, clips)]) == Steps.loss([batch(value, clips)])
    assert [graph.replays for graph in steps.graphs] == [2] * capture.MOST_GRAPHS


def test_a_step_that_cannot_be_captured_runs_as_it_is(
    steps: Steps, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.refuses = True
    calls: list[str] = []
    here = Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: here)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: calls.append("stream" if stream is here else "other"))
    step = capture.Captured(steps, GPU, reset=lambda: calls.append("reset"))
    assert [float(step([batch(value)])) for value in range(6)] == steps.eager
    assert calls == ["stream", "reset"], "once, and the copies of batches stay in order"
    assert capsys.readouterr().err == (
        "training.capture: this run cannot be captured, so it is not (CUDA error: operation not permitted when stream "
        "is capturing)\n"
    )


def test_results_of_several_parts_are_copied_as_well(steps: Steps) -> None:
    """As those of a forward pass."""

    def forward(group: list[Batch]) -> Any:
        loss = steps(group)
        return Segmented(loss, (loss,), ())

    captured = capture.Captured(forward, GPU)
    results = [captured([batch(value)]) for value in range(6)]
    assert [float(one.logits) for one in results] == [float(Steps.loss([batch(value)])) for value in range(6)]
    assert all(isinstance(one, Segmented) and one.logits == one.maps[0] for one in results)


def test_what_other_kernels_would_run_for_has_another_shape() -> None:
    one = batch(1)
    others = [
        [one, one],
        [batch(1, clips=3)],
        [Batch(**{**vars(one), "log_mels": torch.zeros(2, 3, dtype=torch.float16)})],
        [Batch(**{**vars(one), "rows": torch.zeros(2)})],
        [Batch(**{**vars(one), "units": np.arange(5)})],
    ]
    assert capture.shape_of([one]) == capture.shape_of([batch(2)])
    assert all(capture.shape_of(other) != capture.shape_of([one]) for other in others)


CLIPS = 8
STEPS = [
    *((method, "event_localization") for method in built_in("methods")),
    *(("lavish", task) for task in built_in("tasks")),
]


def learner(config: RunConfig, reader: SplitReader) -> tuple[AudioVisualModel, Any]:
    """Return a model and its training step, always the same."""
    torch.manual_seed(0)
    store = reader.store
    model = build_model(
        config, classes=store.classes, vocabulary=store.vocabulary, statistics=store.statistics, weights=None,
    ).train()  # fmt: skip
    optimizer = loop._optimizer(model, config.training, CPU)
    for parameters in optimizer.param_groups:
        parameters["lr"] = 0.01
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return model, lambda group: loop._step(model, group, optimizer, scaler, config.training, CPU)


@pytest.mark.parametrize(("method", "task"), STEPS)
def test_a_step_is_the_same_operators_for_each_batch(method: str, task: str, tmp_path: Path) -> None:
    write_store(tmp_path / "train", clips=CLIPS, **contents_of_tasks(CLIPS, np.random.default_rng(0))[task])
    values = run_values(
        task={"name": task, "options": TASK_OPTIONS[task]},
        adapter={"method": method, "options": SMALL_OPTIONS.get(method, {})},
    )
    config = parse(RunConfig, values, "test").resolved()
    reader = SplitReader(tmp_path / "train", ("visual", "audio"))
    (expected, step), (found, other) = learner(config, reader), learner(config, reader)
    negatives = np.random.default_rng(1) if expected.task.negatives else None
    batches = list(reader.batches(reader.by_clip(2), CPU, negatives))
    torch.manual_seed(5)
    losses = [step([one]) for one in batches]
    torch.manual_seed(5)
    other([batches[0]])
    # The trace runs the step as well: it is the second one.
    second = batches[1]

    def traced(*tensors: torch.Tensor) -> torch.Tensor:
        return other([second.with_tensors(dict(zip(second.tensors(), tensors, strict=True)))])

    graph = make_fx(traced)(*capture.tensors_of([second]))
    assert [graph(*capture.tensors_of([one])) for one in batches[2:]] == losses[2:]
    after = found.state_dict()
    assert [name for name, tensor in expected.state_dict().items() if not torch.equal(after[name], tensor)] == []
