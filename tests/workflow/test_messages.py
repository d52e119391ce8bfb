"""An error in the configuration ends in one message, without locations in the workflow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import ROOT, Workflow


def message(workflow: Workflow, *arguments: str) -> str:
    """Return the message of a failing call, without the lines that Snakemake prints before it."""
    result = workflow.call(*arguments, "--dry-run", "--quiet", "host")
    assert result.returncode == 1, result.stdout
    own = (
        "Using workflow specific profile",
        "This machine has",
        "Assuming unrestricted",
        "Building DAG",
        "Config file",
    )
    lines = [line for line in result.stdout.splitlines() if line and not line.startswith(own)]
    return "\n".join(lines)


def test_misspelt_option_of_an_adapter(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("avish", set={"adapter": {"options": {"latent": 0}}})
    assert message(workflow) == (
        "config/tables/small.yaml: row 'avish':\n"
        "  key 'adapter': method 'lavish' has no option 'latent' (did you mean 'latents'?)"
    )


def test_former_key(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("avish", set={"data": {"steps": 3}})
    assert message(workflow) == (
        "config/tables/small.yaml: row 'avish':\n  key 'data.steps' is now called 'segments': rename it"
    )


def test_a_missing_folder_stops_only_tables_that_need_it(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    table = workflow.read("config/tables/small.yaml")
    data = {"name": "official", "root": "data/AVE", "compose": None, "num_classes": 28}
    table["sections"][0]["rows"][0]["set"] = {"data": data}
    del table["figures"]
    workflow.write("config/tables/real.yaml", table)
    workflow.change("config/config.yaml", tables=["small", "real"])
    assert workflow.planned("results/table_small.md")["table"] == 1
    said = message(workflow, "results/table_real.md")
    assert said.startswith(
        "table 'real' cannot be made: data set 'official' (ave): there is no folder data/AVE; the AVE data set is"
    )
    assert "set data.root to its location" in said
    assert "\n" not in said


def test_unknown_table(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    assert message(workflow, "results/table_smal.md") == (
        "the configuration has no table 'smal' (did you mean 'small'?)"
    )


@pytest.mark.parametrize("name", ["a {b} {c", 'it\'s 100% "x"', "hé 猫 $HOME \\ `x`"])
def test_a_project_may_lie_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    workflow = Workflow.with_small_table(tmp_path / name)
    assert workflow.planned("results/table_small.md")["table"] == 1
    made = workflow.call("results/table_small.md")
    assert made.returncode == 0, made.stdout
    assert (tmp_path / name / "results/table_small.md").is_file()


def test_rules_in_a_path_with_braces_are_one_message(tmp_path: Path) -> None:
    """Snakemake itself fails at them, with a traceback."""
    repository = tmp_path / "a {b}"
    repository.symlink_to(ROOT)
    workflow = Workflow.with_small_table(tmp_path)
    said = message(workflow, "--snakefile", str(repository / "Snakefile"))
    assert said == f"Snakemake cannot read rules from a path with braces ('{repository}'): rename or move the folder."


def test_a_key_that_a_configuration_file_has_twice(tmp_path: Path) -> None:
    """Snakemake reads the files as well, and takes the last one."""
    workflow = Workflow.with_small_table(tmp_path)
    twice = tmp_path / "twice.yaml"
    twice.write_text("tasks:\n  event_localization:\n    data: {compose: null}\n    data: {segments: 3}\n")
    said = message(workflow, "--configfile", "config/smoke.yaml", str(twice))
    assert "twice.yaml: not valid YAML: key 'data' is there twice: remove one\n" in said
    assert "line 4, column 5" in said


@pytest.mark.parametrize("option", ["--configfile", "--configfiles", "--configfile="])
def test_a_second_option_for_configuration_files(tmp_path: Path, option: str) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    file = tmp_path / "seeds.yaml"
    file.write_text("seeds: [0]\n")
    second = [f"{option}{file}"] if option.endswith("=") else [option, str(file)]
    assert message(workflow, "--configfile", str(file), *second) == (
        "`--configfile` is there twice: give it once, with all files: `--configfile a.yaml b.yaml`"
    )
    assert workflow.planned("--configfile", str(file), str(file))["table"] == 1


def test_missing_data_and_a_missing_gpu_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("lavish", set={"data": {"name": "official", "root": "data/AVE", "compose": None}})
    data, gpu = message(workflow, "results/table_small.md", "--config", "device=cuda").splitlines()[-2:]
    assert "there is no folder data/AVE" in data
    assert gpu.startswith("Besides, `device: cuda` wants a GPU, and this machine has no NVIDIA GPU to be seen")
    assert "no NVIDIA GPU" not in message(workflow, "results/table_small.md")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("auto", "Jobs would run on the CPU: `device: auto` found no NVIDIA GPU here."),
        ("cuda", "This call would be refused: `device: cuda` wants a GPU"),
    ],
)
def test_a_dry_run_says_where_jobs_would_run(
    finished: Workflow, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = finished.call("--dry-run", "--config", f"device={setting}")
    assert result.returncode == 0, result.stdout
    assert said in result.stdout
    # Jobs of a cluster run elsewhere.
    elsewhere = ("--workflow-profile", "profiles/slurm", "--executor", "dryrun", "--config", f"device={setting}")
    assert "Jobs would run" not in (there := finished.call("--dry-run", *elsewhere).stdout)
    assert "refused" not in there


def test_progress_counts_jobs(finished: Workflow, edited: Workflow) -> None:
    output = (finished.folder / "output.txt").read_text()
    lines = re.findall(r"^(\d+) of (\d+) jobs done, (\d+) running, (\d+) to come", output, re.MULTILINE)
    assert lines and lines[-1] == (lines[-1][1], lines[-1][1], "0", "0")
    assert all(int(done) + int(running) + int(rest) == int(total) for done, total, running, rest in lines)
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    quiet = edited.call("--quiet", "progress")
    assert quiet.returncode == 0 and "to come" not in quiet.stdout


def test_the_monitor_is_an_argument_of_trainings_alone(edited: Workflow) -> None:
    assert edited.planned("--config", "monitor=tensorboard") == {}
    edited.set_row("avish", set={"adapter": {"options": {"latents": 4}}})
    done = edited.call("--dry-run", "--printshellcmds", "--config", "monitor=tensorboard")
    commands = [line for line in done.stdout.splitlines() if "set -x; lavish" in line]
    assert {"--monitor tensorboard" in line for line in commands if "lavish train" in line} == {True}
    assert not [line for line in commands if "lavish train" not in line and "--monitor" in line]
