"""Rows of a table with a method from outside the repository."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from harness import Workflow, snakemake

from tests.external import METHOD, write

ROW = {"variant": "mean", "set": {"adapter": {"method": "mean", "options": {"width": 8}}}}


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """The small table with one more row, of a method in a folder beside the workflow's."""
    write(tmp_path / "lab/mean.py", METHOD)
    workflow = Workflow.with_small_table(tmp_path / "work")
    table = workflow.read("config/tables/small.yaml")
    table["sections"][0]["rows"].append(ROW)
    workflow.write("config/tables/small.yaml", table)
    workflow.change("config/config.yaml", method_paths=["../lab/mean.py"])
    return workflow


def test_the_row_is_trained(workflow: Workflow) -> None:
    assert workflow.planned()["train"] == 10
    assert len(workflow.runs("mean")) == 1


def test_a_moved_file_makes_the_same_run_and_an_edited_one_another(workflow: Workflow) -> None:
    first, built_in = workflow.runs("mean"), workflow.runs("lavish")
    lab = workflow.folder.parent / "lab"
    (lab / "sub").mkdir()
    (lab / "mean.py").rename(lab / "sub/mean.py")
    workflow.change("config/config.yaml", method_paths=["../lab/sub/mean.py"])
    assert workflow.runs("mean") == first
    write(lab / "sub/mean.py", METHOD + "# only a comment\n")
    assert workflow.runs("mean") == first
    write(lab / "sub/mean.py", METHOD + "EDITED = True\n")
    assert not workflow.runs("mean") & first
    assert workflow.runs("lavish") == built_in


def test_a_missing_file_is_named_with_its_key(workflow: Workflow) -> None:
    (workflow.folder.parent / "lab/mean.py").unlink()
    result = workflow.call("--dry-run")
    assert result.returncode == 1
    assert "key 'method_paths': there is no file ../lab/mean.py" in result.stdout


def test_a_method_is_trained_and_evaluated(workflow: Workflow) -> None:
    small = {
        "seeds": [0],
        "tasks": {"event_localization": {"data": {"compose": {"clips": {"train": 16, "val": 8, "test": 8}}}}},
        "defaults": {
            "data": {"compose": {"assets": {"instances": {"train": 2, "val": 2, "test": 2}}}},
            "backbone": {"weights": {"source": "random"}},
            "training": {"epochs": 1},
        },
    }
    workflow.write("small.yaml", small)
    (name,) = workflow.runs("mean", "event_localization", "small.yaml")
    target = f"results/runs/{name}/seed0/test/metrics.json"
    arguments = [
        "--directory",
        str(workflow.folder),
        "--cores",
        "1",
        "--configfile",
        str(workflow.folder / "small.yaml"),
    ]
    result = snakemake(target, *arguments, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert result.returncode == 0, result.stdout[-4000:]
    record = json.loads((workflow.folder / target).parents[1].joinpath("record.json").read_text())
    assert record["config"]["adapter"]["source"]["path"] == "../lab/mean.py"
