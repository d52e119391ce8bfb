"""Log-mels: the published recipe, window by window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchaudio.compliance import kaldi

from lavish.config.schema import SpectrogramConfig
from lavish.data.decoding.spectrogram import log_mels
from lavish.data.decoding.windows import count_valid_frames, window_starts
from lavish.errors import LavishError

RATE = 16000
AVE_SWIN = SpectrogramConfig(mel_bins=192, shift_ms=5.2, frames=192)
AVE_VIT = SpectrogramConfig(mel_bins=128, shift_ms=10.0, frames=102)
DEFAULT = SpectrogramConfig()


def noise(seconds: float, offset: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(round(seconds * RATE), generator=generator) + offset


def heard(config: SpectrogramConfig) -> int:
    keys = ("sample_rate", "shift_ms", "length_ms", "frames", "window_seconds", "filter_bank")
    return count_valid_frames(**{key: getattr(config, key) for key in keys})


@pytest.mark.parametrize(
    ("config", "seconds", "segments", "frames"), [(AVE_SWIN, 10, 10, 188), (AVE_VIT, 10, 10, 98), (DEFAULT, 3, 3, 48)]
)
def test_the_recipe_of_the_public_code(config: SpectrogramConfig, seconds: int, segments: int, frames: int) -> None:
    waveform = noise(seconds)
    mels = log_mels(waveform, segments=segments, **config.model_dump())
    assert mels.shape == (segments, config.mel_bins, config.frames)
    assert heard(config) == frames
    centred = waveform - waveform.mean()
    for segment, start in enumerate(np.linspace(0, len(waveform) - RATE * 1.1, num=segments, dtype=int)):
        expected = kaldi.fbank(
            centred[None, start : start + RATE],
            htk_compat=True,
            sample_frequency=RATE,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=config.mel_bins,
            dither=0.0,
            frame_shift=config.shift_ms,
        )[: config.frames]
        torch.testing.assert_close(mels[segment, :, :frames], expected.T, atol=1e-4, rtol=0)
    assert not mels[..., frames:].any()


def test_the_filters_are_those_of_the_definition() -> None:
    """HTK mel scale, triangles on it, pre-emphasis, power spectrum: computed here once more."""
    waveform = noise(1.2, offset=0.0).double().numpy()
    mels = log_mels(torch.from_numpy(waveform), segments=1, **DEFAULT.model_dump())
    piece = (waveform - waveform.mean())[320 * 7 : 320 * 7 + 400]
    piece = piece - piece.mean()
    piece = (piece - 0.97 * np.concatenate((piece[:1], piece[:-1]))) * np.hanning(400)
    power = np.abs(np.fft.rfft(piece, 512))[:256] ** 2
    mel = 1127 * np.log1p(np.arange(256) * RATE / 512 / 700)
    edges = np.linspace(1127 * math.log1p(20 / 700), 1127 * math.log1p(8000 / 700), DEFAULT.mel_bins + 2)
    width = edges[1] - edges[0]
    filters = np.maximum(0, 1 - np.abs(mel - edges[1:-1, None]) / width)
    np.testing.assert_allclose(mels[0, :, 7].numpy(), np.log(filters @ power), atol=2e-3)


HTSAT = SpectrogramConfig(
    filter_bank="slaney", sample_rate=32000, mel_bins=64, shift_ms=10, length_ms=32, frames=104, low_hz=50,
    high_hz=14000,
)  # fmt: skip
"""What HTS-AT was trained on: 1024 samples, a hop of 320; three frames more than a second has."""


def slaney(hertz: float) -> float:
    """Mel scale of the Auditory Toolbox: linear to 1 kHz, then 27 steps for a factor of 6.4."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def slaney_hertz(mel: float) -> float:
    return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def test_the_log_mels_of_htsat_are_those_of_the_definition() -> None:
    """Centred frames of the mirrored window, periodic Hann window, filters of equal area, decibels."""
    generator = torch.Generator().manual_seed(0)
    waveform = 0.1 * torch.randn(3 * 32000, generator=generator) + 0.05
    waveform[32000:64000] = 0
    mels = log_mels(waveform, segments=3, **HTSAT.model_dump())
    assert mels.shape == (3, 64, 104) and heard(HTSAT) == 101
    points = [slaney_hertz(mel) for mel in np.linspace(slaney(50), slaney(14000), 66)]
    filters = np.zeros((64, 513))
    for row, (low, middle, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        for column in range(513):
            hertz = column * 32000 / 1024
            filters[row, column] = max(0, min((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
        filters[row] *= 2 / (high - low)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    for segment, start in enumerate(np.linspace(0, 3 * 32000 - 1.1 * 32000, num=3, dtype=int)):
        piece = waveform[start : start + 32000].double().numpy()
        mirrored = np.concatenate([piece[512:0:-1], piece, piece[-2:-514:-1]])
        expected = np.zeros((64, 104))
        for frame in range(101):
            power = np.abs(np.fft.rfft(mirrored[320 * frame : 320 * frame + 1024] * window)) ** 2
            expected[:, frame] = 10 * np.log10(np.maximum(filters @ power, 1e-10))
        np.testing.assert_allclose(mels[segment].numpy(), expected, atol=1e-3)
    assert mels.min() == -100


def test_limits_of_kaldis_filters() -> None:
    waveform = noise(1.2)
    limited = log_mels(waveform, segments=1, **(DEFAULT.model_dump() | {"low_hz": 100.0, "high_hz": 4000.0}))
    window = (waveform - waveform.mean())[:RATE]
    expected = kaldi.fbank(
        window[None], htk_compat=True, sample_frequency=RATE, use_energy=False, window_type="hanning",
        num_mel_bins=48, dither=0.0, frame_shift=20.0, low_freq=100.0, high_freq=4000.0,
    )[:48]  # fmt: skip
    torch.testing.assert_close(limited[0], expected.T, atol=1e-4, rtol=0)


def test_a_tone_lights_the_filter_it_belongs_to_in_the_step_it_sounds() -> None:
    waveform = torch.zeros(3 * RATE)
    waveform[RATE : 2 * RATE] = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(RATE) / RATE)
    mels = log_mels(waveform, segments=3, **DEFAULT.model_dump()).mean(dim=2)
    edges = np.linspace(1127 * math.log1p(20 / 700), 1127 * math.log1p(8000 / 700), DEFAULT.mel_bins + 2)
    nearest = int(np.abs(edges[1:-1] - 1127 * math.log1p(1000 / 700)).argmin())
    assert abs(int(mels[1].argmax()) - nearest) <= 1
    assert mels[1].max() > mels[0].max() + 5


def test_windows_of_a_short_clip_are_padded_with_silence() -> None:
    assert window_starts(8000, segments=2, sample_rate=RATE, window_seconds=1.0, window_margin=0.1) == [0, 0]
    mels = log_mels(noise(0.5, offset=0.0), segments=1, **DEFAULT.model_dump())
    assert mels.shape == (1, 48, 48)
    torch.testing.assert_close(mels[0, :, -1], torch.full((48,), math.log(torch.finfo(torch.float32).eps)))


def test_windows_end_a_margin_before_the_clip() -> None:
    starts = window_starts(60 * RATE, segments=10, sample_rate=RATE, window_seconds=1.95, window_margin=0.1)
    assert starts[0] == 0
    assert starts[-1] == round((60 - 2.05) * RATE)


def test_silence_is_finite() -> None:
    assert log_mels(torch.zeros(3 * RATE), segments=3, **DEFAULT.model_dump()).isfinite().all()


@pytest.mark.parametrize(("values", "key"), [({"window_seconds": 0.02}, "length_ms"), ({"shift_ms": 0.01}, "shift_ms")])
def test_impossible_windows_name_the_key(values: dict[str, float], key: str) -> None:
    with pytest.raises(LavishError, match=f"spectrogram.{key}"):
        log_mels(noise(3), segments=3, **SpectrogramConfig(**values).model_dump())
