"""`lavish show`: what it tells of a run, and that a record holds all of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from lavish.cli.main import main
from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.io.checksums import sha256_of
from lavish.planning.experiments import task_defaults
from lavish.planning.run_labels import RunLabel, update_index
from lavish.provenance import RECIPE_VERSION
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A working directory with defaults, and a run of two seeds that differs from them in one option."""
    folder = tmp_path_factory.mktemp("work")
    values = run_values()
    del values["task"]
    config = {
        "seeds": [0, 1],
        "tables": ["small"],
        "defaults": values,
        "tasks": {"event_localization": {"task": run_values()["task"]}},
    }
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    for seed, split in enumerate(("train", "val", "test")):
        write_store(folder / "data" / split, seed=seed)
    resolved = task_defaults([folder / "config/config.yaml"], "event_localization").model_dump(mode="json")
    resolved["adapter"]["options"]["latents"] = 4
    run_config = parse(RunConfig, resolved, "test")
    weights, run = folder / "vit.safetensors", folder / "results/runs/event_localization-0a1b2c3d"
    provide_weights(run_config.backbone, weights)
    for seed in (0, 1):
        inputs = RunInputs(run_config, seed, folder / "data", weights)
        train(inputs, run / f"seed{seed}")
        evaluate(inputs, "test", run / f"seed{seed}")
    counts = dict.fromkeys(("total_params", "adapter_params", "adapter_macs", "total_macs"), 123_456)
    label = RunLabel(run.name, "small", "event_localization", "more_latents", "More latents")
    update_index(run.parent / "index.csv", [label], ["small"])
    (run / "cost.json").write_text(json.dumps({"trainable_params": 7_890, **counts}))
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return Path("results/runs/event_localization-0a1b2c3d")


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def line(text: str, key: str) -> str:
    return next(line for line in text.splitlines() if line.strip().startswith(key))


def test_a_record_holds_everything_its_numbers_depend_on(run, work):
    record = json.loads((run / "seed0/record.json").read_text())
    assert record["config"]["adapter"]["options"]["latents"] == 4
    assert record["recipe_version"] == RECIPE_VERSION
    assert record["weights"]["sha256"] == sha256_of(work / "vit.safetensors")
    assert set(record["data"]) == {"train", "val"}
    assert record["data"]["train"]["frames.npy"] == sha256_of(work / "data/train/frames.npy")
    assert {"python", "torch", "timm", "numpy", "av", "pillow"} <= set(record["versions"])
    assert record["git"] is None or set(record["git"]) == {"commit", "dirty"}
    assert record["device"] == "cpu"
    assert record["machine"]["argv"]
    for key in ("wall_seconds", "job_seconds", "peak_memory_bytes"):
        assert record[key] > 0, key
    origin = json.loads((run / "seed0/test/metrics.json").read_text())["origin"]
    assert origin["checkpoint"] == sha256_of(run / "seed0/best.safetensors")
    assert set(origin["data"]) == {"test"}
    for key in ("config", "seed", "recipe_version", "git", "versions", "machine", "device", "weights"):
        assert origin[key] == record[key], key
    assert origin["job_seconds"] > 0
    assert origin["peak_memory_bytes"] > 0


def test_a_training_is_shown_with_what_differs_from_the_defaults(run, work, capsys):
    text = shown(capsys, run / "seed1")
    for key, value in (
        ("table small", "variant more_latents (More latents), task event_localization"),
        ("seed", "1"),
        ("recipe version", str(RECIPE_VERSION)),
        ("selected on val", "of 3"),
        ("test", "(12 clips)"),
        ("weights ", sha256_of(work / "vit.safetensors")),
        ("train/targets.npz", sha256_of(work / "data/train/targets.npz")),
        ("git commit", ""),
        ("versions", "torch 2."),
        ("device", "cpu"),
        ("training time", " ms a step"),
        ("peak memory", "MiB"),
        ("command", ""),
        ("best.safetensors", "bytes"),
        ("test/predictions.parquet", "bytes"),
    ):
        assert value in line(text, key), key
    start = text.index("Differs from config/config.yaml")
    assert text[start:].splitlines()[1].split() == ["adapter.options.latents", "4", "(default:", "2)"]
    assert text[start:].splitlines()[2] == ""
    assert "training.epochs" not in text
    assert line(shown(capsys, run / "seed1", "--full"), "training.epochs").endswith(" 3")


