"""Jobs of a real remote executor: each is a Snakemake of its own, which a submit script starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT, Workflow

# What a cluster does with a job, without the cluster. Nothing of the workflow's environment reaches the job.
SUBMIT = """\
#!/bin/sh
env -i HOME="$HOME" PATH=/usr/bin:/bin sh "$1" > "$1.log" 2>&1
echo 1
"""


def test_the_device_reaches_the_jobs(tmp_path: Path) -> None:
    submit = tmp_path / "submit"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    workflow = Workflow.with_small_table(tmp_path / "work")
    [name] = workflow.runs("lavish")
    record = f"results/runs/{name}/seed0/record.json"
    options = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit), "--jobs", "8"]
    result = workflow.call(record, *options, "--seconds-between-status-checks", "1", "--config", "device=cuda")
    assert result.returncode == 0, result.stdout[-4000:]
    assert json.loads((workflow.folder / record).read_text()) == {"device": "cuda"}
    [log] = (workflow.folder / "results/logs/pretrain").glob("vit-*.log")
    assert "--device cuda" in log.read_text()


# Runs the container of a job at once, on this machine, and answers as a cluster would afterwards.
KUBECTL = """\
#!/usr/bin/env python3
import json, os, pathlib, subprocess, sys
jobs = pathlib.Path(__file__).parent / "jobs"
jobs.mkdir(exist_ok=True)
command, *rest = sys.argv[1:]
if command == "create":
    job = json.load(sys.stdin)
    [container] = job["spec"]["template"]["spec"]["containers"]
    name = job["metadata"]["name"]
    environment = {"HOME": "/tmp", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(container["command"], cwd=container["workingDir"], env=environment, capture_output=True)
    kind = "Failed" if done.returncode else "Complete"
    job["status"] = {"conditions": [{"type": kind, "status": "True"}]}
    (jobs / name).write_text(json.dumps(job))
    print(f"job.batch/{name} created")
elif command == "get":
    path = jobs / rest[1]
    print(path.read_text() if path.exists() else "", end="")
elif command == "delete":
    for name in rest[3:]:
        (jobs / name).unlink(missing_ok=True)
else:
    sys.exit(f"unknown command {command}")
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for kubectl on the path; the folder of its jobs."""
    program = tmp_path / "bin/kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program.parent / "jobs"


def test_the_kubernetes_profile_runs_jobs_in_containers(tmp_path: Path, kubectl: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path / "work")
    (workflow.folder / "profiles").symlink_to(ROOT / "profiles")
    [name] = workflow.runs("lavish")
    record = f"results/runs/{name}/seed0/record.json"
    profile = ["--workflow-profile", str(ROOT / "profiles/kubernetes"), "--seconds-between-status-checks", "1"]
    result = workflow.call(record, *profile, "--latency-wait", "5")
    assert result.returncode == 0, result.stdout[-4000:]
    assert json.loads((workflow.folder / record).read_text()) == {"device": "cuda"}
    pods = [json.loads(path.read_text())["spec"]["template"]["spec"] for path in kubectl.iterdir()]
    limits = [pod["containers"][0]["resources"]["limits"] for pod in pods]
    # Pretraining and training have a GPU, composing and preparing do not.
    assert sum(limit.get("nvidia.com/gpu") == 1 for limit in limits) == 2
    assert {limit["memory"] for limit in limits} == {"4000Mi", "32000Mi"}
    assert all(pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "lavish"} for pod in pods)
    assert {pod["containers"][0]["workingDir"] for pod in pods} == {str(workflow.folder)}


def test_states_of_kubernetes_jobs(tmp_path: Path, kubectl: Path) -> None:
    def job(*arguments: str) -> str:
        command = [sys.executable, str(ROOT / "profiles/kubernetes/job"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    script = tmp_path / "script.sh"
    script.write_text("exit 1")
    needs = ["--claim", "c", "--mount", "/m", "--image", "i", "--cpus", "1", "--memory-mb", "100", "--gpus", "0"]
    name = job("submit", *needs, str(script))
    assert job("status", name) == "failed"
    script.write_text("exit 0")
    other = job("submit", *needs, str(script))
    assert job("status", other) == "success"
    waiting = json.loads((kubectl / other).read_text()) | {"status": {}}
    (kubectl / other).write_text(json.dumps(waiting))
    assert job("status", other) == "running"
    job("cancel", name, other)
    assert not list(kubectl.iterdir())
    assert job("status", name) == "failed"  # deleted by somebody: it will never end
