"""Log-mel spectrograms of one audio window per segment, as LAVISH or HTS-AT computes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.compliance import kaldi
from torchaudio.transforms import MelSpectrogram

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
    filter_bank: str = "kaldi",
    low_hz: float = 20.0,
    high_hz: float | None = None,
) -> Tensor:
    """Return the log-mel spectrograms of a clip.

    Args:
        waveform: (samples,) float in [-1, 1], mono. For Kaldi's filter bank its mean over the clip is subtracted first.
        segments: number of windows, see :func:`~lavish.data.decoding.windows.window_starts`; a window that extends past
            the end of the clip is zero-padded.
        sample_rate: samples per second.
        mel_bins: triangular mel filters.
        shift_ms: hop of the analysis frames, milliseconds.
        length_ms: length of an analysis frame, milliseconds.
        frames: analysis frames returned per window; see :func:`~lavish.data.decoding.windows.count_valid_frames` for
            those that hold audio.
        window_seconds: length of the window of a segment.
        window_margin: seconds between the end of the last window and the end of the clip.
        filter_bank: "kaldi": Kaldi's, whose frames lie inside the window; or "slaney": librosa's, whose frames are
            centred, the window being mirrored at its ends, with mel scale and norm of Slaney's Auditory Toolbox.
        low_hz, high_hz: limits of the filters, hertz; None is half the sample rate.

    Returns:
        (segments, mel_bins, frames) float32, not normalised: natural logarithms of the mel energies ("kaldi"), or
        decibels of at least -100 ("slaney").

    Source: LAVISH (arXiv 2212.07983), public code, AVE data loader; HTS-AT (arXiv 2202.00874), public code, model.
    """
    valid_frames = count_valid_frames(
        sample_rate=sample_rate,
        shift_ms=shift_ms,
        length_ms=length_ms,
        frames=frames,
        window_seconds=window_seconds,
        filter_bank=filter_bank,
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
    if filter_bank == "kaldi":
        waveform = waveform - waveform.mean()
    waveform = torch.nn.functional.pad(waveform, (0, max(0, starts[-1] + size - len(waveform))))
    windows = torch.stack([waveform[start : start + size] for start in starts])
    if filter_bank == "kaldi":
        banks = [
            kaldi.fbank(
                window[None],
                htk_compat=True,
                sample_frequency=sample_rate,
                use_energy=False,
                window_type="hanning",
                num_mel_bins=mel_bins,
                dither=0.0,
                frame_shift=shift_ms,
                frame_length=length_ms,
                low_freq=low_hz,
                high_freq=high_hz or 0.0,  # which is half the sample rate
            )
            for window in windows
        ]
        mels = torch.stack(banks).transpose(1, 2)
    else:
        transform = MelSpectrogram(
            sample_rate,
            n_fft=int(sample_rate * length_ms * 0.001),
            hop_length=int(sample_rate * shift_ms * 0.001),
            f_min=low_hz,
            f_max=high_hz,
            n_mels=mel_bins,
            mel_scale="slaney",
            norm="slaney",
        )
        mels = 10 * transform(windows).clamp(min=1e-10).log10()
    return torch.nn.functional.pad(mels[..., :valid_frames], (0, frames - valid_frames))
