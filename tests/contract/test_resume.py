"""Trainings that are killed and continued end with the bytes of uninterrupted ones: every task and every method.

Each training is a process of its own, which SIGKILL ends at a given event, so nothing gets to clean up.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lavish.checks.method import SMALL_OPTIONS
from lavish.config.options import is_cross_modal
from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from lavish.training.jobs import RunInputs, provide_weights, train
from tests.records import steady
from tests.stores import TASK_OPTIONS, run_values, write_stores_of_tasks

CLIPS = 8
VIT = {"patch_size": 8, "embed_dim": 16, "num_heads": 2}
SWIN = {"img_size": 16, "embed_dim": 16, "num_heads": [1, 2], "window_size": 2, "mlp_ratio": 2}
# Backbones of different families, depths and numbers of tokens; of the second pair also of different widths.
PAIRS: dict[str, dict[str, dict[str, Any]]] = {
    "vit + ast": {
        "visual": {"model": "vit", "spec": {**VIT, "img_size": 16, "depth": 3}},
        "audio": {"model": "ast", "spec": {**VIT, "img_size": [16, 16], "stride": 4, "depth": 2}},
    },
    "swinv2 + htsat": {
        "visual": {"model": "swinv2", "spec": {**SWIN, "depths": [2, 2]}},
        "audio": {"model": "htsat", "spec": {**SWIN, "embed_dim": 32, "depths": [2, 1], "mel_bins": 16}},
    },
}  # fmt: skip
CROSS_MODAL = [method for method in built_in("methods") if is_cross_modal(method)]
EPOCHS = 3
STEP = "step"


def writing(name: str = "") -> str:
    """Return the event that half of a file, or of any, is written."""
    return f"writing {name}"


def written(name: str = "") -> str:
    """Return the event that a file, or any, has got its name."""
    return f"written {name}"


# Processes are forked from one that has imported everything and computed nothing: a process that has trained may have
# threads, which a fork does not copy.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "lavish.training.loop", "lavish.learner.build", __name__])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each task and the weights of the backbone."""
    folder = tmp_path_factory.mktemp("inputs")
    write_stores_of_tasks(folder, CLIPS)
    provide_weights(configured("event_localization", "none").backbone, folder / "weights.safetensors")
    for pair in PAIRS:
        paired = configured("event_localization", "none", pair)
        for stream, backbone in zip(("visual", "audio"), paired.used_backbones(), strict=True):
            provide_weights(backbone, folder / f"{pair} {stream}.safetensors")
    return folder


@pytest.fixture
def seed() -> int:
    """Return the number that the events are drawn from: RESUME_SEED, or another one each time."""
    seed = int(os.environ.get("RESUME_SEED") or random.SystemRandom().randrange(1000))
    print(f"to repeat: RESUME_SEED={seed}")
    return seed


def configured(task: str, method: str, pair: str | None = None) -> RunConfig:
    backbones = {} if pair is None else {"backbones": {
        stream: {**backbone, "weights": {"source": "random"}} for stream, backbone in PAIRS[pair].items()
    }}  # fmt: skip
    values = run_values(
        **backbones,
        task={"name": task, "options": TASK_OPTIONS[task]},
        adapter={"method": method, "options": {} if method == "none" else SMALL_OPTIONS.get(method, {})},
        # Moments, decay and a schedule, so that each of them has to be resumed.
        training={
            "epochs": EPOCHS,
            "batch_size": 3,
            "lr_adapter": 0.01,
            "lr_head": 0.01,
            "optimizer": "adamw",
            "weight_decay": 0.01,
            "schedule": {"kind": "cosine", "warmup": 0.2},
        },
    )
    return parse(RunConfig, values, "test").resolved()


