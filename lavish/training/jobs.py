"""The workflow's jobs as functions: pretraining, weights, training, evaluation, example predictions.

Every job reads files and writes files; nothing else passes between jobs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.config.conditions import NamedCondition
from lavish.config.hashing import digest
from lavish.config.schema import AudioEncoderConfig, BackboneConfig, FrozenStreamConfig, RunConfig
from lavish.errors import LavishError
from lavish.io.atomic import write_json
from lavish.io.locks import locked
from lavish.provenance import RECIPE_VERSION
from lavish.training.monitor import Kind, monitor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lavish.data.store.batches import SplitReader
    from lavish.learner.model import AudioVisualModel
    from lavish.training.examples import ExamplePredictions


@dataclass(frozen=True)
class RunInputs:
    """The inputs of a run with one seed, and its device."""

    config: RunConfig
    seed: int
    data: Path
    """Folder of the prepared splits."""
    weights: Path
    """Frozen backbone, a safetensors file."""
    audio_weights: Path | None = field(default=None, kw_only=True)
    """The audio stream's own frozen backbone, if it has one."""
    audio_features: Path | None = None
    """Folder of the separate audio encoder's features, a file for each split."""
    audio_encoder_weights: Path | None = field(default=None, kw_only=True)
    """The separate audio encoder, a safetensors file: to hear a disturbed sound, which has no features on disk."""
    frozen_features: Mapping[str, Path] = field(default_factory=dict, kw_only=True)
    """By stream, the folder of the frozen backbone's features, a file for each split, to be read instead of images."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    jobs_per_gpu: int = 1
    """Jobs that may share a GPU of this machine."""
    monitor: Kind = "none"
    """Where the course of a training is written besides history.csv."""


def pretrain(
    config: BackboneConfig | AudioEncoderConfig, out: Path, device_name: str = "cpu", jobs_per_gpu: int = 1
) -> None:
    """Train a small backbone or audio encoder on other classes than the task's and write its weights.

    A backbone of three input channels learns from pictures, one of a single channel from sounds.
    """
    from lavish.training.device import choose, seed_everything

    if config.weights.source != "pretrain":
        raise LavishError(f"weights.source is '{config.weights.source}': only 'pretrain' is trained here")
    device = choose(device_name, 1, jobs_per_gpu)
    seed_everything(config.weights.recipe.seed, deterministic=True)
    if isinstance(config, AudioEncoderConfig):
        from lavish.training.pretraining.sounds import pretrain as pretrain_audio

        pretrain_audio(config.spec, config.weights.recipe, out, device)
        return
    from lavish.models.backbones.build import build_backbone
    from lavish.training.pretraining import pictures, sounds

    of_sounds = build_backbone(config.model, config.spec, 0).in_channels == 1
    pretrain_backbone = sounds.pretrain_backbone if of_sounds else pictures.pretrain
    pretrain_backbone(config.model, config.spec, config.weights.recipe, out, device)


def provide_weights(config: BackboneConfig | AudioEncoderConfig, out: Path) -> None:
    """Fetch weights from the hub, or check those on disk, and write them to `out`."""
    from lavish.models.weights import fetch, take_file, write_weights

    if config.weights.source == "hub":
        fetch(config.weights, config.model, out)
    elif config.weights.source == "file":
        take_file(config.weights, out)
    elif config.weights.source == "random":
        import torch

        torch.manual_seed(config.weights.seed)
        write_weights(_untrained(config).state_dict(), out, {"source": "random", "seed": config.weights.seed})
    else:
        pretrain(config, out)


def encode(
    config: FrozenStreamConfig | AudioEncoderConfig,
    weights: Path,
    split: Path,
    out: Path,
    device_name: str = "cpu",
    jobs_per_gpu: int = 1,
) -> None:
    """Write the features of a prepared split that a frozen backbone or a separate audio encoder computes."""
    from lavish.training.device import choose, seed_everything
    from lavish.training.features import encode_split

    if isinstance(config, AudioEncoderConfig):
        from lavish.models.audio_encoders.build import build

        device = choose(device_name, 1, jobs_per_gpu)
        encode_split(build(config.kind, config.spec, weights).to(device), split, out, device=device)
        return
    from lavish.data.store.store import SplitStore
    from lavish.learner.build import build_frozen_stream

    device = choose(device_name, config.cpu_threads, jobs_per_gpu)
    seed_everything(0, deterministic=True)
    stream = build_frozen_stream(config, SplitStore(split), _statistics(split.parent / "train"), weights)
    encode_split(stream.to(device).eval(), split, out, device=device)


def _untrained(config: BackboneConfig | AudioEncoderConfig) -> nn.Module:
    if isinstance(config, AudioEncoderConfig):
        from lavish.models.audio_encoders.build import build

        assert config.weights.source == "random"
        return build(config.kind, config.spec, seed=config.weights.seed)
    from lavish.models.backbones.build import build_backbone

    return build_backbone(config.model, config.spec, config.spec.get("img_size", 0)).model


def train(inputs: RunInputs, out: Path) -> None:
    """Train one run and write its checkpoint, history and record to `out`."""
    from lavish.training.checkpoint import forget_state
    from lavish.training.device import memory_errors_explained

    with locked(out) as had_to_wait:
        if had_to_wait and (out / "record.json").exists():
            return  # the process that held the lock has finished this very training
        with memory_errors_explained(inputs.config.training, inputs.jobs_per_gpu, backward=True):
            record = _train(inputs, out)
        write_json(out / "record.json", record)
        forget_state(out)


def train_trial(inputs: RunInputs, trial: int, out: Path) -> None:
    """Train one trial of a run's hyperparameter search and write its record, without a checkpoint, to `out`.

    A trial that diverges has a record that says so: it is a result of the search.
    """
    from lavish.training.checkpoint import forget_state
    from lavish.training.device import memory_errors_explained
    from lavish.training.loop import Diverged
    from lavish.training.tuning import sample

    if inputs.config.tuning is None:
        raise LavishError("the configuration has no search, so it has no trials: give one with the key 'tuning'")
    values = sample(inputs.config.tuning, trial)
    inputs = replace(inputs, config=inputs.config.with_values(values))
    with locked(out) as had_to_wait:
        if had_to_wait and (out / "record.json").exists():
            return
        try:
            with memory_errors_explained(inputs.config.training, inputs.jobs_per_gpu, backward=True):
                record = _train(inputs, out)
        except Diverged as error:
            record = {
                "config": inputs.config.model_dump(mode="json"),
                "seed": inputs.seed,
                "best_value": None,
                "diverged": str(error),
                **_origin(inputs, _device(inputs)),
            }
        (out / "best.safetensors").unlink(missing_ok=True)
        write_json(out / "record.json", {"trial": trial, "values": values, **record})
        forget_state(out)


def _train(inputs: RunInputs, out: Path) -> dict[str, Any]:
    """Train one run, write its checkpoint and history, and return its record."""
    from lavish.io.checksums import sha256_of
    from lavish.training.device import refused_operators_named
    from lavish.training.loop import train as train_model

    started = time.monotonic()
    config, seed = inputs.config, inputs.seed
    device = _device(inputs)
    training = _reader(inputs, "train")
    selection = _reader(inputs, config.select_on)
    if config.data.fraction < 1:
        training.restrict(config.data.fraction, config.seed_of("composition", seed))
    for reader in (training, selection):
        _hold(reader, device, inputs.jobs_per_gpu)
    # Collected before training, so that the record describes the inputs as they were read and invalid ones fail early.
    features = inputs.audio_features
    origin = _origin(inputs, device) | {
        "data": {split: _checksums(inputs.data / split) for split in dict.fromkeys(("train", config.select_on))},
        "audio_features": None if features is None else _features_facts(features, config.select_on),
        "frozen_features": {
            stream: _features_facts(folder, config.select_on) for stream, folder in inputs.frozen_features.items()
        },
    }
    model = _model(inputs, training)
    values = config.model_dump(mode="json")
    with refused_operators_named(), monitor(inputs.monitor, out.absolute(), values) as report:
        result = train_model(
            model,
            training,
            selection,
            config.training,
            seed=config.seed_of("order", seed),
            device=device,
            out=out,
            identity=_identity(inputs),
            report=report,
        )
    return {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "metric": model.task.metric.name,
        "selected_on": config.select_on,
        "training_clips": len(training.clips),
        **vars(result),
        "checkpoint": sha256_of(out / "best.safetensors"),
        "checkpoint_bytes": (out / "best.safetensors").stat().st_size,
        **origin,
        **_finished(started),
    }


def evaluate(
    inputs: RunInputs, split: str, run: Path, condition: NamedCondition | None = None, out: Path | None = None
) -> None:
    """Evaluate the trained run in the folder `run` on a split and write its metrics and predictions to `out`.

    By default that is `run/split`. Under a condition the split is disturbed, and the default is
    `run` / :attr:`NamedCondition.folder`; thresholds stay those of the checkpoint.

    Raises:
        LavishError: a condition for another split than the test split, or of a stream that the run does not read.
    """
    from lavish.io.checksums import sha256_of
    from lavish.training.device import memory_errors_explained, peak_memory
    from lavish.training.evaluation import evaluate as evaluate_model
    from lavish.training.evaluation import forward_pass, write_evaluation

    started = time.monotonic()
    config, features = inputs.config, inputs.audio_features
    checkpoint = run / "best.safetensors"
    model, reader, device = _trained(inputs, split, checkpoint, condition)
    origin = _origin(inputs, device) | {
        "config": config.model_dump(mode="json"),
        "seed": inputs.seed,
        "checkpoint": sha256_of(checkpoint),
        "data": {split: _checksums(inputs.data / split)},
        "audio_features": None if features is None else sha256_of(features / f"{split}.npy"),
        "frozen_features": {
            stream: sha256_of(folder / f"{split}.npy") for stream, folder in inputs.frozen_features.items()
        },
    }
    if condition is not None:
        origin["condition"] = condition.model_dump(mode="json")
    if inputs.audio_encoder_weights is not None:
        origin["audio_encoder_weights"] = _weights_facts(inputs.audio_encoder_weights)
    forward = forward_pass(model, device, config.training)
    with memory_errors_explained(config.training, inputs.jobs_per_gpu, backward=False):
        result = evaluate_model(model, forward, reader, config.training.batch_size, device)
    out = out or run / (split if condition is None else condition.folder)
    write_evaluation(result, out, origin | {"peak_memory_bytes": peak_memory(device)} | _finished(started))


def predict_examples(inputs: RunInputs, split: str, run: Path, count: int) -> ExamplePredictions:
    """Return the predictions of a trained run for `count` clips, evenly distributed over a split."""
    from lavish.training.device import memory_errors_explained
    from lavish.training.examples import evenly_distributed, predict

    options = inputs.config.training
    model, reader, device = _trained(inputs, split, run / "best.safetensors")
    chosen = evenly_distributed(len(reader.store), count)
    with memory_errors_explained(options, inputs.jobs_per_gpu, backward=False):
        return predict(model, reader, chosen, options.batch_size, device, options.precision)


def _trained(
    inputs: RunInputs, split: str, checkpoint: Path, condition: NamedCondition | None = None
) -> tuple[AudioVisualModel, SplitReader, torch.device]:
    """Return a trained model on its device, and the reader of the split, under a condition if one is given."""
    from lavish.models.weights import read_weights
    from lavish.training.device import place

    device = _device(inputs)
    reader = _reader(inputs, split) if condition is None else _disturbed_reader(inputs, split, condition, device)
    _hold(reader, device, inputs.jobs_per_gpu)
    model = _model(inputs, reader, statistics=_statistics(inputs.data / "train"))
    model.load_trainable_state(read_weights(checkpoint), checkpoint)
    place(model, device, inputs.config.training.precision)
    return model, reader, device


def _device(inputs: RunInputs) -> torch.device:
    """Return the device of a run with its seeds set; LavishError for a precision that it does not have."""
    from lavish.training.device import check_device, choose, seed_everything

    options = inputs.config.training
    device = choose(inputs.device, options.cpu_threads, inputs.jobs_per_gpu, tf32=options.tf32)
    check_device(device, options)
    seed = inputs.config.seed_of("initialisation", inputs.seed)  # the model is built next
    seed_everything(seed, deterministic=options.deterministic)
    return device


def _identity(inputs: RunInputs) -> str:
    """Return what a training must have in common with an interrupted one that it goes on with."""
    from lavish.planning.identities import with_code, without_places

    return digest(without_places(with_code(inputs.config)), inputs.seed, RECIPE_VERSION)


def _reader(inputs: RunInputs, split: str) -> SplitReader:
    from lavish.data.store.batches import SplitReader
    from lavish.learner.build import streams_of

    features = None
    if inputs.config.audio_encoder is not None:
        if inputs.audio_features is None:
            raise LavishError("the configuration has an audio_encoder: give its features with --audio-features")
        features = inputs.audio_features / f"{split}.npy"
    frozen = {stream: folder / f"{split}.npy" for stream, folder in inputs.frozen_features.items()}
    return SplitReader(inputs.data / split, streams_of(inputs.config.modalities), features, frozen)


def _disturbed_reader(inputs: RunInputs, split: str, named: NamedCondition, device: torch.device) -> SplitReader:
    """Return the reader of a split under a condition: a disturbed stream is encoded anew."""
    import numpy as np

    from lavish.data.store.conditions import disturb
    from lavish.learner.build import input_statistics
    from lavish.models.audio_encoders.build import build
    from lavish.training.features import encoded_batches

    config, stream = inputs.config, named.stream
    where = f"condition '{named.name}'"
    if split != "test":
        raise LavishError(f"{where} is for the test split, not for '{split}': give --split test")
    if stream not in config.streams_read:
        raise LavishError(f"{where} disturbs the {stream} stream, which this run does not read: leave it out")
    if stream in inputs.frozen_features:
        raise LavishError(f"--frozen-features {stream}: {where} disturbs this stream: leave the option out")
    heard = config.audio_encoder if stream == "audio" else None
    # Features on disk are those of the sound as it is.
    reader = _reader(
        replace(inputs, config=config.model_copy(update={"audio_encoder": None})) if heard else inputs, split
    )
    statistics = input_statistics(config.normalisation, _statistics(inputs.data / "train"))
    # As the model computes them, so that exactly zeros are left.
    pixels = 255 * np.array(statistics["frame_statistics"][0], np.float32)
    disturb(reader.store, named.condition, {"visual": pixels, "audio": statistics["audio_statistics"][0]})
    if heard is not None:
        if inputs.audio_encoder_weights is None:
            raise LavishError(f"{where} changes what the audio_encoder hears: give it with --audio-encoder-weights")
        encoder = build(heard.kind, heard.spec, inputs.audio_encoder_weights).to(device)
        encoder.check_store(reader.store)
        reader.use_audio_features(np.concatenate([*encoded_batches(encoder, reader.store, device=device)]))
    return reader


def _hold(reader: SplitReader, device: torch.device, jobs: int) -> None:
    """Keep a split on a GPU if it takes at most an eighth of this job's part of the memory that is free."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reader.hold(device, free // (8 * jobs))


