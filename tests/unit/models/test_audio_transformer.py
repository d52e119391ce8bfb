"""The small log-mel transformer and its pretraining on made-up sounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavish.config.schema import AudioEncoderConfig, PretrainConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.models.audio_encoders.build import build
from lavish.models.audio_encoders.transformer import AudioTransformer
from lavish.models.weights import write_weights
from lavish.training.pretraining.sounds import draw_mixtures, pretrain, train_encoder

SMALL: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mel_bins": 16,
    "frames": 16,
    "patch_mel": 16,
    "patch_frames": 4,
    "shift_ms": 12.0,
    "sample_rate": 8000,
    "window_seconds": 0.2,
}
RECIPE = PretrainConfig(instances=8, samples=192, batch_size=32, epochs=4, lr=1e-2)


class Tones:
    """Two classes anything can tell apart, low and high tones; records what was asked for."""

    def __init__(self) -> None:
        self.classes = ["low", "high"]
        self.asked: set[tuple[int, str, int]] = set()

    def sound(self, class_index: int, split: str, instance: int, sample_rate: int, seconds: float) -> np.ndarray:
        self.asked.add((class_index, split, instance))
        hertz = (300, 2500)[class_index] * (1 + 0.01 * instance)
        return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(sample_rate * seconds)) / sample_rate)).astype(
            np.float32
        )


def encoder(**spec: Any) -> AudioTransformer:
    built = build("transformer", SMALL | spec)
    assert isinstance(built, AudioTransformer)
    return built


def test_shapes() -> None:
    model = encoder()
    log_mels = model.example_inputs(3, 0.2)
    assert log_mels.shape == (3, 16, 16)
    assert model(log_mels).shape == (3, 16)
    assert model.tokens(log_mels).shape == (3, 4, 16)
    assert model.feature_dim == 16
    assert model.encode_clip_batch(torch.zeros(5, 3, 16, 16, dtype=torch.float16), 3, 0.2).shape == (5, 3, 16)


def test_steps_are_encoded_apart_and_in_order() -> None:
    model = encoder()
    clips = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = model.encode_clip_batch(clips, 3, 0.2)
    torch.testing.assert_close(together[1, 2], model(clips[1, 2:3])[0])


def test_reacts_to_where_in_the_picture_the_energy_is() -> None:
    model = encoder(patch_mel=4)
    picture = torch.zeros(1, 16, 16)
    low, high = picture.clone(), picture.clone()
    low[:, :4], high[:, -4:] = 1.0, 1.0
    assert not torch.allclose(model(low), model(high), atol=1e-4)


def test_normalises_with_the_saved_statistics(tmp_path: Path) -> None:
    model = encoder()
    model.set_statistics(-3.0, 2.0)
    log_mels = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(2 * log_mels - 3), encoder()(log_mels))
    write_weights(model.state_dict(), tmp_path / "w.safetensors", {})
    again = build("transformer", SMALL, tmp_path / "w.safetensors")
    assert torch.equal(again(log_mels), model(log_mels))


def test_padding_columns_do_not_count() -> None:
    # 0.2 s at 12 ms hold 15 analysis frames of the 16.
    model = encoder()
    log_mels = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    other = log_mels.clone()
    other[..., 15] += 9.0
    assert torch.equal(model(log_mels), model(other))
    other[..., 14] += 9.0
    assert not torch.equal(model(log_mels), model(other))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"patch_mels": 4}, r"no option 'patch_mels' \(did you mean 'patch_mel'\?\)"),
        ({"dim": "wide"}, "option 'dim'"),
        ({"dim": 15}, "multiple of `heads`"),
        ({"patch_frames": 5}, r"\(16 x 5\) do not tile .* \(16 x 16\)"),
        ({"depth": 0}, "must be positive"),
    ],
)
def test_wrong_sizes_are_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(LavishError, match=message):
        encoder(**spec)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    write_weights(encoder().state_dict(), tmp_path / "w.safetensors", {})
    with pytest.raises(LavishError, match=r"w\.safetensors does not fit .* not in the file \('blocks\.1\."):
        build("transformer", SMALL | {"depth": 2}, tmp_path / "w.safetensors")


def test_pretraining_learns_what_held_out_instances_share() -> None:
    library = Tones()
    tensors, metadata = train_encoder(SMALL, RECIPE, library, progress=False)
    assert metadata["measured"]["label_accuracy"] > 0.9
    assert metadata["classes"] == ["low", "high"]
    assert {instance for _, split, instance in library.asked if split == "val"} <= {0, 1}
    assert {split for _, split, _ in library.asked} == {"train", "val"}
    assert tensors["input_std"] > 0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_pretraining_repeats_exactly() -> None:
    recipe = RECIPE.model_copy(update={"samples": 40, "epochs": 1})
    torch.manual_seed(1)
    first, _ = train_encoder(SMALL, recipe, Tones(), progress=False)
    torch.manual_seed(2)
    second, _ = train_encoder(SMALL, recipe, Tones(), progress=False)
    other, _ = train_encoder(SMALL, recipe.model_copy(update={"seed": 1}), Tones(), progress=False)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not torch.equal(first["positions"], other["positions"])


def test_mixtures_hold_none_one_and_two_sounds() -> None:
    mixtures = draw_mixtures(encoder().spectrogram, Tones(), "train", 8, 60, 0, progress=False)
    assert mixtures.log_mels.shape == (60, 16, 16)
    assert set(mixtures.labels.sum(dim=1).tolist()) == {0.0, 1.0, 2.0}


def test_pretraining_writes_weights_that_the_encoder_reads(tmp_path: Path) -> None:
    out = tmp_path / "encoder.safetensors"
    pretrain(SMALL, PretrainConfig(instances=2, samples=8, batch_size=4, epochs=1), out)
    metadata = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert metadata["kind"] == "transformer"
    assert metadata["spec"] == SMALL
    assert len(metadata["sha256"]) == 64
    build("transformer", SMALL, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_configuration_names_a_misspelt_key() -> None:
    values = {"kind": "transformer", "weights": {"source": "random"}, "spec": {"dpeth": 2}}
    with pytest.raises(
        LavishError, match=r"audio_encoder 'transformer' has no option 'dpeth' \(did you mean 'depth'\?\)"
    ):
        parse(AudioEncoderConfig, values, "config.yaml")
