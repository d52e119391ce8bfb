"""Features of a frozen backbone that are computed once: every task ends with the bytes of the run that computes them.

The stores are those of interrupted trainings (test_resume.py), with a test split.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.planning.frozen_features import frozen_features
from lavish.planning.identities import Identities, Run
from lavish.training.jobs import RunInputs, encode, evaluate, predict_examples, provide_weights, train
from tests.stores import contents_of_tasks, run_values, write_store

CLIPS = 7
TASKS: dict[str, dict[str, Any]] = {
    "event_localization": {"hidden": 16, "loss": "ce"},
    "segmentation": {"channels": 8, "levels": 1, "tpavi": True},
    "question_answering": {"width": 8, "standardise": True},
    "action_recognition": {"grid": 2},
}
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 5, "num_heads": 2, "reg_tokens": 2}
SWIN = {"img_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
BACKBONES: dict[str, dict[str, Any]] = {"vit": VIT, "swin": SWIN, "swinv2": SWIN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each task and the weights of each backbone."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, split in enumerate(("train", "val", "test")):
        for task, content in contents_of_tasks(CLIPS, np.random.default_rng(seed)).items():
            write_store(folder / task / split, clips=CLIPS, seed=seed, **content)
    for model in BACKBONES:
        provide_weights(configured("event_localization", model).backbone, folder / f"{model}.safetensors")
    return folder


def configured(task: str, model: str = "vit", **changes: Any) -> RunConfig:
    values = run_values(
        task={"name": task, "options": TASKS[task]},
        adapter={"method": "none"},
        backbone={"model": model, "spec": BACKBONES[model], "weights": {"source": "random"}},
        # Not the same number of clips in every batch.
        training={"epochs": 3, "batch_size": 3, "lr_head": 0.01},
    )
    return parse(RunConfig, values | changes, "test")


def planned(config: RunConfig) -> Run:
    identities = Identities()
    identities.needs_inputs = False
    return identities.run(config)


def encoded(
    config: RunConfig, folder: Path, out: Path, splits: tuple[str, ...] = ("train", "val", "test")
) -> RunInputs:
    """Compute the features of a run as the workflow does, and return its inputs with them."""
    data = folder / config.task.name
    weights, *others = [folder / f"{one.model}.safetensors" for one in config.used_backbones()]
    found = frozen_features(planned(config))
    for stream, features in found.items():
        own = others[0] if others and stream == "audio" else weights
        for split in splits:
            encode(features.config, own, data / split, out / stream / f"{split}.npy")
    return RunInputs(
        config,
        0,
        data,
        weights,
        audio_weights=others[0] if others else None,
        frozen_features={stream: out / stream for stream in found},
    )


def outputs(inputs: RunInputs, out: Path) -> dict[str, str]:
    """Train and evaluate; return the checksums of what may not depend on where features come from."""
    train(inputs, out)
    evaluate(inputs, "test", out)
    files = ["best.safetensors", "history.csv", "test/predictions.parquet"]
    return {name: sha256_of(out / name) for name in files}


def test_every_task_is_tested() -> None:
    assert set(TASKS) == set(built_in("tasks"))


@pytest.mark.parametrize(
    ("task", "model", "modalities"),
    [
        *((task, model, "audio_visual") for task in TASKS for model in BACKBONES),
        *((task, "vit", modalities) for task in TASKS for modalities in ("visual", "audio")),
    ],
)
def test_features_read_and_computed_give_the_same_bytes(
    task: str, model: str, modalities: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(task, model, modalities=modalities)
    inputs = encoded(config, folder, tmp_path / "features")
    assert set(inputs.frozen_features) == ({"audio", "visual"} if modalities == "audio_visual" else {modalities})
    computed = outputs(replace(inputs, frozen_features={}), tmp_path / "computed")

    def refused(*_: Any) -> None:
        raise AssertionError("the backbone was run")

    monkeypatch.setattr("lavish.learner.encoder.TwoStreamEncoder.forward", refused)
    monkeypatch.setattr("lavish.models.backbones.base.Backbone.encode", refused)
    assert outputs(inputs, tmp_path / "read") == computed
    record = json.loads((tmp_path / "read/record.json").read_text())
    for stream, of_splits in record["frozen_features"].items():
        files = {split: sha256_of(tmp_path / "features" / stream / f"{split}.npy") for split in ("train", "val")}
        assert of_splits == files
    metrics = json.loads((tmp_path / "read/test/metrics.json").read_text())
    assert set(metrics["origin"]["frozen_features"]) == set(inputs.frozen_features)
    assert json.loads((tmp_path / "computed/record.json").read_text())["frozen_features"] == {}


@pytest.mark.parametrize("task", TASKS)
def test_each_stream_reads_the_features_of_its_own_backbone(task: str, folder: Path, tmp_path: Path) -> None:
    audio = {"model": "swin", "spec": SWIN, "weights": {"source": "random"}}
    inputs = encoded(configured(task, backbones={"audio": audio}), folder, tmp_path / "features")
    assert set(inputs.frozen_features) == {"visual", "audio"} and inputs.audio_weights is not None
    assert outputs(inputs, tmp_path / "read") == outputs(replace(inputs, frozen_features={}), tmp_path / "computed")


def test_a_stream_without_features_is_encoded(folder: Path, tmp_path: Path) -> None:
    inputs = encoded(configured("segmentation"), folder, tmp_path / "features")
    computed = outputs(replace(inputs, frozen_features={}), tmp_path / "computed")
    for stream in ("visual", "audio"):
        one = replace(inputs, frozen_features={stream: inputs.frozen_features[stream]})
        assert outputs(one, tmp_path / stream) == computed


def test_an_evaluation_and_examples_may_compute_what_training_read(folder: Path, tmp_path: Path) -> None:
    inputs = encoded(configured("segmentation"), folder, tmp_path / "features")
    read = outputs(inputs, tmp_path / "run")
    computing = replace(inputs, frozen_features={})
    evaluate(computing, "test", tmp_path / "run")
    assert sha256_of(tmp_path / "run/test/predictions.parquet") == read["test/predictions.parquet"]
    examples = [predict_examples(each, "test", tmp_path / "run", 3) for each in (inputs, computing)]
    np.testing.assert_array_equal(examples[0].predicted, examples[1].predicted)


def test_features_of_another_split_or_run_are_refused(folder: Path, tmp_path: Path) -> None:
    inputs = encoded(configured("action_recognition"), folder, tmp_path / "features")
    pooled = encoded(configured("event_localization"), folder, tmp_path / "pooled")
    other = replace(inputs, frozen_features={"visual": pooled.frozen_features["visual"]})
    with pytest.raises(LavishError, match=r"has 16 numbers an image, but this backbone and task need 128"):
        train(other, tmp_path / "run")
    adapted = configured("action_recognition", adapter={"method": "lavish"})
    with pytest.raises(LavishError, match="this run has no constant visual features"):
        train(replace(inputs, config=adapted), tmp_path / "run")
    file = tmp_path / "features/visual/train.npy"
    np.save(file, np.load(file)[:-1])
    with pytest.raises(LavishError, match="they belong to another prepared store"):
        train(inputs, tmp_path / "run")
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(LavishError, match=r"train\.npy: cannot be read as an array"):
        train(inputs, tmp_path / "run")
    file.unlink()
    with pytest.raises(LavishError, match=r"train\.npy: missing"):
        train(inputs, tmp_path / "run")
