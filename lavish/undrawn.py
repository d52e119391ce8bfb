"""The model of a configuration to be counted and never run: without data, weights, or drawing any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lavish.audio_encoders import build
from lavish.cost import undrawn_weights
from lavish.model import AudioVisualModel, build_model, frozen_backbone

if TYPE_CHECKING:
    from lavish.audio_encoders.base import AudioEncoder
    from lavish.backbones.base import Backbone
    from lavish.config import RunConfig

_STATISTICS = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}


def undrawn_backbone(config: RunConfig) -> Backbone:
    """Build the backbone of a configuration."""
    with undrawn_weights():
        return frozen_backbone(config, None)


def undrawn_model(config: RunConfig, backbone: Backbone | None = None) -> tuple[AudioVisualModel, AudioEncoder | None]:
    """Build the model of a configuration, on a `backbone` that has been built already if one is given.

    Returns:
        The model, and the separate audio encoder where the configuration has one.
    """
    with undrawn_weights():
        encoder = build(config.audio_encoder.kind, config.audio_encoder.spec) if config.audio_encoder else None
        model = build_model(
            config,
            classes=[str(index) for index in range(config.data.num_classes)],
            vocabulary=config.data.vocabulary,
            statistics=_STATISTICS,
            weights=None,
            audio_feature_dim=encoder.feature_dim if encoder else 0,
            backbone=backbone,
        )
    return model, encoder
