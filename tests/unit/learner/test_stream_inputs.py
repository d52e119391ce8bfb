"""Models whose streams have backbones and inputs of their own, built from a configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.learner.build import build_model
from lavish.learner.uninitialised import uninitialised_model
from tests.stores import run_values

SWIN: dict[str, Any] = {
    "model": "swinv2_tiny_window8_256.ms_in1k",
    "weights": {"source": "random"},
    "spectrogram": {"mel_bins": 64, "frames": 64},
}


def configured(modalities: str = "audio_visual", **backbones: Any) -> RunConfig:
    values = run_values(modalities=modalities, adapter={"method": "none"}, backbones=backbones)
    return parse(RunConfig, values, "test").resolved()


@pytest.mark.parametrize("modalities", ["audio_visual", "audio"])
def test_each_backbone_is_built_for_the_images_of_its_stream(modalities: str) -> None:
    model, _ = uninitialised_model(configured(modalities, audio=SWIN))
    backbones = model.encoder.backbones
    assert backbones["audio"].image_size == (64, 64)
    if modalities == "audio_visual":
        assert backbones["visual"].image_size == (16, 16)
        assert model.encoder.feature_dim("audio") != model.encoder.feature_dim("visual")


def test_frames_do_not_go_into_a_backbone_of_one_channel() -> None:
    sounds = {**run_values()["backbone"], "spec": {"in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2}}  # type: ignore[dict-item]
    with pytest.raises(LavishError, match=r"takes spectrograms of one channel, not frames.*backbones"):
        uninitialised_model(configured(visual=sounds))


@pytest.mark.parametrize(("normalisation", "expected"), [("train", 0.5), ("standardised", 1.0), ((-5.0, 1.0), 1.5)])
def test_contrast_of_the_spectrograms(normalisation: Any, expected: float) -> None:
    config = parse(RunConfig, run_values(normalisation={"audio": normalisation}), "test").resolved()
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.2] * 3}, "log_mels": {"mean": -5.0, "std": 3.0}}
    model = build_model(config, classes=["a"], vocabulary=0, statistics=statistics, weights=None)
    brighter = torch.full((1, 16, 16), -5.0 + 3.0)  # by a standard deviation of the training split
    assert model.images("audio", brighter).mean().item() == pytest.approx(expected)