def _model(inputs: RunInputs, reader: SplitReader, statistics: dict[str, Any] | None = None) -> AudioVisualModel:
    from lavish.learner.build import build_model

    model = build_model(
        inputs.config,
        classes=reader.store.classes,
        vocabulary=reader.store.vocabulary,
        statistics=statistics or reader.store.statistics,
        weights=inputs.weights,
        audio_weights=inputs.audio_weights,
        valid_frames=reader.store.valid_frames,
        audio_feature_dim=reader.audio_feature_dim,
        compiled=inputs.config.training.compile,
    )
    layouts = {str(stream): layout for stream, layout in model.layouts.items()}
    for stream, width in reader.frozen_dims.items():
        layout = layouts.get(stream)
        if layout is None:
            raise LavishError(f"--frozen-features {stream}: this run has no constant {stream} features")
        if layout.width != width:
            raise LavishError(
                f"{inputs.frozen_features[stream]} has {width} numbers an image, but this backbone and task need "
                f"{layout.width}: the features belong to another run"
            )
    return model


def _statistics(split: Path) -> dict[str, Any]:
    return json.loads((split / "statistics.json").read_text(encoding="utf-8"))


def _checksums(split: Path) -> dict[str, str]:
    return json.loads((split / "store.json").read_text(encoding="utf-8"))["checksums"]


