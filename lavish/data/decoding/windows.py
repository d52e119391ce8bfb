"""Where the windows of sound lie and how many analysis frames they give: arithmetic only, without torch."""

from __future__ import annotations

import numpy as np

from lavish.errors import LavishError


def count_valid_frames(
    *, sample_rate: int, shift_ms: float, length_ms: float, frames: int, window_seconds: float
) -> int:
    """Return how many of the `frames` columns of a window hold sound; the others are zero padding.

    Published practice pads *after* normalisation, so whoever normalises must set the columns from here on to 0.
    Raises LavishError when the window is shorter than one analysis frame, or the hop than one sample.
    """
    # Truncated, as Kaldi does: 5.2 ms at 16 kHz are 83 samples.
    shift, length = int(sample_rate * shift_ms * 0.001), int(sample_rate * length_ms * 0.001)
    window = int(sample_rate * window_seconds)
    if shift < 1:
        raise LavishError(f"spectrogram.shift_ms ({shift_ms} ms) is shorter than one sample: choose a longer hop")
    if not 2 <= length <= window:
        raise LavishError(
            f"spectrogram.length_ms ({length_ms} ms) must fit into spectrogram.window_seconds ({window_seconds} s)"
        )
    return min(frames, 1 + (window - length) // shift)


def window_starts(
    samples: int, *, segments: int, sample_rate: int, window_seconds: float, window_margin: float
) -> list[int]:
    """Return the first sample of each segment's window: evenly spaced from 0 to `samples` less window and margin."""
    last = max(0.0, samples - sample_rate * (window_seconds + window_margin))
    return [int(start) for start in np.linspace(0, last, num=segments)]
