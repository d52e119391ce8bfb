"""Decoding audio: any channel layout, sample rate and start time to mono at one rate, on the clip's time axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from av import AudioFrame
from av.audio.resampler import AudioResampler

from lavish.data.decoding.container import Container, MediaError

FULL_SCALE = 32768  # of int16 samples
# A larger jump in the timestamps is a gap or an overlap; a smaller one is due to the container's rounding.
_GAP_SECONDS = 0.1


def decode_audio(
    container: Container, stream: Any, times: Sequence[float], duration: float, sample_rate: int
) -> tuple[np.ndarray, list[bool]]:
    """Decode the first `duration` seconds of an audio stream.

    Channels are averaged, which works for all channel layouts, known or not, and cannot clip.

    Returns:
        int16 (round(duration * sample_rate),), zero where there is no audio, and for each of `times` (seconds) whether
        the stream covers it.

    Raises:
        MediaError: nothing in the stream can be decoded.
    """
    track = np.zeros(round(duration * sample_rate), dtype=np.float32)
    covered = [False] * len(times)
    found = False
    for start, rate, piece in _pieces(container, stream):
        found = True
        end = start + len(piece) / rate
        covered = [already or start <= time < end for already, time in zip(covered, times, strict=True)]
        piece = _resample(piece, rate, sample_rate)
        first = round(start * sample_rate)
        target = track[max(0, first) : max(0, first + len(piece))]
        target[:] = piece[max(0, -first) :][: len(target)]
    if not found:
        raise MediaError(f"no decodable audio in {container.name}")
    scaled = np.rint(np.nan_to_num(track) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16), covered


def _pieces(container: Container, stream: Any) -> Iterator[tuple[float, int, np.ndarray]]:
    """Yield (start in seconds, sample rate, mono float32 samples) of every uninterrupted section."""
    start, end, rate = 0.0, 0.0, 0
    collected: list[np.ndarray] = []
    for _, frame in container.decode(stream):
        time = end if frame.pts is None else container.seconds(frame.pts, stream)
        if collected and (frame.sample_rate != rate or abs(time - end) > _GAP_SECONDS):
            yield start, rate, np.concatenate(collected)
            collected = []
        if not collected:
            start = end = time
        rate = frame.sample_rate
        collected.append(_mono(frame))
        end += frame.samples / rate
    if collected:
        yield start, rate, np.concatenate(collected)


def _mono(frame: AudioFrame) -> np.ndarray:
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "u":
        middle = 2 ** (8 * samples.dtype.itemsize - 1)
        samples = samples.astype(np.float64) / middle - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float64) / 2 ** (8 * samples.dtype.itemsize - 1)
    return samples.mean(axis=0, dtype=np.float64).astype(np.float32)


def _resample(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    if rate == sample_rate:
        return samples
    frame = AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    parts = [part.to_ndarray()[0] for part in [*resampler.resample(frame), *resampler.resample(None)]]
    return np.concatenate(parts) if parts else samples[:0]
