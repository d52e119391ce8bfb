"""A prepared split under a condition (:mod:`lavish.config.conditions`): its arrays, with one stream disturbed.

The arrays are computed when they are read, clip by clip, so that nothing is stored and no clip depends on its batch.
What is drawn depends on the condition's seed and the clip's name alone. A changed sound passes through the code that
prepares sounds, and a separate audio encoder reads the same one.

The digest of this module's code is part of the identity of every evaluation under a condition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lavish.config.conditions import Blur, Condition, Darken, MissingStream, Noise, Shift, Silence, Swap
from lavish.data.decoding.audio import FULL_SCALE
from lavish.data.store.computed import ComputedRows
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError

_Change = Callable[[int, np.ndarray], np.ndarray]
"""Of a clip and its waveform (samples,), float32 in the unit of int16."""


def disturb(store: SplitStore, condition: Condition, means: Mapping[str, Any]) -> None:
    """Put a split under a condition: replace its arrays of the stream that is disturbed.

    Args:
        store: an open split.
        condition: what is done.
        means: by stream, what normalisation subtracts: of pixels three numbers from 0 to 255, of log-mels one.

    Raises:
        LavishError: the split has no clips of another class to take a stream of, or its clips have so few segments that
            a shift changes nothing.
    """
    if isinstance(condition, Swap):
        _swap(store, condition)
    elif isinstance(condition, MissingStream):
        # In float32, so that nothing but zeros is left after normalisation.
        mean = np.asarray(means[condition.stream], np.float32)
        if condition.stream == "visual":
            store.frames = _constant(mean, store.frames.shape)
        else:
            store.log_mels = _constant(mean, store.log_mels.shape)
            store.waveforms = _constant(np.float32(0), store.waveforms.shape)
    elif isinstance(condition, Silence):
        silence = np.zeros(store.waveforms.shape[1:], np.float32)
        store.log_mels = _constant(_prepared(store)(silence), store.log_mels.shape)
        store.waveforms = _constant(silence, store.waveforms.shape)
    elif isinstance(condition, Noise | Shift):
        _change_sound(store, _with_noise(store, condition) if isinstance(condition, Noise) else _late(store, condition))
    else:
        _change_frames(store, condition)


def _constant(row: np.ndarray | np.float32, shape: tuple[Any, ...]) -> ComputedRows:
    row = np.broadcast_to(row, shape[1:])
    return ComputedRows(shape, lambda _: row)


def _swap(store: SplitStore, condition: Swap) -> None:
    partners = other_clips(store, condition.seed)
    if condition.stream == "visual":
        frames = store.frames
        store.frames = ComputedRows(frames.shape, lambda clip: frames[partners[clip]])
    else:
        mels, waveforms = store.log_mels, store.waveforms
        store.log_mels = ComputedRows(mels.shape, lambda clip: mels[partners[clip]])
        store.waveforms = ComputedRows(waveforms.shape, lambda clip: waveforms[partners[clip]])


def _with_noise(store: SplitStore, condition: Noise) -> _Change:
    ratio = 10 ** (-condition.snr_db / 20)

    def change(clip: int, waveform: np.ndarray) -> np.ndarray:
        # Not rounded and not clipped to int16, which would change the ratio of loud clips.
        noise = _generator(store, clip, condition.seed).standard_normal(len(waveform), np.float32)
        return waveform + np.float32(ratio * waveform.std()) * noise

    return change


def _late(store: SplitStore, condition: Shift) -> _Change:
    segments = store.log_mels.shape[1]
    if condition.segments % segments == 0:
        raise LavishError(
            f"{store.path}: a shift by {condition.segments} segment(s) does not change clips of {segments} segment(s): "
            "use another condition for this task"
        )
    settings = store.manifest["config"]
    samples = round(condition.segments * settings["segment_seconds"] * settings["spectrogram"]["sample_rate"])
    return lambda _, waveform: np.roll(waveform, samples)


def _change_sound(store: SplitStore, change: _Change) -> None:
    recorded, prepared = store.waveforms, _prepared(store)

    def sound(clip: int) -> np.ndarray:
        return change(clip, np.asarray(recorded[clip], np.float32))

    store.waveforms = ComputedRows(recorded.shape, sound)
    store.log_mels = ComputedRows(store.log_mels.shape, lambda clip: prepared(sound(clip)))


def _prepared(store: SplitStore) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that gives the log-mels of a waveform (samples,) in the unit of int16, as they are stored."""
    import torch

    from lavish.data.decoding.spectrogram import log_mels

    spectrogram: dict[str, Any] = store.manifest["config"]["spectrogram"]
    segments = store.log_mels.shape[1]

    def mels(waveform: np.ndarray) -> np.ndarray:
        sound = torch.from_numpy(waveform) / FULL_SCALE
        return log_mels(sound, segments=segments, **spectrogram).numpy().astype(np.float16)

    return mels


