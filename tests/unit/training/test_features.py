"""Features of the separate audio encoder: one per segment of every clip of a prepared split, in the store's order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavish.errors import LavishError
from lavish.models.audio_encoders.base import AudioEncoder
from lavish.models.audio_encoders.build import build
from lavish.training.features import encode_split

CLIPS, SEGMENTS, STEP_SECONDS, RATE = 5, 3, 0.2, 16000
SPECTROGRAM: dict[str, Any] = {
    "sample_rate": RATE,
    "mel_bins": 16,
    "shift_ms": 12.0,
    "length_ms": 25.0,
    "frames": 16,
    "window_seconds": 0.2,
    "window_margin": 0.0,
}
TRANSFORMER: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "mel_bins": 16,
    "frames": 16,
    "patch_mel": 16,
    "patch_frames": 4,
    "shift_ms": 12.0,
    "window_seconds": 0.2,
}
WHISPER: dict[str, Any] = {"dim": 16, "depth": 1, "heads": 2, "mel_bins": 20, "positions": 40}


def write_split(folder: Path, **spectrogram: Any) -> Path:
    """Write a prepared split of random sound: what `lavish prepare` leaves, as far as audio encoders read it."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.save(folder / "frames.npy", np.zeros((CLIPS, SEGMENTS, 4, 4, 3), np.uint8))
    np.save(folder / "log_mels.npy", generator.normal(-5, 3, (CLIPS, SEGMENTS, 16, 16)).astype(np.float16))
    samples = round(SEGMENTS * STEP_SECONDS * RATE)
    np.save(folder / "waveforms.npy", generator.integers(-9000, 9000, (CLIPS, samples)).astype(np.int16))
    np.savez(folder / "targets.npz", labels=np.zeros((CLIPS, SEGMENTS), np.int64))
    np.save(folder / "units.npy", np.arange(CLIPS))
    (folder / "clips.csv").write_text("clip\n" + "".join(f"-clip{index}\n" for index in range(CLIPS)))
    (folder / "report.csv").write_text("clip,status,reason\n")
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.2] * 3}, "log_mels": {"mean": -5.0, "std": 3.0}}
    (folder / "statistics.json").write_text(json.dumps(statistics))
    config = {"segments": SEGMENTS, "segment_seconds": STEP_SECONDS, "spectrogram": SPECTROGRAM | spectrogram}
    arrays = {path.name: np.load(path) for path in folder.glob("*.npy")}
    manifest = {
        "vocabulary": 0,
        "format": "ave",
        "classes": ["a"],
        "segments": SEGMENTS,
        "valid_frames": 15,
        "config": config,
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
        "sizes": {path.name: path.stat().st_size for path in folder.iterdir()},
        "checksums": {},
    }
    (folder / "store.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(params=["transformer", "whisper"])
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    return build(request.param, {"transformer": TRANSFORMER, "whisper": WHISPER}[request.param])


def test_one_feature_per_step_of_each_clip(tmp_path: Path, encoder: AudioEncoder) -> None:
    split = write_split(tmp_path / "train")
    encode_split(encoder, split, tmp_path / "out" / "train.npy", batch_size=2, progress=False)
    features = np.load(tmp_path / "out" / "train.npy")
    assert features.dtype == np.float32
    assert features.shape == (CLIPS, SEGMENTS, 16)
    sound = np.load(split / f"{encoder.reads}.npy")
    with torch.inference_mode():
        for clip in range(CLIPS):
            alone = encoder.encode_clip_batch(torch.from_numpy(sound[clip : clip + 1]), SEGMENTS, STEP_SECONDS)[0]
            np.testing.assert_allclose(features[clip], alone.numpy(), atol=1e-5)


def test_features_of_different_steps_differ(tmp_path: Path, encoder: AudioEncoder) -> None:
    encode_split(encoder, write_split(tmp_path / "val"), tmp_path / "val.npy", progress=False)
    features = np.load(tmp_path / "val.npy").reshape(CLIPS * SEGMENTS, -1)
    assert len(np.unique(features.round(4), axis=0)) == CLIPS * SEGMENTS


def test_same_bytes_again_and_nothing_else_left(tmp_path: Path, encoder: AudioEncoder) -> None:
    split = write_split(tmp_path / "test")
    for name in ("first.npy", "second.npy"):
        encode_split(encoder, split, tmp_path / "out" / name, progress=False)
    first, second = (tmp_path / "out" / name for name in ("first.npy", "second.npy"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted((tmp_path / "out").iterdir()) == [first, second]


def test_features_that_are_not_finite_name_the_clip(tmp_path: Path) -> None:
    split = write_split(tmp_path / "train")
    log_mels = np.load(split / "log_mels.npy")
    log_mels[2, 1, 0, 0] = np.nan
    np.save(split / "log_mels.npy", log_mels)
    with pytest.raises(LavishError, match="clip '-clip2' are not finite"):
        encode_split(build("transformer", TRANSFORMER), split, tmp_path / "train.npy", progress=False)
    assert not (tmp_path / "train.npy").exists()


def test_other_spectrogram_settings_are_refused(tmp_path: Path) -> None:
    split = write_split(tmp_path / "train", shift_ms=10.0)
    with pytest.raises(
        LavishError, match=r"shift_ms 10\.0, this audio encoder takes 12\.0.*audio_encoder\.spec\.shift_ms"
    ):
        encode_split(build("transformer", TRANSFORMER), split, tmp_path / "train.npy", progress=False)


def test_whisper_refuses_other_sample_rates(tmp_path: Path) -> None:
    split = write_split(tmp_path / "train", sample_rate=22050)
    with pytest.raises(LavishError, match=r"22050 Hz.*set data\.spectrogram\.sample_rate to 16000"):
        encode_split(build("whisper", WHISPER), split, tmp_path / "train.npy", progress=False)
