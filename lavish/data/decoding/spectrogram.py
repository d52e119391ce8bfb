"""Log-mel spectrograms of one audio window per segment, as LAVISH computes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from lavish.data.decoding.windows import count_valid_frames, window_starts


def log_mels(
    waveform: Tensor,
    *,
    segments: int,
    sample_rate: int,
    mel_bins: int,
    shift_ms: float,
    length_ms: float,
    frames: int,
    window_seconds: float,
    window_margin: float,
) -> Tensor:
    """Return the log-mel spectrograms of a clip.

    Args:
        waveform: (samples,) float in [-1, 1], mono. Its mean over the clip is subtracted first.
        segments: number of windows, see :func:`~lavish.data.decoding.windows.window_starts`; a window that extends past
            the end of the clip is zero-padded.
        sample_rate: samples per second.
        mel_bins: triangular mel filters between 20 Hz and half the sample rate.
        shift_ms: hop of the analysis frames, milliseconds.
        length_ms: length of an analysis frame, milliseconds.
        frames: analysis frames returned per window; see :func:`~lavish.data.decoding.windows.count_valid_frames` for
            those that hold audio.
        window_seconds: length of the window of a segment.
        window_margin: seconds between the end of the last window and the end of the clip.

    Returns:
        (segments, mel_bins, frames) float32: natural logarithms of the mel energies, not normalised.

    Source: LAVISH (arXiv 2212.07983), public code, AVE data loader.
    """
    valid_frames = count_valid_frames(
        sample_rate=sample_rate, shift_ms=shift_ms, length_ms=length_ms, frames=frames, window_seconds=window_seconds
    )
    starts = window_starts(
        len(waveform),
        segments=segments,
        sample_rate=sample_rate,
        window_seconds=window_seconds,
        window_margin=window_margin,
    )
    size = int(sample_rate * window_seconds)
    waveform = waveform.to(torch.float32)
    waveform = waveform - waveform.mean()
    waveform = torch.nn.functional.pad(waveform, (0, max(0, starts[-1] + size - len(waveform))))
    banks = [
        kaldi.fbank(
            waveform[None, start : start + size],
            htk_compat=True,
            sample_frequency=sample_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=mel_bins,
            dither=0.0,
            frame_shift=shift_ms,
            frame_length=length_ms,
        )[:valid_frames]
        for start in starts
    ]
    return torch.nn.functional.pad(torch.stack(banks).transpose(1, 2), (0, frames - valid_frames))