def test_evaluations_under_conditions_are_shown(run, capsys):
    shutil.copytree(run / "seed0/test", run / "seed0/test-dark-12345678")
    text = shown(capsys, run / "seed0")
    shutil.rmtree(run / "seed0/test-dark-12345678")
    assert line(text, "test-dark-12345678").split()[1:] == line(text, "test ").split()[1:]


def test_of_a_separate_audio_backbone_only_what_differs_from_the_shared_one_is_shown(run, work, capsys, tmp_path):
    copy = shutil.copytree(run, tmp_path / run.name)
    record = json.loads((copy / "seed0/record.json").read_text())
    config = record["config"]
    own = config["backbone"] | {"spec": config["backbone"]["spec"] | {"in_chans": 1}, "spectrogram": None}
    config["backbones"] = {"use": "separate", "visual": None, "audio": own}
    config["adapter"]["code"] = "0a1b2c3d"
    (copy / "seed0/record.json").write_text(json.dumps(record))
    text = shown(capsys, copy / "seed0")
    lines = text[text.index("Differs from") :].split("\n\n")[0].splitlines()[1:]
    keys = {"adapter.options.latents", "backbones.use", "backbones.audio.spec.in_chans"}
    assert {one.split()[0] for one in lines} == keys


def test_a_run_is_shown_with_all_its_trainings(run, capsys):
    text = shown(capsys, run)
    assert "on val" in line(text, "seed0")
    assert "over 2 seeds, 95 % interval" in line(text, "accuracy (test)")
    assert line(text, "trainable parameters").endswith(" 7,890")
    assert "finished, seed 0" in text or "finished  " in text
    assert "seed1/test/metrics.json" in text


def test_the_search_of_a_tuned_run_is_shown(run, capsys, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / run.name))
    values = {"training.lr_adapter": 0.0123}
    trials = [{"value": 0.5}, {"value": None}]
    result = {"values": values, "trials": trials, "seeds": [1000], "at_edge": {"training.lr_adapter": "highest"}}
    (copy / "tuning.json").write_text(json.dumps(result))
    text = shown(capsys, copy)
    assert line(text, "2 trials").endswith("0.5000, diverged on validation, seeds 1000")
    assert line(text, "training.lr_adapter").endswith("0.0123, the highest that was tried")


def test_other_defaults_can_be_laid_over(run, work, capsys):
    (work / "more.yaml").write_text("defaults: {adapter: {options: {latents: 4}}}")
    text = shown(capsys, run / "seed0", "--configfile", "more.yaml")
    assert "Differs from config/config.yaml + more.yaml\n  nothing" in text


def test_without_defaults_the_configuration_is_shown(run, capsys, tmp_path, monkeypatch):
    there = run.resolve()
    monkeypatch.chdir(tmp_path)
    text = shown(capsys, there / "seed0")
    assert line(text, "adapter.options.latents").endswith(" 4")
    assert "not compared with the defaults: there is no configuration file config/config.yaml" in text


def test_an_unfinished_training_is_said_to_be_unfinished(run, capsys, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "task-variant-00000000")
    (copy / "seed1/record.json").unlink()
    shutil.rmtree(copy / "seed0/test")
    text = shown(capsys, copy)
    assert "not evaluated on test" in line(text, "seed0")
    assert "not finished" in line(text, "seed1")


@pytest.mark.parametrize(
    ("folder", "message"), [("absent", "there is no folder absent"), ("config", "config is not a run: it has neither")]
)
def test_what_is_no_run_is_said_to_be_none(run, folder, message, capsys):
    assert main(["show", folder]) == 1
    assert capsys.readouterr().err.startswith(f"lavish show: {message}")


def test_seeds_of_different_configurations_are_refused(run, capsys, tmp_path):
    import shutil

    copy = shutil.copytree(run, tmp_path / "task-variant-00000000")
    record = json.loads((copy / "seed1/record.json").read_text())
    record["config"]["select_on"] = "test"
    (copy / "seed1/record.json").write_text(json.dumps(record))
    assert main(["show", str(copy)]) == 1
    assert "another configuration than the other seeds'" in capsys.readouterr().err
