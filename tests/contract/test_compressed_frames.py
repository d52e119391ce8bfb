"""Frames that are stored as pictures: what reads a store gives the bytes that it gives for an array of the pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.data.formats.music_avqa import WORD_SLOTS
from lavish.data.store.store import SplitStore
from lavish.io.checksums import sha256_of
from lavish.planning.frozen_features import frozen_features
from lavish.planning.identities import Identities
from lavish.training.jobs import RunInputs, encode, evaluate, predict_examples, provide_weights, train
from tests.stores import run_values, write_store

CLIPS = 7
TASKS: dict[str, dict[str, Any]] = {
    "event_localization": {"hidden": 16, "loss": "ce"},
    "segmentation": {"channels": 8, "levels": 1},
    "question_answering": {"width": 8},  # reads frames of other clips
}


def contents(task: str, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    if task == "segmentation":
        return {"masks": rng.integers(0, 2, (CLIPS, 2, 4, 4), np.uint8).repeat(4, axis=2).repeat(4, axis=3)}
    if task == "question_answering":
        units = rng.permutation(np.repeat(np.arange(CLIPS), 2))
        word = rng.integers(1, 3, len(units))
        questions = np.repeat(word[:, None], WORD_SLOTS, axis=1)
        targets = {"questions": questions, "answers": word - 1, "types": np.arange(len(units)) % 9}
        return {"units": units, "targets": targets, "vocabulary": 5}
    return {}


def write_both(folder: Path, task: str, form: str) -> None:
    """Write stores with pictures, and others with an array of the pixels of these pictures."""
    for seed, split in enumerate(("train", "val", "test")):
        values = {"clips": CLIPS, "seed": seed, **contents(task, seed)}
        pictures = write_store(folder / "pictures" / split, pictures=form, **values)
        array = write_store(folder / "array" / split, **values) / "frames.npy"
        np.save(array, SplitStore(pictures).frames[:])
        manifest = json.loads((array.parent / "store.json").read_text())
        manifest["checksums"][array.name] = sha256_of(array)
        (array.parent / "store.json").write_text(json.dumps(manifest))


def configured(task: str, **changes: Any) -> RunConfig:
    values = run_values(
        task={"name": task, "options": TASKS[task]},
        training={"epochs": 2, "batch_size": 3, "lr_head": 0.01, "lr_adapter": 0.01},
    )
    return parse(RunConfig, values | changes, "test")


@pytest.mark.parametrize("form", ["jpeg", "webp"])
@pytest.mark.parametrize("task", TASKS)
def test_trainings_evaluations_and_examples_are_those_of_the_pixels(task: str, form: str, tmp_path: Path) -> None:
    write_both(tmp_path, task, form)
    config = configured(task)
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    found = []
    for name in ("array", "pictures"):
        out = tmp_path / f"run_{name}"
        inputs = RunInputs(config, 0, tmp_path / name, tmp_path / "vit.safetensors")
        train(inputs, out)
        evaluate(inputs, "test", out)
        files = [out / file for file in ("best.safetensors", "history.csv", "test/predictions.parquet")]
        content: list[Any] = [sha256_of(file) for file in files]
        if task == "segmentation":
            examples = predict_examples(inputs, "test", out, 3)
            content += [array.tolist() for array in vars(examples).values()]
        found.append(content)
    assert found[0] == found[1]


def test_features_of_a_frozen_backbone_are_those_of_the_pixels(tmp_path: Path) -> None:
    write_both(tmp_path, "event_localization", "jpeg")
    config = configured("event_localization", adapter={"method": "none"})
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    identities = Identities()
    identities.needs_inputs = False
    features = frozen_features(identities.run(config))["visual"].config
    files = []
    for name in ("array", "pictures"):
        files.append(tmp_path / f"{name}.npy")
        encode(features, tmp_path / "vit.safetensors", tmp_path / name / "train", files[-1])
    assert sha256_of(files[0]) == sha256_of(files[1])
