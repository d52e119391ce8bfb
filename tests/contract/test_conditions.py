"""Every task is evaluated under every kind of condition, from one checkpoint; a disturbed stream is encoded anew."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from lavish.config.conditions import BaseCondition, Condition, NamedCondition
from lavish.config.schema import RunConfig
from lavish.config.sources import built_in
from lavish.config.validation import parse
from lavish.data.store.conditions import other_clips
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.planning.frozen_features import frozen_features
from lavish.planning.identities import Identities
from lavish.training.jobs import RunInputs, encode, evaluate, provide_weights, train
from tests.stores import CONDITIONS, SPECTROGRAM, TASK_OPTIONS, contents_of_tasks, run_values, write_store

CLIPS = 9
ENCODER = {
    "kind": "transformer",
    "weights": {"source": "random"},
    "spec": {
        "dim": 16, "depth": 1, "heads": 2, "mel_bins": 16, "frames": 16, "patch_mel": 16, "patch_frames": 4,
        "shift_ms": SPECTROGRAM["shift_ms"], "window_seconds": SPECTROGRAM["window_seconds"],
    },
}  # fmt: skip


def named(name: str) -> NamedCondition:
    return NamedCondition.of(name, TypeAdapter(Condition).validate_python({"title": "", **CONDITIONS[name]}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each task, and the weights."""
    folder = tmp_path_factory.mktemp("inputs")
    for seed, split in enumerate(("train", "val", "test")):
        for task, content in contents_of_tasks(CLIPS, np.random.default_rng(seed)).items():
            write_store(folder / task / split, clips=CLIPS, seed=seed, **content)
    config = configured("event_localization", audio_encoder=ENCODER)
    provide_weights(config.backbone, folder / "vit.safetensors")
    assert config.audio_encoder is not None
    provide_weights(config.audio_encoder, folder / "encoder.safetensors")
    return folder


def configured(task: str, **changes: Any) -> RunConfig:
    values = run_values(task={"name": task, "options": TASK_OPTIONS[task]})
    data = dict(values["data"])  # type: ignore[call-overload]
    data |= {"segment_seconds": 0.1, "spectrogram": SPECTROGRAM | {"mel_bins": 16, "frames": 16}}
    training = {"epochs": 1, "batch_size": 4, "lr_adapter": 0.05, "lr_head": 0.05}
    return parse(RunConfig, values | {"data": data, "training": training} | changes, "test")


def inputs_of(config: RunConfig, folder: Path) -> RunInputs:
    return RunInputs(config, 0, folder / config.task.name, folder / "vit.safetensors")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[RunInputs, Path]]:
    """Return the inputs and the folder of a run of each task."""
    runs = {task: (inputs_of(configured(task), folder), tmp_path_factory.mktemp(task)) for task in TASK_OPTIONS}
    for inputs, out in runs.values():
        train(inputs, out)
        evaluate(inputs, "test", out)
    return runs


def scores(folder: Path) -> np.ndarray:
    return pq.read_table(folder / "predictions.parquet").column("score").to_numpy()


def test_every_kind_and_every_task_is_tested() -> None:
    kinds = {model.model_fields["kind"].annotation.__args__[0] for model in BaseCondition.__subclasses__()}
    assert {one["kind"] for one in CONDITIONS.values()} == kinds
    assert set(TASK_OPTIONS) == set(built_in("tasks"))


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("task", TASK_OPTIONS)
def test_every_task_is_evaluated_under_every_condition(
    task: str, name: str, trained: dict[str, tuple[RunInputs, Path]]
) -> None:
    inputs, run = trained[task]
    before = sha256_of(run / "best.safetensors")
    evaluate(inputs, "test", run, named(name))
    found = run / named(name).folder
    assert scores(found).shape == scores(run / "test").shape and np.isfinite(scores(found)).all()
    metrics, clean = (json.loads((place / "metrics.json").read_text()) for place in (found, run / "test"))
    assert metrics["origin"]["condition"] == named(name).model_dump(mode="json")
    assert metrics["origin"]["checkpoint"] == before == sha256_of(run / "best.safetensors")
    assert metrics["definitions"] == clean["definitions"]
    assert "condition" not in clean["origin"]
    content = (found / "predictions.parquet").read_bytes()
    evaluate(inputs, "test", run, named(name))
    assert (found / "predictions.parquet").read_bytes() == content


