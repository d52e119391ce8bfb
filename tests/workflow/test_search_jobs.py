"""Hyperparameter searches in the graph of jobs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Workflow
from test_graph import Graph


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    made = Workflow.with_small_table(tmp_path)
    table = made.read("config/tables/small.yaml")
    table["tuned"] = True
    table["sections"][0]["rows"] = [row for row in table["sections"][0]["rows"] if row["variant"] != "published"]
    made.write("config/tables/small.yaml", table)
    made.change("config/config.yaml", tuning={"trials": 3, "seeds": 2})
    return made


def test_trials_read_no_test_split_and_have_seeds_of_their_own(workflow: Workflow) -> None:
    graph = Graph(workflow, "results/table_small.md")
    trials = graph.jobs("trial")
    assert len(trials) == 3 * 3 * 2
    for job in trials:
        assert graph.needs_split(job, "train") and graph.needs_split(job, "val"), graph.label[job]
        assert not graph.needs_split(job, "test"), graph.label[job]
        seed = re.search(r"seed: (\d+)", graph.label[job])
        assert seed is not None and seed[1] in ("1000", "1001")
    for job in graph.jobs("train"):
        assert len(graph.ancestors(job) & set(trials)) == 6
        assert not graph.needs_split(job, "test")


def test_no_trial_of_the_default_reads_a_test_split(tmp_path: Path) -> None:
    graph = Graph(Workflow.with_default_configuration(tmp_path), "results/table_peft.md")
    trials = graph.jobs("trial")
    assert len(trials) >= 6 * len(graph.jobs("choose")) > 6 * 40
    assert not any(graph.needs_split(job, "test") for job in trials)


def test_a_finished_search_is_not_repeated_and_a_larger_one_goes_on(workflow: Workflow) -> None:
    result = workflow.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    assert not workflow.planned("results/table_small.md")
    workflow.change("config/config.yaml", tuning={"trials": 5, "seeds": 2})
    jobs = workflow.planned("results/table_small.md")
    # Another number of trials is another choice, and so are the runs that read it; trials that were made stay.
    assert (jobs["trial"], jobs["choose"], jobs["train"], jobs["cost"]) == (3 * 2 * 2, 3, 6, 3)
    workflow.change("config/config.yaml", tuning="none")
    jobs = workflow.planned("results/table_small.md")
    assert (jobs["trial"], jobs["choose"], jobs["train"]) == (0, 0, 6)


def test_jobs_of_a_tuned_run_are_given_its_choice(workflow: Workflow) -> None:
    shown = workflow.call("results/table_small.md", "--dry-run", "--printshellcmds").stdout
    [run] = workflow.runs("lavish")
    for command in ("train", "evaluate", "cost"):
        assert re.search(rf"lavish {command} .*--tuned results/runs/{run}/tuning.json", shown), command
    assert re.search(rf"lavish choose .*--trials results/trials/\S+ --out results/runs/{run}/tuning.json", shown)


def test_selection_on_the_test_split_cannot_be_tuned(workflow: Workflow) -> None:
    workflow.set_row("lavish", set={"select_on": "test"})
    result = workflow.call("results/table_small.md", "--dry-run")
    assert result.returncode != 0
    assert "row 'lavish', task 'event_localization': select_on is 'test'" in result.stdout