def _train(inputs: RunInputs, out: Path, event: tuple[str, int] | None) -> None:
    """Train, or kill the process at the n-th `event`; in the end write how many of each there were."""
    import torch

    from lavish.io import atomic
    from lavish.learner.model import AudioVisualModel

    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    loss, sync, replace = AudioVisualModel.loss, atomic.sync, os.replace

    def reached(*names: str) -> bool:
        counts.update(names)
        return event in [(name, counts[name]) for name in names]

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted_loss(*given: Any) -> Any:
        if reached(STEP):
            kill()
        return loss(*given)

    def counted_sync(path: Path) -> None:
        if reached(writing(), writing(path.name.removesuffix(".partial"))):
            os.truncate(path, path.stat().st_size // 2)
            kill()
        sync(path)

    def counted_replace(source: Path, target: Path) -> None:
        replace(source, target)
        if reached(written(), written(target.name)):
            kill()

    AudioVisualModel.loss, atomic.sync, os.replace = counted_loss, counted_sync, counted_replace  # type: ignore[method-assign, assignment]
    train(inputs, out)
    os.replace = replace
    (out.parent / "counts.json").write_text(json.dumps(counts))


class Training:
    """A training that can be killed."""

    def __init__(self, folder: Path, task: str, method: str, out: Path, pair: str | None = None) -> None:
        config = configured(task, method, pair)
        weights = [folder / f"{pair} {stream}.safetensors" for stream in ("visual", "audio")]
        self.inputs = (
            RunInputs(config, 0, folder / task, folder / "weights.safetensors")
            if pair is None
            else RunInputs(config, 0, folder / task, weights[0], audio_weights=weights[1])
        )
        self.out = out / "seed0"

    def killed(self, event: str, number: int = 1) -> None:
        assert self._process((event, number)) == -signal.SIGKILL, f"there is no event '{event}' number {number}"

    def finish(self) -> dict[str, int]:
        """Train to the end; return the number of events of each kind."""
        assert self._process(None) == 0
        return json.loads((self.out.parent / "counts.json").read_text())

    def files(self) -> dict[str, bytes]:
        """Return the content of all files; of the record, what does not depend on the time."""
        files = {path.name: path.read_bytes() for path in sorted(self.out.iterdir())}
        files["record.json"] = json.dumps(steady(json.loads(files["record.json"]))).encode()
        return files

    def _process(self, event: tuple[str, int] | None) -> int | None:
        process = PROCESSES.Process(target=_train, args=(self.inputs, self.out, event))
        process.start()
        process.join()
        return process.exitcode


def test_every_task_has_a_store() -> None:
    assert set(TASK_OPTIONS) == set(built_in("tasks"))


@pytest.mark.parametrize("task", TASK_OPTIONS)
def test_a_task_killed_in_and_after_every_write_ends_with_the_same_bytes(
    task: str, folder: Path, tmp_path: Path
) -> None:
    whole = Training(folder, task, "lavish", tmp_path / "whole")
    whole.finish()
    cut = Training(folder, task, "lavish", tmp_path / "cut")
    # Each call gets one file further than the one before it.
    epochs = ["best_so_far.safetensors"] + EPOCHS * ["resume.safetensors"]
    for name in [*epochs, "best.safetensors", "history.csv", "record.json"]:
        cut.killed(writing(name))
        assert (cut.out / f"{name}.partial").exists()
        cut.killed(written(name))
        assert (cut.out / name).exists()
    assert STEP not in cut.finish(), "nothing was left to be trained"
    assert cut.files() == whole.files()


@pytest.mark.parametrize("method", built_in("methods"))
def test_a_method_killed_at_random_ends_with_the_same_bytes(
    method: str, seed: int, folder: Path, tmp_path: Path
) -> None:
    check_random_kills(folder, method, tmp_path, f"{seed} {method}")


@pytest.mark.parametrize(
    ("method", "pair"),
    [
        (method, pair)
        for pair in PAIRS
        for method in CROSS_MODAL
        if (method, pair) not in {("mbt", "swinv2 + htsat"), ("stg_cma", "swinv2 + htsat")}  # which need equal widths
    ],
)
def test_a_pair_of_backbones_killed_at_random_ends_with_the_same_bytes(
    method: str, pair: str, seed: int, folder: Path, tmp_path: Path
) -> None:
    check_random_kills(folder, method, tmp_path, f"{seed} {method} {pair}", pair)


def check_random_kills(folder: Path, method: str, out: Path, seed: str, pair: str | None = None) -> None:
    draw = random.Random(seed)
    whole = Training(folder, "event_localization", method, out / "whole", pair)
    events = whole.finish()
    cut = Training(folder, "event_localization", method, out / "cut", pair)
    # In the second or third epoch, then in what the next call writes; the moments have been used by then.
    steps = events[STEP] // EPOCHS
    cut.killed(STEP, draw.randint(steps + 1, events[STEP]))
    cut.killed(draw.choice((writing(), written())), draw.randint(1, 3))
    cut.finish()
    assert cut.files() == whole.files()
