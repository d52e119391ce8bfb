"""Reading recordings for composition: decoding to mono, shortening pauses, extracting parts of a given length."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lavish.data.decoding.audio import FULL_SCALE, decode_audio
from lavish.data.decoding.container import Container, MediaError
from lavish.errors import LavishError

_MAX_SECONDS = 30.0  # of a recording; the rest is ignored
_FRAME_SECONDS = 0.02
_SILENCE_DB = -30.0  # relative to the 95th percentile of the levels
_KEPT_SECONDS = 0.12  # of silence on either side of a sound, so no pause is longer than twice this


def read_recording(path: Path, sample_rate: int) -> np.ndarray:
    """Return a recording as float32 (samples,) mono, with pauses shortened so that every half second is audible.

    A label states that a class is heard in a segment, so no segment may fall into a pause.

    Raises:
        LavishError: the file cannot be decoded or is silent.
    """
    try:
        with Container(path) as container:
            stream = container.stream("audio")
            container.read([stream], _MAX_SECONDS)
            samples, _ = decode_audio(container, stream, [], _MAX_SECONDS, sample_rate)
    except MediaError as error:
        raise LavishError(f"{path}: {error}: replace the file or remove it from the folder of assets") from None
    recording = _without_pauses(samples.astype(np.float32) / FULL_SCALE, sample_rate)
    if not len(recording):
        raise LavishError(f"{path}: silent: replace the file or remove it from the folder of assets")
    return recording


def _without_pauses(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    frame = max(1, round(_FRAME_SECONDS * sample_rate))
    frames = sound[: len(sound) // frame * frame].reshape(-1, frame)
    levels = np.sqrt(np.mean(np.square(frames), axis=1))
    # Only of non-zero frames: a short recording is followed by zeros up to `_MAX_SECONDS`.
    audible = levels[levels > 1e-4]
    if not len(audible):
        return sound[:0]
    loud = levels > np.percentile(audible, 95) * 10 ** (_SILENCE_DB / 20)
    reach = round(_KEPT_SECONDS / _FRAME_SECONDS)
    kept = np.convolve(loud, np.ones(2 * reach + 1), mode="same") > 0
    return frames[kept].reshape(-1)


def part_of(rng: np.random.Generator, recording: np.ndarray, sample_rate: int, samples: int) -> np.ndarray:
    """Return `samples` samples of a recording at a slightly different speed.

    Args:
        rng: random generator for speed, position and pauses.
        recording: (n,) mono.
        sample_rate: samples per second.
        samples: requested length: one of the louder parts of a longer recording; a shorter one is repeated with short
            pauses.
    """
    speed = rng.uniform(0.93, 1.07)
    recording = np.interp(np.arange(0, len(recording) - 1, speed), np.arange(len(recording)), recording)
    if len(recording) < samples:
        pause = np.zeros(int(rng.uniform(0.02, 0.2) * sample_rate))
        repeated = np.concatenate([recording, pause])
        start = int(rng.integers(len(repeated)))
        return np.tile(repeated, 2 + samples // len(repeated))[start : start + samples].astype(np.float32)
    starts = rng.integers(0, len(recording) - samples + 1, size=4)
    power = np.concatenate([[0.0], np.cumsum(np.square(recording))])
    start = starts[np.argmax(power[starts + samples] - power[starts])]
    return recording[start : start + samples].astype(np.float32)
