"""Training: what is resumed, repeated, accumulated and selected."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lavish.config.measures import Measure
from lavish.config.schema import RunConfig, ScheduleConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.tasks.event_localization import EventLocalization
from lavish.training import loop as training
from lavish.training.evaluation import evaluate as evaluate_model
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from lavish.training.schedule import schedule
from tests.stores import run_values, write_store


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("store")
    for seed, (split, clips) in enumerate({"train": 24, "val": 12, "test": 12}.items()):
        write_store(root / split, clips=clips, seed=seed)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    provide_weights(configured().backbone, path)
    return path


def configured(**changes: object) -> RunConfig:
    return parse(RunConfig, run_values(**changes), "test")


def run(config: RunConfig, data: Path, weights: Path, out: Path, seed: int = 0) -> dict:
    train(RunInputs(config, seed, data, weights), out)
    return json.loads((out / "record.json").read_text())


def test_learns_and_records_what_it_did(data, weights, tmp_path):
    config = configured(training={"epochs": 8, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01})
    record = run(config, data, weights, tmp_path / "seed0")
    assert record["best_value"] > 0.8  # chance is a third
    assert record["metric"] == "accuracy"
    assert record["selected_on"] == "val"
    assert record["config"] == config.model_dump(mode="json")
    assert set(record["data"]) == {"train", "val"}
    assert record["weights"]["sha256"] == sha256_of(weights)
    evaluate(RunInputs(config, 0, data, weights), "test", tmp_path / "seed0")
    metrics = json.loads((tmp_path / "seed0/test/metrics.json").read_text())
    assert metrics["value"] > 0.8
    assert metrics["units"] == 12


def test_two_runs_of_a_seed_are_identical_and_of_two_seeds_are_not(data, weights, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(configured(), data, weights, tmp_path / name, seed)
        hashes.append((sha256_of(tmp_path / name / "best.safetensors"), (tmp_path / name / "history.csv").read_text()))
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize("modalities", ["audio", "visual"])
def test_a_single_stream_trains_without_reading_the_other(data, weights, tmp_path, modalities):
    silent = tmp_path / "store"
    shutil.copytree(data, silent)
    array = silent / "train" / ("frames.npy" if modalities == "audio" else "log_mels.npy")
    values = np.load(array)
    np.save(array, np.full_like(values, 255 if modalities == "audio" else np.nan))
    manifest = json.loads((silent / "train/store.json").read_text())
    manifest["checksums"][array.name] = sha256_of(array)
    (silent / "train/store.json").write_text(json.dumps(manifest))
    config = configured(
        modalities=modalities, training={"epochs": 8, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01}
    )
    assert run(config, silent, weights, tmp_path / "run")["best_value"] > 0.5


class Killed(BaseException):
    """Stands for SIGKILL: nothing gets to clean up."""


def interrupted_equals_whole(config: RunConfig, data: Path, weights: Path, folder: Path, monkeypatch) -> None:
    """Check that a training that is killed in its third epoch and resumed ends as an uninterrupted one."""
    whole = run(config, data, weights, folder / "whole")

    evaluated = training.evaluate
    calls = []

    def dies_in_the_third_epoch(*arguments, **options):
        calls.append(None)
        if len(calls) == 3:
            raise Killed
        return evaluated(*arguments, **options)

    monkeypatch.setattr(training, "evaluate", dies_in_the_third_epoch)
    with pytest.raises(Killed):
        run(config, data, weights, folder / "cut")
    assert not (folder / "cut/best.safetensors").exists()
    monkeypatch.setattr(training, "evaluate", evaluated)
    resumed = run(config, data, weights, folder / "cut")

    for name in ("best.safetensors", "history.csv"):
        assert sha256_of(folder / "cut" / name) == sha256_of(folder / "whole" / name)
    assert resumed["best_value"] == whole["best_value"]
    assert not (folder / "cut/resume.safetensors").exists()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_an_interrupted_training_ends_with_the_same_numbers(data, weights, tmp_path, monkeypatch, optimizer):
    options = {"epochs": 4, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01, "optimizer": optimizer}
    config = configured(training={**options, "weight_decay": 0.01, "schedule": {"kind": "cosine", "warmup": 0.2}})
    interrupted_equals_whole(config, data, weights, tmp_path, monkeypatch)


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_training_on_pictures_learns_and_resumes_as_on_raw_frames(data, weights, tmp_path, monkeypatch, form):
    for seed, (split, clips) in enumerate({"train": 24, "val": 12}.items()):
        write_store(tmp_path / "store" / split, clips=clips, seed=seed, pictures=form)
    config = configured(training={"epochs": 8, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01})
    interrupted_equals_whole(config, tmp_path / "store", weights, tmp_path, monkeypatch)
    values = [
        json.loads((tmp_path / "whole/record.json").read_text())["best_value"],
        run(config, data, weights, tmp_path / "raw")["best_value"],
    ]
    assert min(values) > 0.8 and abs(values[0] - values[1]) <= 2 / 24  # two of the segments of the validation split
    record = json.loads((tmp_path / "whole/record.json").read_text())
    assert {"frames-00000.bin", "frames-00001.bin", "frame_index.npy"} <= set(record["data"]["train"])


def test_an_interrupted_segmentation_ends_with_the_same_numbers(weights, tmp_path, monkeypatch):
    """Its decoder's weights are channels_last, as the moments of the optimizer must be after resuming."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        masks = np.repeat(rng.integers(0, 2, (12, 2, 4, 4), dtype=np.uint8), 4, axis=2).repeat(4, axis=3)
        write_store(tmp_path / "store" / split, masks=masks, targets={}, seed=int(split == "val"))
    config = configured(
        task={"name": "segmentation", "options": {"channels": 16, "levels": 1}},
        training={"epochs": 4, "batch_size": 4, "lr_adapter": 0.01, "lr_head": 0.01},
    )
    interrupted_equals_whole(config, tmp_path / "store", weights, tmp_path, monkeypatch)