def _origin(inputs: RunInputs, device: torch.device) -> dict[str, Any]:
    """Return the entries of every record on code, machine and frozen weights."""
    import torch

    from lavish import provenance
    from lavish.training.device import gpu_facts

    return {
        "recipe_version": RECIPE_VERSION,
        "git": provenance.git_state(),
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "device": "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device),
        "gpu": gpu_facts(device),
        "weights": _weights_facts(inputs.weights),
        **({} if inputs.audio_weights is None else {"audio_weights": _weights_facts(inputs.audio_weights)}),
    }


def _finished(started: float) -> dict[str, Any]:
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job_seconds": time.monotonic() - started,
    }


def _weights_facts(weights: Path) -> dict[str, Any]:
    """Return the origin of frozen weights and the measured sha256 of the file."""
    from lavish.io.checksums import sha256_of
    from lavish.models.weights import read_description, read_weights

    read_weights(weights, only_header=True)
    measured = sha256_of(weights)
    return {"path": str(weights), **read_description(weights, measured), "sha256": measured}


def _features_facts(folder: Path, selected_on: str) -> dict[str, str]:
    """Return the checksums of the features that training read from a folder."""
    from lavish.io.checksums import sha256_of

    return {split: sha256_of(folder / f"{split}.npy") for split in dict.fromkeys(("train", selected_on))}
