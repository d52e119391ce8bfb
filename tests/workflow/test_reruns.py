"""The jobs that a change of the configuration repeats."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock
from harness import ROOT, Workflow


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
    [run] = edited.runs("avish")
    (edited.folder / "results/runs" / run / "cost.json").unlink()
    (edited.folder / "results/table_small.md").unlink()
    assert edited.planned("results/table_small.md") == {"cost": 1, "table": 1}


def test_adding_a_seed_trains_only_that_seed(edited: Workflow) -> None:
    edited.change("config/config.yaml", seeds=[0, 1, 2])
    assert edited.planned() == {"train": 4, "evaluate": 4, "table": 1, "figure": 1, "site": 1}


def test_a_label_changes_only_the_table_and_the_figure(edited: Workflow) -> None:
    edited.set_row("avish", label="Direct attention")
    assert edited.planned() == {"table": 1, "figure": 1, "site": 1}


def test_a_figure_ignores_rows_of_other_sections(edited: Workflow) -> None:
    table = edited.read("config/tables/small.yaml")
    other = {
        "title": "Other",
        "rows": [{"variant": "lavish"}, {"variant": "v2a", "set": {"fusion": {"direction": "v2a"}}}],
    }
    edited.write("config/tables/small.yaml", {**table, "sections": [*table["sections"], other]})
    assert edited.planned() == {"train": 2, "evaluate": 2, "cost": 1, "table": 1, "site": 1}


def test_a_default_that_all_rows_share_reruns_all_trainings_but_no_data(edited: Workflow) -> None:
    config = edited.read("config/config.yaml")
    config["defaults"]["training"]["epochs"] += 1
    edited.write("config/config.yaml", config)
    assert edited.planned() == {"train": 8, "evaluate": 8, "cost": 4, "table": 1, "figure": 1, "site": 1}


def test_another_frame_size_repeats_preparation_but_not_composition(edited: Workflow) -> None:
    config = edited.read("config/config.yaml")
    config["defaults"]["data"]["frame_size"] = 64
    edited.write("config/config.yaml", config)
    jobs = edited.planned()
    assert jobs["prepare"] == 3
    assert jobs["compose"] == jobs["pretrain"] == 0


def test_the_command_line_overrides_files(edited: Workflow) -> None:
    assert edited.planned("results/table_small.md", "--config", "seeds=[0]") == {"table": 1}


def test_a_renamed_variant_repeats_only_the_table(edited: Workflow) -> None:
    edited.set_row("avish", variant="without_latents")
    assert edited.planned() == {"table": 1, "figure": 1, "site": 1}


def test_a_new_table_that_sorts_first_repeats_nothing(edited: Workflow) -> None:
    edited.write("config/tables/another.yaml", {**edited.read("config/tables/small.yaml"), "figures": {}})
    edited.change("config/config.yaml", tables=["another", "small"])
    assert edited.planned() == {"table": 1, "site": 1}


def test_the_index_says_what_the_folders_hold(edited: Workflow) -> None:
    rows = (edited.folder / "results/runs/index.csv").read_text().splitlines()
    assert rows[0] == "run,table,task,variant,label"
    for variant in ("lavish", "avish", "encoder", "published"):
        [run] = edited.runs(variant)
        assert f"{run},small,event_localization,{variant},{variant}" in rows
    edited.set_row("avish", variant="without_latents", label="Without latents")
    assert edited.call("results/table_small.md").returncode == 0
    renamed = (edited.folder / "results/runs/index.csv").read_text()
    assert "without_latents,Without latents" in renamed
    assert ",avish," not in renamed


def test_a_new_key_at_its_default_repeats_nothing(edited: Workflow) -> None:
    config = edited.read("config/config.yaml")
    config["defaults"]["training"]["weight_decay"] = 0.0
    config["defaults"]["adapter"]["options"]["gate"] = "both"
    edited.write("config/config.yaml", config)
    assert not edited.planned()


def test_deleted_features_repeat_nothing(edited: Workflow) -> None:
    edited.set_row("avish", set={"adapter": {"method": "none"}})
    target = "results/table_small.md"
    assert edited.call(target).returncode == 0
    assert len([*edited.folder.glob("results/data/features/*/visual_*/*.npy")]) == 3
    shutil.rmtree(edited.folder / "results/data/features")
    assert not edited.planned(target)


@pytest.mark.parametrize("first", ["cache_features=auto", "cache_features=none"])
def test_where_a_frozen_row_runs_repeats_no_job(edited: Workflow, first: str) -> None:
    """Whether its jobs read the features of the backbone or compute them, their results are the same."""
    edited.set_row("avish", set={"adapter": {"method": "none"}})
    target = "results/table_small.md"
    made = edited.call(target, "--config", first)
    assert made.returncode == 0, made.stdout
    read = [*edited.folder.glob("results/data/features/*/visual_*/*.npy")]
    assert len(read) == (3 if first.endswith("auto") else 0)
    for setting in ("device=cpu", "device=cuda", "cache_features=none", "cache_features=auto"):
        assert not edited.planned(target, "--config", setting), setting
    shutil.rmtree(edited.folder / "results/data/features")
    assert not edited.planned(target, "--config", "device=cuda")
    # What is made anew is made as the configuration says.
    [run] = edited.runs("avish")
    shutil.rmtree(edited.folder / "results/runs" / run)
    (edited.folder / "results/table_small.md").unlink()
    jobs = {"train": 2, "evaluate": 2, "cost": 1, "table": 1}
    assert edited.planned(target, "--config", "device=cuda") == jobs
    assert edited.planned(target)["encode"] == 6
    assert edited.call(target).returncode == 0
    assert not edited.planned(target, "--config", "device=cuda")
    for device, reads in [("cuda", False), ("cpu", True)]:
        forced = edited.call(target, "--config", f"device={device}", "-R", "train", "--dry-run", "--printshellcmds")
        assert ("--frozen-features visual=" in forced.stdout) == reads, forced.stdout


def test_data_can_be_composed_and_prepared_again(edited: Workflow) -> None:
    """Snakemake deletes the declared output first, and the arrays stay."""
    for rule in ("prepare", "compose"):
        result = edited.call("results/table_small.md", "--forcerun", rule)
        assert result.returncode == 0, result.stdout


def test_an_edited_rule_repeats_nothing(edited: Workflow) -> None:
    """A copy of the workflow with another space in every shell command."""
    copy = edited.folder / "copy"
    shutil.copytree(ROOT / "workflow", copy / "workflow")
    shutil.copytree(ROOT / "profiles", copy / "profiles")
    shutil.copy(ROOT / "Snakefile", copy)
    for file in copy.glob("workflow/rules/*.smk"):
        file.write_text(file.read_text().replace('"( set -x; ', '"( set -x;  '))
    assert not edited.planned(
        "--snakefile", str(copy / "Snakefile"), "--workflow-profile", str(copy / "profiles/default")
    )


def test_delete_all_output_is_refused_while_a_workflow_runs(edited: Workflow) -> None:
    with FileLock(edited.folder / ".snakemake/lavish.lock"):
        refused = edited.call("--delete-all-output")
    assert refused.returncode != 0
    assert "Another Snakemake is running in this folder" in refused.stdout
    assert (edited.folder / "results/table_small.md").exists()
    assert edited.call("--delete-all-output").returncode == 0
    assert not (edited.folder / "results/table_small.md").exists()


def test_a_call_without_hooks_takes_the_lock_too(edited: Workflow) -> None:
    edited.set_row("avish", label="Direct attention")
    with FileLock(edited.folder / ".snakemake/lavish.lock"):
        assert edited.call("results/table_small.md", "--no-hooks").returncode != 0
        # A dry run writes nothing and needs no lock.
        assert edited.planned("results/table_small.md") == {"table": 1}


def test_jobs_call_the_command_of_the_interpreter_that_plans_them(edited: Workflow, tmp_path: Path) -> None:
    other = tmp_path / "other/lavish"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho wrong; exit 1\n")
    other.chmod(0o755)
    edited.set_row("avish", label="Direct attention")
    path = f"{other.parent}{os.pathsep}{os.environ['PATH']}"
    call = edited.start("results/table_small.md", PATH=path)
    output = call.communicate(timeout=300)[0]
    assert call.returncode == 0, output


def test_a_second_call_in_the_same_folder_is_refused(edited: Workflow) -> None:
    edited.set_row("avish", label="Direct attention")
    with FileLock(edited.folder / ".snakemake/lavish.lock"):
        refused = edited.call("results/table_small.md")
    assert refused.returncode != 0
    assert "Another Snakemake is running in this folder" in refused.stdout


@pytest.mark.parametrize(("command", "output"), [("prepare", "train/store.json"), ("pretrain", "*.safetensors")])
def test_what_depends_on_incomplete_outputs_is_made_by_the_next_call(tmp_path: Path, command: str, output: str) -> None:
    """Snakemake alone would make the incomplete outputs again, and nothing else."""
    workflow = Workflow.with_small_table(tmp_path)
    call = workflow.start("results/table_small.md", HANG_AFTER=command)
    while not list((tmp_path / "results").rglob(output)):
        assert call.poll() is None
        time.sleep(0.05)
    os.killpg(call.pid, signal.SIGKILL)
    call.communicate()
    result = workflow.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "results/table_small.md").exists()


def test_a_table_and_a_figure_are_made_by_the_first_call_in_a_folder(tmp_path: Path) -> None:
    """Snakemake lists the folder of a target's inputs once, so what they show must have been written by then."""
    workflow = Workflow.with_small_table(tmp_path)
    result = workflow.call("results/table_small.md", "results/figures/small_figure.svg")
    assert result.returncode == 0, result.stdout
    assert (tmp_path / "results/figures/small_figure.svg").exists()


