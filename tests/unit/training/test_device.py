"""Shares of GPUs and their memory, with made-up GPUs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lavish.config.schema import RunConfig, TrainingConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.training import device
from lavish.training import jobs as workflow_jobs
from tests.stores import run_values

TAKE = """
import sys
from pathlib import Path
from lavish.training.device import take_gpu
print(take_gpu(["GPU-a", "GPU-b"], int(sys.argv[1]), Path(sys.argv[2])), flush=True)
sys.stdin.read()
"""


class Jobs:
    """Processes that each take a share of one of two GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, jobs_per_gpu: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TAKE, str(jobs_per_gpu), str(self.folder)]
        job = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes.append(job)
        return job

    def gpu_of(self, job: subprocess.Popen[str]) -> int:
        assert job.stdout is not None
        return int(job.stdout.readline())


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(tmp_path / "gpus")
    yield found
    for job in found.processes:
        job.kill()
        job.wait()


def test_each_job_takes_a_free_gpu_and_the_next_waits_for_one(jobs: Jobs) -> None:
    first, second = jobs.start(1), jobs.start(1)
    taken = {jobs.gpu_of(first): first, jobs.gpu_of(second): second}
    assert set(taken) == {0, 1}
    third = jobs.start(1)
    assert third.stderr is not None
    assert "all shares of the 2 GPUs are taken" in third.stderr.readline()
    taken[1].kill()  # nothing is cleaned up
    assert jobs.gpu_of(third) == 1


def test_gpus_are_shared_evenly(jobs: Jobs) -> None:
    running = []
    for _ in range(4):
        running.append(jobs.gpu_of(jobs.start(2)))
    assert running == [0, 1, 0, 1]


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs that torch seems to find; return the chosen ones."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda gpu: type("Gpu", (), {"uuid": f"GPU-{gpu}"}))
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "_held", {})
    return chosen