@pytest.mark.parametrize("name", ["noise", "swap_audio", "missing_visual", "blur"])
@pytest.mark.parametrize("task", ["event_localization", "segmentation"])
def test_features_on_disk_are_those_of_the_other_stream(task: str, name: str, folder: Path, tmp_path: Path) -> None:
    config = configured(task, adapter={"method": "none"})
    computing = inputs_of(config, folder)
    identities = Identities()
    identities.needs_inputs = False
    for stream, features in frozen_features(identities.run(config)).items():
        encode(features.config, computing.weights, computing.data / "test", tmp_path / stream / "test.npy")
    train(computing, tmp_path / "run")
    stream = named(name).stream
    other = "audio" if stream == "visual" else "visual"
    reading = replace(computing, frozen_features={other: tmp_path / other})
    for place, one in (("computed", computing), ("read", reading)):
        evaluate(one, "test", tmp_path / "run", named(name), tmp_path / place)
    first, second = ((tmp_path / place / "predictions.parquet").read_bytes() for place in ("computed", "read"))
    assert first == second
    stale = replace(computing, frozen_features={stream: tmp_path / stream})
    with pytest.raises(LavishError, match=f"--frozen-features {stream}: condition '{name}' disturbs this stream"):
        evaluate(stale, "test", tmp_path / "run", named(name))


def with_swapped_sounds(split: Path, out: Path) -> Path:
    """Write a copy of a split whose sounds are those of other clips."""
    store = SplitStore(split)
    partners = other_clips(store, CONDITIONS["swap_audio"]["seed"])
    shutil.copytree(split, out)
    manifest = json.loads((out / "store.json").read_text())
    for name in ("log_mels", "waveforms"):
        np.save(out / f"{name}.npy", getattr(store, name)[partners])
        manifest["checksums"][f"{name}.npy"] = sha256_of(out / f"{name}.npy")
    (out / "store.json").write_text(json.dumps(manifest))
    return out


@pytest.mark.parametrize("use", ["join", "replace"])
def test_a_separate_audio_encoder_hears_the_disturbed_sound(use: str, folder: Path, tmp_path: Path) -> None:
    config = configured("event_localization", audio_encoder=ENCODER | {"use": use})
    plain = inputs_of(config, folder)
    for split in ("train", "val", "test"):
        encode(config.audio_encoder, folder / "encoder.safetensors", plain.data / split, tmp_path / f"f/{split}.npy")  # type: ignore[arg-type]
    inputs = replace(plain, audio_features=tmp_path / "f", audio_encoder_weights=folder / "encoder.safetensors")
    train(inputs, tmp_path / "run")
    # As if the sounds had been swapped before the split was prepared.
    shutil.copytree(plain.data / "train", tmp_path / "data/train")
    swapped = with_swapped_sounds(plain.data / "test", tmp_path / "data/test")
    encode(config.audio_encoder, folder / "encoder.safetensors", swapped, tmp_path / "swapped/test.npy")  # type: ignore[arg-type]
    expected = replace(plain, data=tmp_path / "data", audio_features=tmp_path / "swapped")
    evaluate(expected, "test", tmp_path / "run", out=tmp_path / "expected")
    evaluate(replace(inputs, audio_features=None), "test", tmp_path / "run", named("swap_audio"), tmp_path / "found")
    assert (tmp_path / "found/predictions.parquet").read_bytes() == (
        tmp_path / "expected/predictions.parquet"
    ).read_bytes()
    evaluate(inputs, "test", tmp_path / "run")
    assert (scores(tmp_path / "found") != scores(tmp_path / "run/test")).any()
    # A picture that is disturbed leaves the features on disk as they are.
    evaluate(inputs, "test", tmp_path / "run", named("darken"), tmp_path / "dark")
    with pytest.raises(LavishError, match="give it with --audio-encoder-weights"):
        evaluate(replace(inputs, audio_encoder_weights=None), "test", tmp_path / "run", named("silence"))


def test_a_stream_that_is_not_read_and_another_split_are_refused(
    folder: Path, trained: dict[str, tuple[RunInputs, Path]], tmp_path: Path
) -> None:
    inputs, run = trained["event_localization"]
    with pytest.raises(LavishError, match="condition 'silence' is for the test split, not for 'val'"):
        evaluate(inputs, "val", run, named("silence"))
    config = configured("event_localization", modalities="visual", fusion={"direction": "none"})
    with pytest.raises(LavishError, match="disturbs the audio stream, which this run does not read"):
        evaluate(inputs_of(config, folder), "test", run, named("silence"))