@pytest.mark.parametrize("recompute", ["adapters", "blocks"])
def test_recomputing_ends_with_the_same_files_also_after_an_interruption(
    data, weights, tmp_path, monkeypatch, recompute
):
    options = {"epochs": 4, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01}
    run(configured(training=options), data, weights, tmp_path / "keeping")
    config = configured(training={**options, "recompute": recompute})
    interrupted_equals_whole(config, data, weights, tmp_path, monkeypatch)
    for name in ("best.safetensors", "history.csv"):
        assert sha256_of(tmp_path / "whole" / name) == sha256_of(tmp_path / "keeping" / name)


def test_the_resumable_state_does_not_grow_with_the_number_of_steps(data, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "KEPT_STEP_SECONDS", 3)
    monkeypatch.setattr(training, "_write_history", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(configured(), data, weights, tmp_path / "run")
    with safe_open(tmp_path / "run/resume.safetensors", framework="pt") as file:
        assert len(json.loads(file.metadata()["progress"])["step_seconds"]) == 3


def test_the_state_of_another_run_is_not_resumed(data, weights, tmp_path, monkeypatch):
    evaluated = training.evaluate
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(configured(), data, weights, tmp_path / "run", seed=1)
    monkeypatch.setattr(training, "evaluate", evaluated)
    run(configured(), data, weights, tmp_path / "run", seed=0)
    run(configured(), data, weights, tmp_path / "fresh", seed=0)
    assert sha256_of(tmp_path / "run/best.safetensors") == sha256_of(tmp_path / "fresh/best.safetensors")


def test_accumulated_batches_give_the_gradient_of_one_large_batch(data, weights, tmp_path):
    # Without batch norms a group of batches, a short last one included, must equal the large batch.
    adapter = {"method": "lavish", "options": {"reduction": 4, "batch_norm": False}}
    common = {"epochs": 2, "lr_adapter": 0.01, "lr_head": 0.01}
    large = configured(adapter=adapter, training={**common, "batch_size": 14})
    small = configured(adapter=adapter, training={**common, "batch_size": 7, "accumulate": 2})
    losses = []
    for name, config in (("large", large), ("small", small)):
        run(config, data, weights, tmp_path / name)
        rows = (tmp_path / name / "history.csv").read_text().splitlines()[1:]
        losses.append([float(row.split(",")[1]) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_training_stops_early_and_keeps_the_best(data, weights, tmp_path):
    record = run(
        configured(training={"epochs": 50, "batch_size": 5, "lr_adapter": 1e-9, "lr_head": 1e-9, "patience": 2}),
        data,
        weights,
        tmp_path / "run",
    )
    assert record["best_epoch"] == 0
    assert record["epochs"] == 3


def test_a_loss_that_explodes_is_one_clear_message(data, weights, tmp_path):
    config = configured(training={"epochs": 30, "batch_size": 5, "lr_adapter": 1e30, "lr_head": 1e30})
    with pytest.raises(LavishError, match=r"lower training\.lr_adapter"):
        run(config, data, weights, tmp_path / "run")


def test_a_checkpoint_of_another_configuration_is_refused(data, weights, tmp_path):
    run(configured(), data, weights, tmp_path / "run")
    other = configured(adapter={"method": "lavish", "options": {"reduction": 4, "gate": "none"}})
    with pytest.raises(LavishError, match=r"does not fit this configuration"):
        evaluate(RunInputs(other, 0, data, weights), "test", tmp_path / "run")


def test_bfloat16_trains(data, weights, tmp_path):
    options = {"epochs": 8, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01, "precision": "bf16"}
    reached = run(configured(training=options), data, weights, tmp_path / "run")["best_value"]
    assert reached > 0.7
    exact = run(configured(training={**options, "precision": "float32"}), data, weights, tmp_path / "exact")
    assert abs(reached - exact["best_value"]) <= 0.1
    with safe_open(tmp_path / "run/best.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32, torch.int64}  # noqa: SIM118


def test_schedules():
    def values(**options: object) -> list[float]:
        factor = schedule(ScheduleConfig(**options), steps_per_epoch=2, epochs=5)
        return [round(factor(step), 3) for step in range(10)]

    assert values() == [1.0] * 10
    assert values(kind="step", factor=0.1, every=2) == [1.0] * 4 + [0.1] * 4 + [0.01] * 2
    cosine = values(kind="cosine", warmup=0.2)
    assert cosine[:3] == [0.5, 1.0, 1.0]
    assert cosine[2:] == sorted(cosine[2:], reverse=True)
    assert 0 < cosine[-1] < 0.1


def test_only_trainable_tensors_and_batch_norm_buffers_are_saved(data, weights, tmp_path):
    run(configured(), data, weights, tmp_path / "run")
    with safe_open(tmp_path / "run/best.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert any("running_mean" in name for name in names)
    assert not any(name.startswith("encoder.backbone") for name in names)
    assert torch.get_num_threads() == 1


def test_a_training_that_is_cut_off_while_it_ends_is_ended_by_the_next_call(data, weights, tmp_path, monkeypatch):
    run(configured(), data, weights, tmp_path / "whole")
    monkeypatch.setattr(training, "_write_history", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(configured(), data, weights, tmp_path / "cut")
    monkeypatch.undo()
    monkeypatch.setattr(training, "_epoch", lambda *_: pytest.fail("nothing is left to be trained"))
    run(configured(), data, weights, tmp_path / "cut")
    for name in ("best.safetensors", "history.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "cut").glob("*so_far*")) + list((tmp_path / "cut").glob("resume*"))


def test_half_precision_on_a_cpu_is_refused(data, weights, tmp_path):
    with pytest.raises(LavishError, match=r"training\.precision: fp16 is for GPUs"):
        run(configured(training={"epochs": 1, "precision": "fp16"}), data, weights, tmp_path / "run")


def test_a_selection_without_any_score_is_one_message(data, weights, tmp_path, monkeypatch):
    evaluated = training.evaluate
    monkeypatch.setattr(
        training, "evaluate", lambda *given, **more: replace(evaluated(*given, **more), value=float("nan"))
    )
    with pytest.raises(LavishError, match="accuracy was not a number after any epoch"):
        run(configured(), data, weights, tmp_path / "run")


def test_a_record_says_what_it_cannot_repeat(data, weights, tmp_path):
    record = run(configured(), data, weights, tmp_path / "run")
    assert record["gpu"] is None
    assert record["checkpoint"] == sha256_of(tmp_path / "run/best.safetensors")


def test_a_metric_of_which_less_is_better_selects_the_lowest_epoch(data, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(EventLocalization, "metric", Measure("distance", "m", (0.0, None), higher_is_better=False))
    values = iter([0.5, 0.3, 0.4, float("nan")])

    def evaluated(*arguments, **options):
        return replace(evaluate_model(*arguments, **options), value=next(values))

    monkeypatch.setattr(training, "evaluate", evaluated)
    record = run(configured(training={"epochs": 4, "batch_size": 5}), data, weights, tmp_path)
    assert (record["metric"], record["best_epoch"], record["best_value"]) == ("distance", 1, 0.3)
    assert (tmp_path / "history.csv").read_text().startswith("epoch,train_loss,selection_distance")


def test_a_part_of_the_clips_is_trained_on_and_all_others_are_evaluated(data, weights, tmp_path):
    config = configured(training={"epochs": 1})
    whole = run(config, data, weights, tmp_path / "whole")
    config = config.model_copy(update={"data": config.data.model_copy(update={"fraction": 0.5})})
    part = run(config, data, weights, tmp_path / "part")
    assert part["training_clips"] == whole["training_clips"] / 2
    assert part["config"]["data"]["fraction"] == 0.5 and "fraction" not in whole["config"]["data"]