def _change_frames(store: SplitStore, condition: Blur | Darken) -> None:
    from scipy.ndimage import gaussian_filter

    stored = store.frames

    def frames(clip: int) -> np.ndarray:
        pixels = np.asarray(stored[clip], np.float32)
        if isinstance(condition, Darken):
            pixels *= condition.factor
        else:
            sigma = condition.sigma * pixels.shape[1]
            pixels = gaussian_filter(pixels, (0, sigma, sigma, 0), mode="reflect")
        return np.rint(pixels).astype(np.uint8)

    store.frames = ComputedRows(stored.shape, frames)


def other_clips(store: SplitStore, seed: int) -> np.ndarray:
    """Return for each clip (clips,) another one, drawn from those that have least in common with it.

    - Clips with labels or categories: the clips of other classes. The class of a clip of labelled segments is the first
      that is not background.
    - Questions: the clips that have no question with the same answer, or the fewest.
    - Neither (AVSBench's MS3 names no sources): all other clips.

    Raises:
        LavishError: the split has one clip, or clips of one class, or was prepared without categories that its layout
            has.
    """
    shared = _in_common(store)
    partners = np.empty(len(store), np.int64)
    for clip in range(len(store)):
        others = np.delete(np.arange(len(store)), clip)
        common = np.delete(shared(clip), clip)
        if not len(others) or common.min() == np.inf:
            raise LavishError(
                f"{store.path}: no clip of another class than '{store.clips[clip]}', so that no stream can be swapped: "
                "use more clips"
            )
        partners[clip] = _generator(store, clip, seed).choice(others[common == common.min()])
    return partners


def _in_common(store: SplitStore) -> Callable[[int], np.ndarray]:
    """Return the function of a clip that says how much it shares with all clips (clips,); infinite: the class."""
    labels, answers = store.targets.get("labels"), store.targets.get("answers")
    if labels is not None:
        classes = np.full(len(store), -1)
        classes[store.units] = labels.min(axis=1) if labels.ndim == 2 else labels  # background has the last index
        return lambda clip: np.where(classes == classes[clip], np.inf, 0)
    if store.categories is not None:
        categories = np.array(store.categories)
        return lambda clip: np.where(categories == categories[clip], np.inf, 0)
    if answers is not None:
        asked = np.column_stack([store.targets["questions"], answers])
        _, pairs = np.unique(asked, axis=0, return_inverse=True)
        of_clips = [set(pairs[store.units == clip].tolist()) for clip in range(len(store))]
        return lambda clip: np.array([len(of_clips[clip] & other) for other in of_clips])
    if store.manifest["format"] == "avsbench_s4":
        raise LavishError(f"{store.path}: prepared without the categories of clips: delete the folder to prepare again")
    return lambda _: np.zeros(len(store))


def _generator(store: SplitStore, clip: int, seed: int) -> np.random.Generator:
    """Return random numbers that depend on a clip's name and the seed alone."""
    name = hashlib.sha256(store.clips[clip].encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(name[:8])])