def test_a_dry_run_does_not_change_what_a_running_call_reads(edited: Workflow) -> None:
    specifications = {path: path.read_bytes() for path in (edited.folder / ".snakemake/lavish").glob("*.json")}
    assert len(specifications) == 2
    edited.set_row("avish", label="Direct attention")
    assert edited.planned("results/table_small.md") == {"table": 1}
    assert {path: path.read_bytes() for path in specifications} == specifications


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_call_ends_by_signals_to_all_its_processes(edited: Workflow, number: signal.Signals) -> None:
    """Whatever they interrupt: jobs that start or end, and the handler of the signal before."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore it
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    call = edited.start("results/table_small.md", HANG="yes")
    while not list((edited.folder / "results/runs").rglob("resume.safetensors")):
        assert call.poll() is None
        time.sleep(0.01)
    for _ in range(100):
        if call.poll() is None:
            os.killpg(call.pid, number)
        time.sleep(0.01)
    try:
        call.communicate(timeout=30)  # half of what the jobs take
    finally:
        call.kill()
    result = edited.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    assert not edited.planned("results/table_small.md")


def change_later(paths: list[Path]) -> None:
    """Give files another content, because Snakemake ignores the time of a small file with the same one."""
    assert paths
    for path in paths:
        path.write_text("changed")
        os.utime(path, (time.time() + 3600,) * 2)


def test_data_and_weights_newer_than_runs_repeat_nothing(edited: Workflow) -> None:
    """As a clock that jumps while jobs run leaves them: identities say what is made again."""
    results = edited.folder / "results"
    change_later([*results.glob("data/prepared/**/store.json")])
    change_later([*results.glob("data/features/**/*.npy")])
    change_later([*results.glob("weights/**/*.safetensors")])
    change_later([*results.glob("data/composed/*.done")])
    assert not edited.planned()


def test_another_checkpoint_is_evaluated(edited: Workflow) -> None:
    change_later([*(edited.folder / "results").glob("runs/*/seed0/best.safetensors")])
    assert edited.planned("results/table_small.md") == {"evaluate": 4, "table": 1}


def test_other_metrics_repeat_the_table(edited: Workflow) -> None:
    change_later([*(edited.folder / "results").glob("runs/*/*/test/metrics.json")])
    assert edited.planned("results/table_small.md") == {"table": 1}


def test_jobs_that_read_files_from_the_future_run(edited: Workflow) -> None:
    """A clock that was ahead and is corrected between two calls leaves such files."""
    change_later([*(edited.folder / "results").glob("data/prepared/**/store.json")])
    in_the_future = time.time() + 3600
    for path in (edited.folder / ".snakemake/lavish").glob("*.json"):
        os.utime(path, (in_the_future, in_the_future))
    [run] = edited.runs("lavish")
    shutil.rmtree(edited.folder / "results/runs" / run)
    (edited.folder / "results/table_small.md").unlink()
    result = edited.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
