"""The smoke test's ablation table on a Slurm cluster, with jobs and a node that die, equals the table made without it.

`make test-cluster` runs this on the cluster that the machine belongs to; where there is none, root starts one.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from slurm import NoCluster, Node, exists, one_node, wait_for

ROOT = Path(__file__).parents[2]
TABLE = "results/table_ablation.md"
# Not those of the profile, which suit a cluster that many people use.
QUICK = [
    "--seconds-between-status-checks",
    "2",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "15",
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node | None]:
    """A cluster of one node, or None on a machine that belongs to a cluster."""
    if exists():
        yield None
        return
    try:
        with one_node(tmp_path_factory.mktemp("slurm")) as node:
            yield node
    except NoCluster as problem:
        pytest.fail(str(problem))


class Call:
    """A call of Snakemake for the table in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        if not (folder / "config").exists():
            shutil.copytree(ROOT / "config", folder / "config")
        self.folder = folder
        self.output = folder / "output.txt"
        command = [sys.executable, "-m", "snakemake", TABLE, "--directory", str(folder)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--configfile", "config/smoke.yaml", *options],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def training(self) -> psutil.Process | None:
        """Return the process of a training."""
        for process in psutil.process_iter():
            try:
                arguments = process.cmdline()
                here = process.cwd() == str(self.folder)
            except psutil.Error:
                continue
            if here and any(Path(a).name == "lavish" and b == "train" for a, b in itertools.pairwise(arguments)):
                return process
        return None

    def wait(self) -> int:
        return self.process.wait(timeout=3600)


def test_the_table_is_that_of_a_workflow_without_a_cluster(node: Node | None, tmp_path: Path) -> None:
    local = Call(tmp_path / "local", "--cores", str(os.cpu_count()))
    assert local.wait() == 0, local.output.read_text()[-4000:]

    options = ["--workflow-profile", str(ROOT / "profiles/slurm"), *QUICK, "--config", "device=cpu"]
    if node is not None:  # it keeps no accounts
        options += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    started = time.monotonic()
    call = Call(tmp_path / "cluster", *options)
    told = []
    if node is not None:
        # One training is killed, some seconds later the whole node, and Slurm starts it again.
        wait_for(lambda: call.training() is not None, "a training begins", seconds=900)
        training = call.training()
        if training is not None:
            training.send_signal(signal.SIGKILL)
            told.append(f"a training after {time.monotonic() - started:.0f} s")
        time.sleep(random.Random(0).uniform(5, 20))
        wait_for(lambda: len(node.jobs()) > 0, "a job runs", seconds=300)
        node.kill_node_daemon()
        told.append(f"the node after {time.monotonic() - started:.0f} s")
        node.start_node_daemon()
    status = call.wait()
    while status != 0 and len(told) < 6:
        told.append(f"exit status {status} after {time.monotonic() - started:.0f} s")
        call = Call(tmp_path / "cluster", *options)
        status = call.wait()
    assert status == 0, call.output.read_text()[-8000:]
    told.append(f"finished after {time.monotonic() - started:.0f} s")
    print("killed: " + ", ".join(told))

    assert _runs(tmp_path / "cluster") == _runs(tmp_path / "local")
    assert _numbers(tmp_path / "cluster") == _numbers(tmp_path / "local")
    if node is not None:
        records = [
            json.loads(path.read_text()) for path in (tmp_path / "cluster").glob("results/runs/*/seed*/record.json")
        ]
        assert {record["device"] for record in records} == {"cpu"}


def _runs(folder: Path) -> dict[str, bytes]:
    """Return the content of what trainings and evaluations have computed."""
    files = [*folder.glob("results/runs/*/seed*/best.safetensors"), *folder.glob("results/runs/*/seed*/test/*.parquet")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def _numbers(folder: Path) -> str:
    """Return the table without its notes, which say how long things took."""
    return (folder / "results/table_ablation.csv").read_text()
