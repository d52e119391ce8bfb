"""The job that counts the cost of a run from its configuration, without data or weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lavish.config.schema import RunConfig
from lavish.cost.counter import count_backbone, count_macs, count_parameters, example_clips
from lavish.learner.uninitialised import uninitialised_model
from lavish.models.backbones.build import classifier_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lavish.learner.model import AudioVisualModel
    from lavish.models.audio_encoders.base import AudioEncoder
    from lavish.models.backbones.base import Backbone


def count_run(config: RunConfig) -> dict[str, Any]:
    """Return the parameters of a run, its multiply-adds for one clip, and those of the backbones for one image each."""
    data = config.data
    model, encoder = uninitialised_model(config)
    feature_dim = encoder.feature_dim if encoder else 0
    extra = None if encoder is None else (encoder, encoder.example_inputs(data.segments, data.segment_seconds))
    macs = count_macs(model, example_clips(model, data, feature_dim), data.segments, extra)
    alone = sum(
        count_backbone(backbone, size) + classifiers * backbone.feature_dim * classes
        for backbone, size, classifiers, classes in _backbones(config, model)
    )
    return count_run_parameters(config, model, encoder) | macs | {"backbone_macs": alone}


def count_run_parameters(
    config: RunConfig, model: AudioVisualModel, audio_encoder: AudioEncoder | None
) -> dict[str, int]:
    """Return the parameters of a run; `backbone.classifier` decides whether those of pretraining classifiers count."""
    counts = count_parameters(model, audio_encoder)
    counts["classifier_params"] = sum(
        classifiers * (backbone.feature_dim + 1) * classes
        for backbone, _, classifiers, classes in _backbones(config, model)
    )
    counts["total_params"] += counts["classifier_params"]
    return counts


def _backbones(config: RunConfig, model: AudioVisualModel) -> Iterator[tuple[Backbone, tuple[int, int], int, int]]:
    """Yield each backbone, its images' size, and how many pretraining classifiers of how many classes count with it."""
    encoder, sizes = model.encoder, config.data.image_sizes()
    own = encoder.backbones
    # A shared backbone is counted on frames.
    for stream, described in zip(encoder.streams, config.used_backbones(), strict=False):
        counted = described.classifier == "counted"
        yield (own[stream], sizes[stream], *(classifier_sizes(described.model) if counted else (0, 0)))
