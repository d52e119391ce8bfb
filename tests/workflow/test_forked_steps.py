"""The process that steps are forked from lives as long as a call that runs jobs on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from harness import Workflow


def lines(workflow: Workflow, file: str) -> list[str]:
    path = workflow.folder / file
    return path.read_text().splitlines() if path.exists() else []


def test_all_jobs_of_a_call_find_the_standby_which_ends_with_it(finished: Workflow) -> None:
    wait_for_end(finished)
    [path, end] = lines(finished, "standby.txt")
    assert end == "ended"
    assert Path(path).is_absolute()
    steps = dict(line.split() for line in lines(finished, "steps.txt"))
    assert set(steps) > {"train", "evaluate", "cost", "pretrain", "encode-audio"}
    assert set(steps.values()) == {path}


def wait_for_end(workflow: Workflow) -> None:
    deadline = time.monotonic() + 30
    while lines(workflow, "standby.txt")[-1] != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_ends_with_a_killed_call(edited: Workflow) -> None:
    (edited.folder / "standby.txt").unlink()
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    call = edited.start("results/table_small.md", HANG="yes")
    while not list((edited.folder / "results/runs").rglob("resume.safetensors")):
        assert call.poll() is None
        time.sleep(0.1)
    assert len(lines(edited, "standby.txt")) == 1
    os.killpg(call.pid, signal.SIGKILL)
    call.wait()
    wait_for_end(edited)


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--summary"], ["--report", "report.zip"], []])
def test_calls_without_jobs_start_none(edited: Workflow, arguments: list[str]) -> None:
    (edited.folder / "standby.txt").unlink()
    if arguments == ["--dry-run"]:
        edited.set_row("avish", label="Direct attention")
    assert edited.call(*arguments).returncode == 0
    assert not lines(edited, "standby.txt")
