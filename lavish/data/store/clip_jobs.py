"""Decoding many clips in parallel: what a worker process does, and a pool that survives a file that kills a worker."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavish.data.formats.base import ClipSource
from lavish.data.store.store import ARRAYS, MASKS
from lavish.runtime.workers import open_pool

CHUNK = 8  # clips per task: few enough to keep all workers busy to the end, enough to make the hand-over cheap

# Position in the official list, and where the media are.
Clip = tuple[int, ClipSource]


@dataclass(frozen=True)
class ClipValues:
    """What a worker needs to know: the folder of the arrays and how clips are decoded."""

    folder: Path
    segments: int
    segment_seconds: float
    frame_size: int
    spectrogram: dict[str, Any]  # keyword arguments of log_mels


@dataclass(frozen=True)
class Outcome:
    """What became of one clip; its arrays are in the rows `index` of the array files unless it was left out.

    The sums are over the pixel values (red, green, blue, then their squares) and over the log-mels that hold sound
    (values, then squares). They add up to the statistics of the split, whatever the order in which clips were decoded.
    """

    index: int
    status: str  # ok, repaired, excluded
    reason: str
    checksum: int = 0  # of the rows
    pixel_sums: Sequence[int] = (0,) * 6
    log_mel_sums: Sequence[float] = (0.0,) * 2


# What a worker does with a chunk of clips.
Work = Callable[[Sequence[Clip]], list[Outcome]]


def rows_checksum(arrays: Sequence[np.ndarray], index: int) -> int:
    """Return the crc32 over the rows `index` of the arrays."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array[index]).data, checksum)
    return checksum


def open_arrays(folder: Path, mode: Any) -> list[np.ndarray]:
    """Map the array files of a folder: frames, log-mels, waveforms and, where there are any, masks."""
    return [np.load(folder / name, mmap_mode=mode, allow_pickle=False) for name in array_names(folder)]


def array_names(folder: Path) -> list[str]:
    """Return the names of the array files in a folder."""
    return [*ARRAYS, MASKS] if (folder / MASKS).exists() else list(ARRAYS)


def decode_chunk(values: ClipValues, clips: Sequence[Clip]) -> list[Outcome]:
    """Decode clips into their rows of the array files; runs in a worker process."""
    # Only workers need torch and the decoders: the parent starts two seconds sooner without them.
    import torch

    from lavish.data.decoding.masks import decode_masks
    from lavish.data.decoding.media import MediaError, decode_clip
    from lavish.data.decoding.spectrogram import log_mels

    torch.set_num_threads(1)
    arrays = open_arrays(values.folder, "r+")
    outcomes = []
    for index, source in clips:
        try:
            frames, waveform, notes = decode_clip(
                source,
                segments=values.segments,
                duration=values.segments * values.segment_seconds,
                frame_size=values.frame_size,
                sample_rate=values.spectrogram["sample_rate"],
            )
            masks, lacking = decode_masks(source.masks, values.frame_size) if source.masks else (None, [])
        except MediaError as error:
            outcomes.append(Outcome(index, "excluded", str(error)))
            continue
        mels = log_mels(torch.from_numpy(waveform) / 32768, segments=values.segments, **values.spectrogram)
        rows = [frames, mels.numpy(), waveform, *([] if masks is None else [masks])]
        for array, row in zip(arrays, rows, strict=True):
            array[index] = row
        outcomes.append(_outcome(index, notes + lacking, arrays))
    return outcomes


def _outcome(index: int, notes: list[str], arrays: Sequence[np.ndarray]) -> Outcome:
    frames, mels = arrays[:2]
    pixels = frames[index].reshape(-1, 3).astype(np.int64)
    # As stored, so that the statistics are those of the numbers a reader gets. Padding is zero and adds nothing.
    heard = mels[index].astype(np.float64)
    return Outcome(
        index,
        "repaired" if notes else "ok",
        "; ".join(notes),
        rows_checksum(arrays, index),
        tuple(pixels.sum(axis=0).tolist() + np.square(pixels).sum(axis=0).tolist()),
        (float(heard.sum()), float(np.square(heard).sum())),
    )


def decode_all(values: ClipValues, clips: Sequence[Clip], jobs: int) -> Iterator[list[Outcome]]:
    """Decode clips into the arrays in `jobs` processes; yields the outcomes of a chunk as soon as it is finished."""
    return run_all(
        partial(decode_chunk, values), clips, jobs, ("lavish.data.decoding.media", "lavish.data.decoding.spectrogram")
    )


def run_all(work: Work, clips: Sequence[Clip], jobs: int, preload: Sequence[str]) -> Iterator[list[Outcome]]:
    """Do `work` on chunks of clips in `jobs` processes; yields the outcomes of a chunk as soon as it is finished.

    A clip that ends its process (a crash in a decoder, no memory left) is left out like any other that cannot be
    decoded; the rest goes on.

    Args:
        work: the function of a chunk; it is sent to other processes.
        clips: what is to be done.
        jobs: worker processes.
        preload: modules that `work` needs, imported once for all processes.
    """
    chunks = [clips[start : start + CHUNK] for start in range(0, len(clips), CHUNK)]
    while chunks:
        finished = set()
        try:
            for number, outcomes in _run(work, chunks, jobs, preload):
                finished.add(number)
                yield outcomes
        except BrokenProcessPool:
            unfinished = [chunk for number, chunk in enumerate(chunks) if number not in finished]
            # Chunks are started in order, so the culprit is in one of the first; alone, it gives itself away.
            for clip in (clip for chunk in unfinished[:jobs] for clip in chunk):
                yield _run_alone(work, clip, preload)
            chunks = unfinished[jobs:]
        else:
            return


def _run(
    work: Work, chunks: Sequence[Sequence[Clip]], jobs: int, preload: Sequence[str]
) -> Iterator[tuple[int, list[Outcome]]]:
    pool = open_pool(min(jobs, len(chunks)), preload)
    try:
        futures = {pool.submit(work, chunk): number for number, chunk in enumerate(chunks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _run_alone(work: Work, clip: Clip, preload: Sequence[str]) -> list[Outcome]:
    try:
        [(_, outcomes)] = _run(work, [[clip]], 1, preload)
        return outcomes
    except BrokenProcessPool:
        return [Outcome(clip[0], "excluded", "decoding it ended the process (crash or no memory)")]
