"""`lavish status`: what of a workflow is done, runs, and is to come."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import UnixFileLock

from lavish.cli.status import status
from lavish.errors import LavishError
from lavish.planning.run_labels import RunLabel, update_index

RUNS = ("event_localization-00000001", "event_localization-00000002", "event_localization-00000003")
BAR = (
    "epochs:   0%|          | 0/3 [00:00<?, ?epoch/s]\r"
    "epochs:  67%|██████▋   | 2/3 [00:08<00:04,  4.0s/epoch, loss=0.2811, accuracy=0.4, best=0.41, clips/s=121.8]"
)
LINE = "2 of 6 jobs done, 1 running, 3 to come; about 5 min left, until 1:00\n"


@pytest.fixture
def results(tmp_path: Path, make_run: Any) -> Path:
    """One run done, one whose training has been interrupted, one not begun, and the log of Snakemake."""
    make_run.root = tmp_path / "results/runs"
    make_run(RUNS[0], np.array([[0.0, 0.5, 1.0]]))
    labels = [RunLabel(run, "ave", "event_localization", f"v{i}", f"Row {i}") for i, run in enumerate(RUNS)]
    update_index(tmp_path / "results/runs/index.csv", labels, ["ave"])
    header = json.dumps({"__metadata__": {"progress": json.dumps({"epoch": 1})}}).encode()
    training = tmp_path / f"results/runs/{RUNS[1]}/seed0"
    training.mkdir(parents=True)
    (training / "resume.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    log = tmp_path / f"results/logs/train/{RUNS[1]}-seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"+ lavish train\n{BAR}")
    snakemake = tmp_path / ".snakemake/log/2026-01-01T000000.0.snakemake.log"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text("1 of 6 jobs done, 1 running, 4 to come\n[Thu]\n" + LINE)
    return tmp_path / "results"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Let another process hold a lock."""
    code = (
        "import sys; from filelock import UnixFileLock; lock = UnixFileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=-1, stdout=-1, text=True)
    assert process.stdout and process.stdin and process.stdout.readline()
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()


def test_a_stopped_workflow(results: Path) -> None:
    text = status(results)
    assert "Workflow not running; its last call: 2 of 6 jobs done, 1 running, 3 to come\n" in text
    assert "Trainings done: 1\n" in text and f"{RUNS[0]}/seed0" in text
    assert "3 epochs, accuracy 0.8000 on val, 0.5000 on test  (ave: Row 0)" in text
    assert "Trainings interrupted: 1\n" in text and "epoch 1 is saved  (ave: Row 1)" in text
    assert "Runs not begun: 1\n" in text and "ave: Row 2" in text


def test_a_running_one(results: Path) -> None:
    with held(results.parent / ".snakemake/lavish.lock"), held(results / f"runs/{RUNS[1]}/.seed0.lock"):
        text = status(results)
    assert "Workflow running: 2 of 6 jobs done, 1 running, 3 to come; about 5 min left, until 1:00\n" in text
    assert "Trainings running: 1\n" in text
    assert "epoch 2 of 3, loss=0.2811, accuracy=0.4, best=0.41, clips/s=121.8  (ave: Row 1)" in text


def test_a_training_that_has_just_begun(results: Path) -> None:
    (results / f"runs/{RUNS[1]}/seed0/resume.safetensors").unlink()
    (results / f"logs/train/{RUNS[1]}-seed0.log").write_text("+ lavish train\n")
    with held(results / f"runs/{RUNS[1]}/.seed0.lock"):
        assert "no epoch has ended yet  (ave: Row 1)" in status(results)


def test_locks_of_dead_processes_are_free_and_stay_usable(results: Path) -> None:
    lock = results / f"runs/{RUNS[1]}/.seed0.lock"
    lock.touch()
    assert "Trainings running" not in status(results)
    UnixFileLock(lock).acquire(blocking=False)


def test_a_damaged_state(results: Path) -> None:
    (results / f"runs/{RUNS[1]}/seed0/resume.safetensors").write_bytes(b"\xff" * 20)
    assert "no epoch has ended yet" in status(results)


def test_the_folder_of_the_workflow_is_enough(results: Path) -> None:
    assert status(results.parent) == status(results)


def test_without_index_and_log(results: Path) -> None:
    (results / "runs/index.csv").unlink()
    for log in (results.parent / ".snakemake/log").iterdir():
        log.unlink()
    text = status(results)
    assert "its last call: no log of Snakemake" in text and "Trainings done: 1" in text


def test_another_folder(tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="no folder 'runs': nothing has begun here"):
        status(tmp_path)
