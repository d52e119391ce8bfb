"""The graph of jobs."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
import torch
from harness import ROOT, Workflow, snakemake


class Graph:
    """The jobs that a call would run, and their dependencies."""

    def __init__(self, workflow: Workflow, *arguments: str) -> None:
        self.workflow = workflow
        result = workflow.call(*arguments, "--dag", "dot", "--forceall")
        assert result.returncode == 0, result.stdout
        # A job is labelled with its rule and the wildcards that its dependencies do not have.
        self.label = dict(re.findall(r'(\d+)\[label = "([^"]*)"', result.stdout))
        self.needs: dict[str, set[str]] = {job: set() for job in self.label}
        for needed, job in re.findall(r"(\d+) -> (\d+)", result.stdout):
            self.needs[job].add(needed)

    def jobs(self, rule: str) -> list[str]:
        return [job for job, label in self.label.items() if label.split("\\n")[0] == rule]

    def ancestors(self, job: str) -> set[str]:
        return self.needs[job].union(*(self.ancestors(needed) for needed in self.needs[job]))

    def needs_split(self, job: str, split: str) -> bool:
        labels = [self.label[ancestor].split("\\n") for ancestor in self.ancestors(job)]
        return any(label[0] == "prepare" and f"split: {split}" in label for label in labels)

    def runs(self, jobs: list[str]) -> set[str]:
        return {found[1] for job in jobs if (found := re.search(r"run: (\w+-\w+)", self.label[job]))}


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph(Workflow.with_default_configuration(tmp_path_factory.mktemp("default")))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return Graph(Workflow.with_small_table(tmp_path_factory.mktemp("small")))


def test_no_training_of_the_default_has_a_path_to_the_test_split(default: Graph) -> None:
    trainings = default.jobs("train")
    assert len(default.runs(trainings)) > 10
    for job in trainings:
        assert default.needs_split(job, "train"), default.label[job]
        assert default.needs_split(job, "val"), default.label[job]
        assert not default.needs_split(job, "test"), default.label[job]


def test_every_evaluation_of_the_default_reads_the_test_split(default: Graph) -> None:
    evaluations = default.jobs("evaluate")
    assert len(evaluations) == len(default.jobs("train"))
    assert all(default.needs_split(job, "test") for job in evaluations)


def test_only_select_on_test_lets_a_training_read_the_test_split(small: Graph) -> None:
    reading = [job for job in small.jobs("train") if small.needs_split(job, "test")]
    assert small.runs(reading) == small.workflow.runs("published")
    assert not any(small.needs_split(job, "val") for job in reading)


def test_only_rows_with_an_extra_audio_encoder_wait_for_its_features(small: Graph) -> None:
    features = set(small.jobs("encode"))
    assert len(features) == 3
    waiting = [job for job in small.jobs("train") if small.ancestors(job) & features]
    assert small.runs(waiting) == small.workflow.runs("encoder")


def test_frozen_rows_share_features_and_no_training_reads_those_of_the_test_split(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    table = workflow.read("config/tables/small.yaml")
    frozen = {"adapter": {"method": "none"}}
    rows = {
        "frozen": frozen,
        "heard": {**frozen, "modalities": "audio"},
        "joined": {**frozen, "audio_encoder": {"use": "join"}},
        "tuned": {**frozen, "backbone": {"tune_norms": True}},
        "half": {**frozen, "training": {"precision": "bf16"}},
    }
    table["sections"][0]["rows"] += [{"variant": name, "set": changes} for name, changes in rows.items()]
    workflow.write("config/tables/small.yaml", table)
    graph = Graph(workflow, "results/table_small.md")
    encoding = graph.jobs("encode")
    # The separate audio encoder, and the two streams of the backbone; each for three splits.
    assert len(encoding) == 3 * 3
    reading = [job for job in graph.jobs("train") if graph.needs[job] & set(encoding)]
    expected = ("encoder", "frozen", "heard", "joined")
    assert graph.runs(reading) == set().union(*(workflow.runs(variant) for variant in expected))
    for job in reading:
        of_run = {variant for variant in expected if graph.runs([job]) == workflow.runs(variant)}
        number = {"encoder": 1, "frozen": 2, "heard": 1, "joined": 3}[of_run.pop()]
        assert len(graph.needs[job] & set(encoding)) == 2 * number
        assert not graph.needs_split(job, "test")
    jobs = workflow.planned("results/table_small.md", "--config", "cache_features=none")
    assert jobs["encode"] == 3


def test_features_are_made_before_the_trainings_that_read_them_and_only_once(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("avish", set={"adapter": {"method": "none"}})
    result = workflow.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    [run] = workflow.runs("avish")
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.glob("results/data/features/*/*_vit-*/*.npy"))
    assert [file.name for file in files] == 2 * ["test.npy", "train.npy", "val.npy"]
    log = (tmp_path / f"results/logs/train/{run}-seed0.log").read_text()
    for folder in {file.parent for file in files}:
        stream = folder.name.partition("_")[0]
        assert f"--frozen-features {stream}={folder}" in log
    workflow.set_row("lavish", set={"adapter": {"method": "none"}, "audio_encoder": {"use": "join"}})
    assert "encode" not in workflow.planned("results/table_small.md")


def test_a_table_of_two_tasks_trains_each_row_on_its_tasks(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    two_tasks(workflow)
    graph = Graph(workflow, "results/table_small.md")
    trainings = graph.jobs("train")
    of_masks = ("lavish", "avish", "published")
    expected = [
        workflow.runs(variant, task) for variant in of_masks for task in ("event_localization", "segmentation_s4")
    ]
    assert graph.runs(trainings) == set().union(*expected, workflow.runs("encoder"))
    assert not workflow.runs("encoder", "segmentation_s4")
    assert len(trainings) == 2 * (4 + 3)
    assert len(graph.jobs("prepare")) == 2 * 3
    for job in trainings:
        selected_on_test = workflow.runs("published") | workflow.runs("published", "segmentation_s4")
        assert graph.needs_split(job, "test") == (graph.runs([job]) <= selected_on_test), graph.label[job]


def test_a_figure_of_masks_waits_for_examples_of_one_seed_and_for_no_test_scores(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    two_tasks(workflow)
    jobs = workflow.planned("results/figures/masks.svg")
    assert (jobs["examples"], jobs["train"], jobs["figure"]) == (3, 3, 1)
    assert jobs["evaluate"] == jobs["cost"] == 0
    graph = Graph(workflow, "results/figures/masks.svg")
    reading = [job for job in graph.jobs("train") if graph.needs_split(job, "test")]
    assert graph.runs(reading) == workflow.runs("published", "segmentation_s4")
    result = workflow.call("results/figures/masks.svg")
    assert result.returncode == 0, result.stdout
    assert len(list(tmp_path.glob("results/runs/segmentation-*/seed0/test/examples.npz"))) == 3


def test_a_row_on_each_backbone_waits_for_the_weights_of_each(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    table = workflow.read("config/tables/small.yaml")
    table["sections"][0]["rows"].append({"variant": "lavish", "each_backbone": True})
    workflow.write("config/tables/small.yaml", table)
    backbones = len(workflow.read("config/config.yaml")["backbones"])
    assert backbones > 1
    jobs = workflow.planned("results/table_small.md")
    # The first backbone is the default, so its row is trained already; the audio encoder is pretrained as well.
    assert jobs["train"] == 2 * (4 + backbones - 1)
    assert jobs["pretrain"] == backbones + 1


def test_a_table_with_more_seeds_and_parts_of_the_clips_trains_what_it_names(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    table = workflow.read("config/tables/small.yaml")
    half = {"name": "half", "label": "half", "set": {"data": {"fraction": 0.5}, "training": {"passes": 2}}}
    whole = {"name": "whole", "label": "all", "set": {}}
    table["sections"].append({"title": "Parts", "rows": [{"variant": "lavish"}], "each": [half, whole]})
    workflow.write("config/tables/small.yaml", table)
    jobs = workflow.planned("results/table_small.md")
    assert jobs["train"] == jobs["evaluate"] == 2 * (4 + 1), "on all clips it is the same run"
    assert jobs["prepare"] == 3, "and all share the prepared splits"
    workflow.write("config/tables/small.yaml", {**table, "seed_factor": 2})
    jobs = workflow.planned("results/table_small.md", "results/figures/small_figure.svg")
    assert jobs["train"] == jobs["evaluate"] == 4 * (4 + 1)
    assert (jobs["table"], jobs["figure"]) == (1, 1)
    result = workflow.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    (run,) = workflow.runs("lavish")
    assert sorted(path.name for path in tmp_path.glob(f"results/runs/{run}/seed*")) == [f"seed{k}" for k in range(4)]


def test_a_row_with_an_audio_backbone_waits_for_the_weights_of_both(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    table = workflow.read("config/tables/small.yaml")
    separate = {"variant": "separate", "set": {"backbones": {"use": "separate"}}}
    table["sections"][0]["rows"].append(separate)
    workflow.write("config/tables/small.yaml", table)
    jobs = workflow.planned("results/table_small.md")
    assert (jobs["train"], jobs["pretrain"]) == (2 * 5, 3)
    result = workflow.call("results/table_small.md")
    assert result.returncode == 0, result.stdout
    (run,) = workflow.runs("separate")
    log = (tmp_path / f"results/logs/train/{run}-seed0.log").read_text()
    weights = re.search(r"--weights ((?:results/weights/\S+\s)+)", log)
    assert weights is not None and len(weights[1].split()) == 2


def two_tasks(workflow: Workflow) -> None:
    """Add a column of segmentation, which does not apply to one row, and a figure of masks to the small table."""
    table = workflow.read("config/tables/small.yaml")
    table["columns"] += ["metric@segmentation_s4", "difference@segmentation_s4"]
    masks = {"kind": "predicted_masks", "title": "Masks", "section": "All", "task": "segmentation_s4"}
    table["figures"]["masks"] = masks
    next(row for row in table["sections"][0]["rows"] if row["variant"] == "encoder")["tasks"] = ["event_localization"]
    workflow.write("config/tables/small.yaml", table)


def test_cost_depends_on_nothing_but_the_choice_of_a_search(default: Graph) -> None:
    choices = set(default.jobs("choose"))
    counted = default.jobs("cost")
    assert any(not default.needs[job] for job in counted)
    assert all(default.needs[job] <= choices for job in counted)


def test_no_training_reads_a_file_of_the_test_split(finished: Workflow) -> None:
    """The same on files: none of those that Snakemake recorded as read by a training belongs to the test split."""
    result = finished.call("--detailed-summary")
    lines = result.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("output_file\t"))
    rows = csv.DictReader(lines[start:], delimiter="\t", quoting=csv.QUOTE_NONE)
    inputs = {row["output_file"]: row["input-file(s)"].split(",") for row in rows if row["rule"] == "train"}
    assert len(inputs) == 4 * 2 * 3
    reading = {
        file.split("/")[2] for file, read in inputs.items() if any(re.search(r"\btest\b", name) for name in read)
    }
    assert reading == finished.runs("published")


# Jobs with worker processes of a composed data set.
COMPOSED = ["compose", "prepare train", "prepare val", "prepare test"]


def test_no_more_jobs_than_processors(finished: Workflow) -> None:
    # The harness asks for 512 cores.
    output = (finished.folder / "output.txt").read_text()
    assert f"Provided cores: {min(512, len(os.sched_getaffinity(0)))}\n" in output


def test_worker_processes_follow_the_cores_that_are_asked_for(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    assert workflow.workers("--cores", "8") == dict.fromkeys(COMPOSED, 2)
    assert workflow.workers("--cores", "8", processors=2) == dict.fromkeys(COMPOSED, 1)
    assert workflow.workers("--cores", "2") == dict.fromkeys(COMPOSED, 1)
    # Other machines have other cores than this one, which a dry run takes for granted.
    cluster = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", "false", "--jobs", "8"]
    assert workflow.workers(*cluster, "--cores", "3") == dict.fromkeys(COMPOSED, 3)


def test_training_data_from_outside_have_more_worker_processes(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path / "work")
    (tmp_path / "AVE/AVE").mkdir(parents=True)
    clips = "\n".join(f"class {number}&{number:011}&good&0&10" for number in range(28))
    (tmp_path / "AVE/Annotations.txt").write_text(f"Category&VideoID&Quality&StartTime&EndTime\n{clips}\n")
    for name in ("trainSet", "valSet", "testSet"):
        (tmp_path / f"AVE/{name}.txt").write_text(f"{clips}\n")
    data = {"name": "official", "root": str(tmp_path / "AVE"), "compose": None, "num_classes": 28, "segments": 10}
    workflow.write("own.yaml", {"tasks": {"event_localization": {"data": data}}})
    own = ["--configfile", str(workflow.folder / "own.yaml")]
    assert workflow.workers("--cores", "8", *own) == {"prepare train": 4, "prepare val": 2, "prepare test": 2}


def test_every_job_leaves_a_log_that_begins_with_its_command(finished: Workflow) -> None:
    logs = list((finished.folder / "results/logs").rglob("*.log"))
    assert {log.parent.name for log in logs} >= {"compose", "prepare", "pretrain", "train", "evaluate", "cost", "table"}
    for log in logs:
        assert re.match(rf"\+ lavish {log.parent.name.replace('_', '-')} ", log.read_text()), log


@pytest.mark.parametrize(
    ("options", "device"),
    [([], "cpu"), (["--workflow-profile", "profiles/slurm", "--executor", "dryrun"], "cuda")],
    ids=["default profile", "slurm profile"],
)
def test_the_profile_selects_the_device(finished: Workflow, options: list[str], device: str) -> None:
    result = finished.call("results/table_small.md", "--dry-run", "--printshellcmds", "--forceall", *options)
    assert result.returncode == 0, result.stdout
    devices = re.findall(r"lavish ([\w-]+) .*--device (\w+)", result.stdout)
    assert set(devices) == {(job, device) for job in ("pretrain", "encode", "train", "evaluate")}


def test_another_device_repeats_no_job(finished: Workflow) -> None:
    assert not finished.planned("--workflow-profile", "profiles/slurm", "--executor", "dryrun")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_before_anything_runs(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    result = workflow.call("--config", "device=cuda")
    assert result.returncode != 0
    said = [line for line in result.stdout.splitlines() if "no GPU" in line]
    assert len(said) == 1
    assert said[0].startswith("torch finds no GPU that it can use here, and `device: cuda` wants one. On a CPU the 8 ")
    assert said[0].endswith("To run on the CPU nevertheless: `--config device=cpu`.")
    assert not (tmp_path / "jobs.txt").exists()
    [name] = workflow.runs("lavish")
    counting = workflow.call(f"results/runs/{name}/cost.json", "--config", "device=cuda")
    assert counting.returncode == 0, counting.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_says_so(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    [name] = workflow.runs("lavish")
    result = workflow.call(f"results/runs/{name}/seed0/record.json", "--config", "device=auto")
    assert result.returncode == 0, result.stdout
    assert "Jobs run on the CPU: `device: auto` found no NVIDIA GPU here." in result.stdout
    assert "--device cpu" in (tmp_path / f"results/logs/train/{name}-seed0.log").read_text()


def test_as_many_jobs_run_at_a_time_as_gpus_have_shares(tmp_path: Path) -> None:
    made_up = tmp_path / "made_up/torch.py"
    made_up.parent.mkdir()
    made_up.write_text("class cuda:\n    is_available = staticmethod(lambda: True)\n    device_count = lambda: 2\n")
    workflow = Workflow.with_small_table(tmp_path)
    options = ["--config", "device=cuda", "jobs_per_gpu=3", "--verbose"]
    process = workflow.start(*options, PYTHONPATH=os.pathsep.join([str(made_up.parent), str(ROOT)]))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "Jobs run on the GPU (`device: cuda`), 2 found, 3 at a time on each (`jobs_per_gpu`)" in output
    assert re.search(r"Resources before job selection: \{.*'gpu': 6\b", output)


def test_auto_is_refused_where_jobs_run_on_other_machines(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    options = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", "false", "--jobs", "1"]
    result = workflow.call(*options, "--config", "device=auto")
    assert result.returncode != 0
    assert "`device: auto` looks at this machine, but jobs run on others" in result.stdout


def test_the_former_way_to_choose_a_gpu_is_refused(finished: Workflow) -> None:
    result = finished.call("--resources", "gpu=1")
    assert result.returncode != 0
    assert "say `--config device=cuda`" in result.stdout


def test_linter_finds_nothing() -> None:
    result = snakemake("--lint")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", ["smoke.yaml", "av_pairs.yaml"])
def test_other_configurations_make_the_same_table(file: str, tmp_path: Path) -> None:
    workflow = Workflow.with_default_configuration(tmp_path / "work")
    for kind, suffix in (("images", "png"), ("sounds", "flac")):
        folder = workflow.folder / "data/av_pairs/cat" / kind
        folder.mkdir(parents=True)
        (folder / f"one.{suffix}").write_bytes(b"content")
    jobs = workflow.planned("results/table_ablation.md", "--configfile", str(workflow.folder / "config" / file))
    assert jobs["table"] == 1
    assert jobs["cost"] == 20
    assert jobs["train"] == jobs["evaluate"] == len(workflow.read(f"config/{file}")["seeds"]) * jobs["cost"]


def test_jobs_of_the_configuration_with_real_pictures_and_weights(tmp_path: Path) -> None:
    workflow = Workflow.with_default_configuration(tmp_path)
    targets = ("results/table_real.md", "results/figures/masks_real.svg")
    call = (*targets, "--configfile", str(tmp_path / "config/real.yaml"))
    # A dry run does not ask the model hub.
    refused = workflow.call(*call, "--dry-run")
    assert refused.returncode == 1
    assert "table 'real' cannot be made: folder of assets: there is no folder data/av_pairs;" in refused.stdout
    for kind in ("images", "sounds"):
        (tmp_path / "data/av_pairs/cat" / kind).mkdir(parents=True)
        (tmp_path / "data/av_pairs/cat" / kind / "one").write_bytes(b"content")
    jobs = workflow.planned(*call)
    rows = len(workflow.read("config/tables/real.yaml")["sections"][0]["rows"])
    seeds = len(workflow.read("config/real.yaml")["seeds"])
    assert seeds >= 3
    assert jobs["cost"] >= rows
    assert jobs["train"] == jobs["evaluate"] == seeds * jobs["cost"]
    assert (jobs["compose"], jobs["pin_weights"], jobs["pretrain"]) == (2, 2, 0)
    # Three splits for Whisper, for both streams of the frozen row, and on S4 for its audio stream.
    assert jobs["encode"] == 3 * (1 + 2 + 1)
    assert (jobs["table"], jobs["figure"]) == (1, 1)

    # A file of one's own says where the weights are.
    file = {"source": "file", "path": "weights.safetensors"}
    workflow.write("own.yaml", {"defaults": {"backbone": {"weights": file}, "audio_encoder": {"weights": file}}})
    refused = workflow.call(*call, str(tmp_path / "own.yaml"), "--dry-run")
    assert refused.returncode == 1
    assert "there is no weights file weights.safetensors; set weights.path to its location" in refused.stdout
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    assert workflow.planned(*call, str(tmp_path / "own.yaml")) == jobs


def test_a_table_of_costs_needs_no_data_and_no_training(tmp_path: Path) -> None:
    workflow = Workflow.with_default_configuration(tmp_path)
    jobs = workflow.planned("results/table_cost.md")
    assert set(jobs) == {"cost", "table"}
    paper = str(tmp_path / "config/paper.yaml")
    assert workflow.planned("results/table_cost.md", "--configfile", paper) == jobs


def test_jobs_of_the_papers_configuration(tmp_path: Path) -> None:
    workflow = Workflow.with_default_configuration(tmp_path)
    root = tmp_path / "data/AVE"
    (root / "AVE").mkdir(parents=True)
    (root / "AVE/clip.mp4").write_bytes(b"video")
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt", "Annotations.txt"):
        (root / name).write_text("header\n" * (name == "Annotations.txt") + "Bark&clip&good&0&10\n")
    paper = str(tmp_path / "config/paper.yaml")
    for table in ("ablation", "paper_ave"):
        jobs = workflow.planned(f"results/table_{table}.md", "--configfile", paper)
        assert jobs["train"] == jobs["evaluate"] == 3 * jobs["cost"] > 30
        assert jobs["compose"] == jobs["pretrain"] == 0
        assert jobs["table"] == 1


def test_a_matched_row_is_planned_with_the_size_found(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("avish", match_parameters_of="lavish")
    outputs = [workflow.call("results/table_small.md", "--dry-run", "--printshellcmds") for _ in range(2)]
    assert [output.returncode for output in outputs] == [0, 0], outputs[0].stdout
    assert [output.stdout.count("Searching for the sizes of lavish") for output in outputs] == [1, 0]
    found = json.loads((tmp_path / "results/matched_sizes.json").read_text())
    [size] = {match["size"] for match in found.values()}
    [run] = workflow.runs("avish")
    command = next(line for line in outputs[1].stdout.splitlines() if "lavish train" in line and run in line)
    assert f'"reduction":{size}' in command
    assert size != 8


def test_a_row_that_cannot_be_matched_stops_the_call_with_one_message(tmp_path: Path) -> None:
    workflow = Workflow.with_small_table(tmp_path)
    workflow.set_row("avish", match_parameters_of="lavsh")
    result = workflow.call("--dry-run")
    assert result.returncode != 0
    assert "row 'avish': key 'match_parameters_of': no row defines the variant 'lavsh'" in result.stdout
    assert "Traceback" not in result.stdout
