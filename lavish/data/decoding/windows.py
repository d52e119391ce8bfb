"""The audio windows of the segments: their starts and their numbers of analysis frames. Arithmetic only, no torch."""

from __future__ import annotations

import numpy as np

from lavish.errors import LavishError


def count_valid_frames(
    *,
    sample_rate: int,
    shift_ms: float,
    length_ms: float,
    frames: int,
    window_seconds: float,
    filter_bank: str = "kaldi",
) -> int:
    """Return how many of the `frames` analysis frames of a window hold audio; the others are zero padding.

    Kaldi's frames lie inside the window; those of the Slaney filter bank are centred, from its start to its end.
    Published practice pads *after* normalisation, so code that normalises must then set the other frames to 0.
    Raises LavishError if the window is shorter than one analysis frame, or the hop shorter than one sample.
    """
    # Truncated as in Kaldi: 5.2 ms at 16 kHz are 83 samples.
    shift, length = int(sample_rate * shift_ms * 0.001), int(sample_rate * length_ms * 0.001)
    window = int(sample_rate * window_seconds)
    if shift < 1:
        raise LavishError(f"spectrogram.shift_ms ({shift_ms} ms) is shorter than one sample: choose a longer hop")
    if not 2 <= length <= window:
        raise LavishError(
            f"spectrogram.length_ms ({length_ms} ms) must fit into spectrogram.window_seconds ({window_seconds} s)"
        )
    return min(frames, 1 + (window if filter_bank == "slaney" else window - length) // shift)


def window_starts(
    samples: int, *, segments: int, sample_rate: int, window_seconds: float, window_margin: float
) -> list[int]:
    """Return the first sample of each segment's window: evenly spaced from 0 to `samples` minus window and margin."""
    last = max(0.0, samples - sample_rate * (window_seconds + window_margin))
    return [int(start) for start in np.linspace(0, last, num=segments)]
