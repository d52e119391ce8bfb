"""The jobs that a change of the configuration repeats."""

from __future__ import annotations

import os
import signal
import time

from filelock import FileLock
from harness import Workflow


def test_a_second_call_runs_no_job(finished: Workflow) -> None:
    assert not finished.planned()


def test_editing_one_variant_reruns_its_jobs_and_the_table(edited: Workflow) -> None:
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    assert edited.planned("results/table_small.md") == {"train": 2, "evaluate": 2, "cost": 1, "table": 1}


def test_undoing_the_edit_reruns_only_the_table(edited: Workflow) -> None:
    table = edited.read("config/tables/small.yaml")
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    assert edited.call("results/table_small.md").returncode == 0
    edited.write("config/tables/small.yaml", table)
    assert edited.planned("results/table_small.md") == {"table": 1}


def test_a_deleted_cost_is_counted_again(edited: Workflow) -> None:
    next((edited.folder / "results/runs").glob("*-avish-*/cost.json")).unlink()
    (edited.folder / "results/table_small.md").unlink()
    assert edited.planned("results/table_small.md") == {"cost": 1, "table": 1}


def test_adding_a_seed_trains_only_that_seed(edited: Workflow) -> None:
    edited.change("config/config.yaml", seeds=[0, 1, 2])
    assert edited.planned() == {"train": 4, "evaluate": 4, "table": 1, "figure": 1}


def test_a_label_changes_only_the_table_and_the_figure(edited: Workflow) -> None:
    edited.set_row("avish", label="Direct attention")
    assert edited.planned() == {"table": 1, "figure": 1}


def test_a_figure_ignores_rows_of_other_sections(edited: Workflow) -> None:
    table = edited.read("config/tables/small.yaml")
    other = {
        "title": "Other",
        "rows": [{"variant": "lavish"}, {"variant": "v2a", "set": {"fusion": {"direction": "v2a"}}}],
    }
    edited.write("config/tables/small.yaml", {**table, "sections": [*table["sections"], other]})
    assert edited.planned() == {"train": 2, "evaluate": 2, "cost": 1, "table": 1}


def test_a_default_that_all_rows_share_reruns_all_trainings_but_no_data(edited: Workflow) -> None:
    config = edited.read("config/config.yaml")
    config["defaults"]["training"]["epochs"] += 1
    edited.write("config/config.yaml", config)
    assert edited.planned() == {"train": 8, "evaluate": 8, "cost": 4, "table": 1, "figure": 1}


def test_another_frame_size_repeats_preparation_but_not_composition(edited: Workflow) -> None:
    config = edited.read("config/config.yaml")
    config["defaults"]["data"]["frame_size"] = 64
    edited.write("config/config.yaml", config)
    jobs = edited.planned()
    assert jobs["prepare"] == 3
    assert jobs["compose"] == jobs["pretrain"] == 0


def test_the_command_line_overrides_files(edited: Workflow) -> None:
    assert edited.planned("results/table_small.md", "--config", "seeds=[0]") == {"table": 1}


def test_a_second_call_in_the_same_folder_is_refused(edited: Workflow) -> None:
    edited.set_row("avish", label="Direct attention")
    with FileLock(edited.folder / ".snakemake/lavish.lock"):
        refused = edited.call("results/table_small.md")
    assert refused.returncode != 0
    assert "Another Snakemake is running in this folder" in refused.stdout


def test_a_killed_call_is_resumed_by_the_next_one(edited: Workflow) -> None:
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    call = edited.start("results/table_small.md", HANG="yes")
    states = []
    while not states and call.poll() is None:
        time.sleep(0.1)
        states = list((edited.folder / "results/runs").rglob("resume.safetensors"))
    os.killpg(call.pid, signal.SIGKILL)
    call.wait()
    assert states
    result = edited.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    assert not edited.planned("results/table_small.md")
    # Not a declared output, so Snakemake has not deleted it.
    assert states[0].exists()
    assert (states[0].parent / "best.safetensors").exists()
