"""The jobs of evaluations under conditions: none trains, and none reads more than a checkpoint and the test split."""

from __future__ import annotations

import itertools
import json
import re
import shlex

import pytest
from harness import Workflow
from test_graph import Graph

FIGURE = {"kind": "reliance", "title": "Reliance", "section": "All", "conditions": ["silence", "blurred"]}


def with_columns(workflow: Workflow, *columns: str) -> Workflow:
    workflow.change("config/tables/small.yaml", columns=["metric", *columns])
    return workflow


def test_a_column_of_reliance_on_finished_runs_trains_nothing(edited: Workflow) -> None:
    with_columns(edited, "reliance:silence", "reliance:dark")
    # Four rows with two seeds under two conditions.
    assert edited.planned() == {"evaluate_condition": 16, "table": 1, "site": 1}
    result = edited.call()
    assert result.returncode == 0, result.stdout
    assert not edited.planned()
    assert len(list(edited.folder.glob("results/runs/*/seed*/test-silence-*/predictions.parquet"))) == 8


def test_an_edited_condition_repeats_its_evaluations_only_and_a_title_none(edited: Workflow) -> None:
    with_columns(edited, "reliance:silence", "reliance:dark")
    assert edited.call().returncode == 0
    dark = edited.read("config/conditions.yaml")["dark"]
    edited.change("config/conditions.yaml", dark={**dark, "title": "Night"})
    assert edited.planned() == {"table": 1, "site": 1}
    edited.change("config/conditions.yaml", dark={**dark, "factor": 0.3})
    assert edited.planned() == {"evaluate_condition": 8, "table": 1, "site": 1}
    edited.change("config/conditions.yaml", dark=dark)
    assert not edited.planned()


def test_another_checkpoint_is_evaluated_under_the_conditions_again(edited: Workflow) -> None:
    with_columns(edited, "reliance:silence")
    assert edited.call().returncode == 0
    [run] = edited.runs("avish")
    (edited.folder / f"results/runs/{run}/seed1/best.safetensors").write_text("another")
    assert edited.planned("results/table_small.md") == {"evaluate": 1, "evaluate_condition": 1, "table": 1}


def test_a_figure_needs_the_evaluations_of_its_own_conditions(edited: Workflow) -> None:
    table = edited.read("config/tables/small.yaml")
    edited.change("config/tables/small.yaml", figures={**table["figures"], "reliance": FIGURE})
    # The specification of a table names its figures.
    assert edited.planned() == {"evaluate_condition": 16, "figure": 1, "table": 1, "site": 1}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    workflow = Workflow.with_small_table(tmp_path_factory.mktemp("conditions"))
    table = workflow.read("config/tables/small.yaml")
    frozen = {"variant": "frozen", "set": {"adapter": {"method": "none"}}}
    table["sections"][0]["rows"].append(frozen)
    workflow.write("config/tables/small.yaml", table)
    return Graph(with_columns(workflow, "reliance:silence", "reliance:dark"), "results/table_small.md")


def needed(graph: Graph, job: str) -> set[str]:
    """Return the rules that a job waits for, with the split where they have one."""
    labels = [graph.label[one].split("\\n") for one in graph.needs[job]]
    return {" ".join([label[0], *(part[7:] for part in label if part.startswith("split: "))]) for label in labels}


def jobs(graph: Graph, variant: str, condition: str) -> list[str]:
    runs = graph.workflow.runs(variant)
    found = [job for job in graph.jobs("evaluate_condition") if f"condition: {condition}-" in graph.label[job]]
    return [job for job in found if graph.runs([job]) & runs or graph.runs([*graph.needs[job]]) & runs]


def test_an_evaluation_reads_the_checkpoint_and_the_test_split(graph: Graph) -> None:
    assert len(graph.jobs("evaluate_condition")) == 5 * 2 * 2
    # The training split has the statistics that normalise every split.
    plain = {"train", "prepare test", "prepare train", "pretrain"}
    for condition in ("silence", "dark"):
        found = jobs(graph, "lavish", condition)
        assert len(found) == 2
        for job in found:
            assert needed(graph, job) == plain


def test_only_the_other_streams_features_are_read(graph: Graph) -> None:
    for variant, condition, streams in (("frozen", "silence", {"visual"}), ("frozen", "dark", {"audio"})):
        for job in jobs(graph, variant, condition):
            features = [one for one in graph.needs[job] if graph.label[one].startswith("encode")]
            names = {found[1] for one in features if (found := re.search(r"features: (\w+)_vit", graph.label[one]))}
            assert names == streams, graph.label[job]
            assert all(graph.needs_split(one, "test") and not graph.needs_split(one, "val") for one in features)


def test_an_audio_encoder_is_needed_for_a_disturbed_sound_and_its_features_for_a_disturbed_picture(
    graph: Graph,
) -> None:
    for job in jobs(graph, "encoder", "silence"):
        assert not {one for one in needed(graph, job) if one.startswith("encode")}
        assert len([one for one in graph.needs[job] if graph.label[one].startswith("pretrain")]) == 2
    for job in jobs(graph, "encoder", "dark"):
        [features] = [one for one in graph.needs[job] if graph.label[one].startswith("encode")]
        assert graph.needs_split(features, "test") and not graph.needs_split(features, "val")


def test_the_command_has_everything(edited: Workflow) -> None:
    with_columns(edited, "reliance:silence")
    assert edited.call().returncode == 0
    [run] = edited.runs("encoder")
    [log] = edited.folder.glob(f"results/logs/evaluate_condition/{run}-seed0-silence-*.log")
    command = shlex.split(log.read_text().splitlines()[0].removeprefix("+ "))
    options = dict(itertools.pairwise(command))
    condition = json.loads(options["--condition"])
    assert (condition["name"], condition["condition"]["kind"]) == ("silence", "silence")
    assert options["--split"] == "test"
    assert options["--run"] == f"results/runs/{run}/seed0"
    assert options["--out"] == str(
        next(edited.folder.glob(f"results/runs/{run}/seed0/test-silence-*")).relative_to(edited.folder)
    )
    assert options["--audio-encoder-weights"].startswith("results/weights/pretrained/transformer-")
    assert "--audio-features" not in options


def test_a_misspelt_condition_is_one_message(edited: Workflow) -> None:
    with_columns(edited, "reliance:silense")
    result = edited.call("--dry-run")
    assert result.returncode != 0
    assert "config/conditions.yaml has no 'silense' (did you mean 'silence'?)" in result.stdout
    assert "Traceback" not in result.stdout
