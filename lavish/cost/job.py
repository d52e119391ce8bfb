"""The job that counts the cost of a run from its configuration, without data or weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lavish.config.schema import RunConfig
from lavish.cost.counter import count_backbone, count_macs, count_parameters, example_clips
from lavish.learner.uninitialised import uninitialised_model
from lavish.models.backbones.build import classifier_sizes

if TYPE_CHECKING:
    from lavish.learner.model import AudioVisualModel
    from lavish.models.audio_encoders.base import AudioEncoder


def count_run(config: RunConfig) -> dict[str, Any]:
    """Return the parameters of a run, its multiply-adds for one clip, and those of the backbone for one image."""
    data = config.data
    model, encoder = uninitialised_model(config)
    feature_dim = encoder.feature_dim if encoder else 0
    extra = None if encoder is None else (encoder, encoder.example_inputs(data.segments, data.segment_seconds))
    macs = count_macs(model, example_clips(model, data, feature_dim), data.segments, extra)
    backbone = model.encoder.backbone
    classifiers, classes = _classifiers(config)
    alone = count_backbone(backbone, data.frame_size) + classifiers * backbone.feature_dim * classes
    return count_run_parameters(config, model, encoder) | macs | {"backbone_macs": alone}


def count_run_parameters(
    config: RunConfig, model: AudioVisualModel, audio_encoder: AudioEncoder | None
) -> dict[str, int]:
    """Return the parameters of a run; `backbone.classifier` decides whether those of pretraining classifiers count."""
    counts = count_parameters(model, audio_encoder)
    classifiers, classes = _classifiers(config)
    counts["classifier_params"] = classifiers * (model.encoder.backbone.feature_dim + 1) * classes
    counts["total_params"] += counts["classifier_params"]
    return counts


def _classifiers(config: RunConfig) -> tuple[int, int]:
    """Return the number of linear classifiers that are counted with the backbone, and their classes."""
    return classifier_sizes(config.backbone.model) if config.backbone.classifier == "counted" else (0, 0)
