"""Builds the model of a resolved configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.learner.frozen_features import FeatureLayout
from lavish.learner.model import IMAGENET_MEAN, IMAGENET_STD, AudioVisualModel, FrozenStream
from lavish.models.backbones.build import build_backbone
from lavish.models.interfaces import STREAMS, Stream
from lavish.tasks.base import FeatureShape
from lavish.tasks.registry import build_task

if TYPE_CHECKING:
    from lavish.config.schema import (
        BackboneConfig,
        FrozenStreamConfig,
        NormalisationConfig,
        RunConfig,
    )
    from lavish.data.store.store import SplitStore
    from lavish.models.backbones.base import Backbone
    from lavish.tasks.base import Task


def streams_of(modalities: str) -> tuple[Stream, ...]:
    """Return the streams of `modalities`; a model of one modality does not have the other stream."""
    return STREAMS if modalities == "audio_visual" else ("visual",) if modalities == "visual" else ("audio",)


def frozen_backbones(
    config: RunConfig, weights: Path | None, audio_weights: Path | None
) -> tuple[Backbone, Backbone | None]:
    """Build the backbones of ``RunConfig.used_backbones``; without files of weights, these are random."""
    first, *own_audio = config.used_backbones()
    sizes = config.data.image_sizes()
    one = _frozen(first, sizes[streams_of(config.modalities)[0]], weights)  # a shared one is built for the frames
    return one, _frozen(own_audio[0], sizes["audio"], audio_weights) if own_audio else None


def _frozen(config: BackboneConfig, size: tuple[int, int], weights: Path | None) -> Backbone:
    return build_backbone(
        config.model,
        config.spec,
        size,
        weights=weights,
        stochastic_depth=config.stochastic_depth,
        tune_norms=config.tune_norms,
        positions=config.positions,
    )


def build_model(
    config: RunConfig,
    *,
    classes: list[str],
    vocabulary: int,
    statistics: dict[str, Any],
    weights: Path | None,
    audio_weights: Path | None = None,
    valid_frames: int | None = None,
    audio_feature_dim: int = 0,
    backbones: tuple[Backbone, Backbone | None] | None = None,
    compiled: bool = False,
) -> AudioVisualModel:
    """Build the model of a resolved configuration from torch's current random state.

    Args:
        config: the run.
        classes: names of the data set's classes.
        vocabulary: number of words in its questions.
        statistics: statistics of the training split, the content of ``statistics.json``.
        weights: the frozen backbone's safetensors file; None: random weights (cost counting).
        audio_weights: that of the audio stream's own backbone, if it has one.
        valid_frames: columns of a log-mel spectrogram that are not padding; None: all.
        audio_feature_dim: width of the separate audio encoder's features, 0 without one.
        backbones: the frozen backbones, if they have been built already.
        compiled: compile the method's modules, for a GPU.
    """
    streams = streams_of(config.modalities)
    backbone, audio_backbone = backbones or frozen_backbones(config, weights, audio_weights)
    sizes = config.data.image_sizes()
    fusion = config.fusion
    encoder = TwoStreamEncoder(
        backbone,
        audio_backbone=audio_backbone,
        streams=streams,
        method=config.adapter.method,
        options=config.adapter.options,
        direction=fusion.direction,
        position=fusion.position,
        arrangement=fusion.arrangement,
        layers=fusion.layers,
        adapted=fusion.adapted,
        sizes=sizes,
        segments=config.data.segments,
        recompute=config.training.recompute,
        compiled=compiled,
    )
    replace = config.audio_encoder is not None and config.audio_encoder.use == "replace"
    for stream, own in encoder.backbones.items():
        if stream == "visual" and own.in_channels != 3:
            raise LavishError(
                f"backbone.model '{config.used_backbones()[0].model}' takes spectrograms of one channel, not frames: "
                "name it as `backbones: {audio: ...}`"
            )
        own.grid_sizes(sizes[stream])
    widths = [encoder.feature_dim(stream) for stream in streams if not (stream == "audio" and replace)]
    if audio_feature_dim:
        widths.append(audio_feature_dim)
    grids = backbone.grid_sizes(sizes[streams[0]])
    shape = FeatureShape(
        widths=widths,
        stages=[(backbone.widths[end], *grids[end]) for end in backbone.stage_ends],
        token_width=backbone.feature_dim,
        classes=classes,
        vocabulary=vocabulary,
        segments=config.data.segments,
        frame_size=config.data.frame_size,
        streams=streams,
        separate_audio=bool(audio_feature_dim),
    )
    task = build_task(config.task.name, shape, config.task.options)
    return AudioVisualModel(
        encoder,
        task,
        **input_statistics(config.normalisation, statistics),
        valid_frames=valid_frames,
        replace_audio=replace,
        layouts=_layouts(config, task, encoder) if config.frozen else None,
    )


def _layouts(config: RunConfig, task: Task, encoder: TwoStreamEncoder) -> dict[Stream, FeatureLayout]:
    """Return the layouts of features that the workflow may have computed once."""
    if task.head_reads is None:
        return {}
    sizes, backbones = config.data.image_sizes(), encoder.backbones
    kept = config.kept_features(task.head_reads)
    return {stream: FeatureLayout(backbones[stream], sizes[stream], kept[stream]) for stream in kept}


def build_frozen_stream(
    config: FrozenStreamConfig, store: SplitStore, statistics: dict[str, Any], weights: Path
) -> FrozenStream:
    """Build the encoder that computes a stream's features of the frozen backbone once.

    Args:
        config: the stream, its backbone and what is kept.
        store: a split that is encoded.
        statistics: statistics of the training split, the content of ``statistics.json``.
        weights: the frozen backbone's safetensors file.
    """
    stream, backbone = config.stream, config.backbone
    size = store.frames.shape[2:4] if stream == "visual" else store.log_mels.shape[2:4]
    frozen = _frozen(backbone, size, weights)
    no_head: Any = nn.Identity()
    model = AudioVisualModel(
        TwoStreamEncoder(frozen, streams=(stream,), method="none"),
        no_head,
        **input_statistics(config.normalisation, statistics),
        valid_frames=store.valid_frames,
        layouts={stream: FeatureLayout(frozen, size, config.kept)},
    )
    return FrozenStream(model, stream)


def input_statistics(normalisation: NormalisationConfig, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the statistics that normalise both streams, as arguments of the model."""
    frames, (mean, std) = measured["frames"], (measured["log_mels"]["mean"], measured["log_mels"]["std"])
    # The model divides by twice the standard deviation.
    audio = {"train": (mean, std), "standardised": (mean, std / 2)}
    return {
        "frame_statistics": (list(IMAGENET_MEAN), list(IMAGENET_STD))
        if normalisation.frames == "imagenet"
        else (frames["mean"], frames["std"]),
        "audio_statistics": audio[normalisation.audio] if isinstance(normalisation.audio, str) else normalisation.audio,
    }
