"""Jobs of a real remote executor: each is a Snakemake of its own, which a submit script starts."""

from __future__ import annotations

import json
from pathlib import Path

from harness import Workflow

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
