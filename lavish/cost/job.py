"""The costs of a run, counted from its configuration alone."""

from __future__ import annotations

from typing import Any

from lavish.config.schema import RunConfig
from lavish.cost.counter import count, count_backbone, example_clips
from lavish.learner.uninitialised import uninitialised_model
from lavish.models.backbones.build import classifier_sizes


def count_run(config: RunConfig) -> dict[str, Any]:
    """Return parameters and multiply-adds of one clip (see :func:`lavish.cost.counter.count`) and of the backbone alone.

    Needs neither data nor weights.
    """
    data = config.data
    model, encoder = uninitialised_model(config)
    feature_dim = encoder.feature_dim if encoder else 0
    extra = None if encoder is None else (encoder, encoder.example_inputs(data.segments, data.segment_seconds))
    counts = count(model, example_clips(model, data, feature_dim), data.segments, extra)
    heads = classifier_sizes(config.backbone.model) if config.backbone.classifier == "counted" else (0, 0)
    alone = count_backbone(model.encoder.backbone, data.frame_size, *heads)
    counts["total_params"] += alone["classifier_params"]
    return {**counts, **alone}
