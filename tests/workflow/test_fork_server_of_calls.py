"""The fork server lives as long as a call of Snakemake that runs jobs on this machine."""

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


def test_all_jobs_of_a_call_find_the_fork_server_which_ends_with_it(finished: Workflow) -> None:
    wait_for_end(finished)
    [path, end] = lines(finished, "server.txt")
    assert end == "ended"
    assert Path(path).is_absolute()
    jobs = dict(line.split() for line in lines(finished, "jobs.txt"))
    assert set(jobs) > {"train", "evaluate", "cost", "pretrain", "encode"}
    assert set(jobs.values()) == {path}


def wait_for_end(workflow: Workflow) -> None:
    deadline = time.monotonic() + 30
    while lines(workflow, "server.txt")[-1] != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_fork_server_ends_with_a_killed_call(edited: Workflow) -> None:
    (edited.folder / "server.txt").unlink()
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    call = edited.start("results/table_small.md", HANG="yes")
    while not list((edited.folder / "results/runs").rglob("resume.safetensors")):
        assert call.poll() is None
        time.sleep(0.1)
    assert len(lines(edited, "server.txt")) == 1
    os.killpg(call.pid, signal.SIGKILL)
    call.wait()
    wait_for_end(edited)


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--summary"], ["--report", "report.zip"], []])
def test_calls_without_jobs_start_no_fork_server(edited: Workflow, arguments: list[str]) -> None:
    (edited.folder / "server.txt").unlink()
    if arguments == ["--dry-run"]:
        edited.set_row("avish", label="Direct attention")
    assert edited.call(*arguments).returncode == 0
    assert not lines(edited, "server.txt")


def test_the_fork_server_can_be_switched_off(edited: Workflow) -> None:
    (edited.folder / "server.txt").unlink()
    before = (edited.folder / "jobs.txt").read_text()
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    assert edited.call("results/table_small.md", "--config", "fork_server=false").returncode == 0
    assert not lines(edited, "server.txt")
    made = (edited.folder / "jobs.txt").read_text().removeprefix(before)
    assert "train none" in made.splitlines()