def test_a_process_uses_the_gpu_that_it_has_taken(made_up: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert device.choose("cuda", 1) == torch.device("cuda", 0)
    # The next command of the same process, as in a program that trains and evaluates.
    assert device.choose("cuda", 1) == torch.device("cuda", 0)
    kept = device._held
    monkeypatch.setattr(device, "_held", {})  # another process
    assert device.choose("cuda", 1) == torch.device("cuda", 1)
    assert made_up == [0, 0, 1] and set(kept) == {0}


def test_what_slurm_gives_is_taken_as_it_is(made_up: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    started = time.monotonic()
    assert [device.choose("cuda", 1).index for _ in range(3)] == [0, 0, 0]
    assert time.monotonic() - started < 60


def test_an_operator_without_a_deterministic_form_is_refused_by_name() -> None:
    code = """
import torch
from lavish.training.device import refused_operators_named, seed_everything
seed_everything(0, deterministic=True)
with refused_operators_named():
    torch.zeros(3).put_(torch.tensor([1]), torch.ones(1), accumulate=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "LavishError: training.deterministic is true, but torch has no deterministic form of put_" in done.stderr


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="something else"), device.refused_operators_named():
        raise RuntimeError("something else")


def test_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    facts = device.gpu_facts(torch.device("cuda", 0))
    assert facts is not None
    assert (facts["name"], facts["capability"]) == ("NVIDIA H100", [9, 0])
    assert set(facts) == {"name", "capability", "cuda", "cudnn"}
    assert device.gpu_facts(torch.device("cpu")) is None


@pytest.mark.parametrize(("platform", "bytes_"), [("darwin", 7), ("linux", 7 * 1024)])
def test_peak_memory_has_the_unit_of_the_system(platform: str, bytes_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_STATUS", Path("no/such/file"))
    monkeypatch.setattr(device.sys, "platform", platform)
    monkeypatch.setattr(device.resource, "getrusage", lambda _: type("Usage", (), {"ru_maxrss": 7}))
    assert device.peak_memory(torch.device("cpu")) == bytes_


def test_peak_memory_is_not_that_of_the_process_that_started_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  99 kB\nVmHWM:\t  5 kB\nVmRSS:\t  4 kB\n")
    monkeypatch.setattr(device, "_STATUS", status)
    assert device.peak_memory(torch.device("cpu")) == 5 * 1024


@pytest.mark.skipif(not device._STATUS.exists(), reason="no /proc here")
def test_peak_memory_is_at_least_what_was_used() -> None:
    used = torch.ones(2**26)
    assert device.peak_memory(torch.device("cpu")) > used.nbytes


def test_deterministic_algorithms_do_not_fill_memory_that_is_written_anyway() -> None:
    code = """
import torch
from torch.profiler import profile
from lavish.training.device import seed_everything
seed_everything(0, deterministic=True)
with profile() as operations:
    torch.empty(8)
print(torch.are_deterministic_algorithms_enabled(), [event.name for event in operations.events()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True")
    assert "aten::empty" in done.stdout
    assert "aten::fill_" not in done.stdout


GIB = 2**30


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of 8 GiB, of which this process may use half, has reserved 3 GiB and allocated 2.5 GiB."""
    made_up = {
        "mem_get_info": (4 * GIB, 8 * GIB),
        "get_per_process_memory_fraction": 0.5,
        "memory_reserved": 3 * GIB,
        "max_memory_allocated": 2.5 * GIB,
    }
    for name, value in made_up.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


def memory_error(*, backward: bool = True, jobs_per_gpu: int = 1, **training: Any) -> str:
    options = TrainingConfig(**training)
    with (
        pytest.raises(LavishError) as error,
        device.memory_errors_explained(options, jobs_per_gpu, backward=backward),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of 8")
    return str(error.value)


@pytest.mark.usefixtures("small_gpu")
def test_a_batch_that_does_not_fit_is_one_message() -> None:
    assert memory_error(batch_size=6, accumulate=2, jobs_per_gpu=2) == (
        "a batch of 6 does not fit on the GPU: at most 2.50 GiB were allocated and 1.50 GiB more asked for, of "
        "4.00 GiB; other processes and CUDA itself hold 1.00 GiB. What needs less: a smaller jobs_per_gpu than 2 (the "
        "same numbers); `training.recompute: adapters` or `blocks` (the same numbers, longer steps); "
        "`training.batch_size: 3` with `accumulate: 4` (the same gradient, except through batch norms); "
        "`training.precision: bf16` (other numbers)"
    )


@pytest.mark.usefixtures("small_gpu")
def test_only_what_is_left_to_change_is_named() -> None:
    assert "`training.batch_size: 1` with `accumulate: 5`" in memory_error(batch_size=5)
    said = memory_error(batch_size=1, recompute="adapters", precision="bf16")
    assert said.endswith("What needs less: `training.recompute: blocks` (the same numbers, longer steps)")
    assert "recompute" not in memory_error(backward=False)
    said = memory_error(batch_size=1, recompute="blocks", precision="bf16")
    assert said.endswith("No setting needs less: take a larger GPU")


@pytest.mark.usefixtures("small_gpu")
def test_jobs_explain_that_memory_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    inputs = workflow_jobs.RunInputs(parse(RunConfig, run_values(), "test"), 0, tmp_path, tmp_path)
    monkeypatch.setattr(workflow_jobs, "_train", too_large)
    with pytest.raises(LavishError, match="a batch of 5 does not fit on the GPU: at most 2"):
        workflow_jobs.train(inputs, tmp_path / "run")
    monkeypatch.setattr(workflow_jobs, "_trained", lambda *_: (None, SimpleNamespace(store=[0]), torch.device("cpu")))
    for name in ("_origin", "_checksums"):
        monkeypatch.setattr(workflow_jobs, name, lambda *_: {})
    monkeypatch.setattr("lavish.io.checksums.sha256_of", lambda _: "")
    monkeypatch.setattr("lavish.training.evaluation.evaluate", too_large)
    monkeypatch.setattr("lavish.training.examples.predict", too_large)
    with pytest.raises(LavishError, match="does not fit on the GPU"):
        workflow_jobs.evaluate(inputs, "test", tmp_path)
    with pytest.raises(LavishError, match="does not fit on the GPU"):
        workflow_jobs.predict_examples(inputs, "test", tmp_path, 1)
