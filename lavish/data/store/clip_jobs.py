"""Decoding many clips in parallel: the function of a worker process, and a pool that survives a killed worker."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lavish.data.formats.base import ClipSource
from lavish.data.store.frames import PICTURES, write_pictures
from lavish.data.store.store import ARRAYS, MASKS
from lavish.errors import LavishError
from lavish.runtime.workers import open_pool

CHUNK = 8  # clips per task: few enough to keep all workers busy until the end, enough to amortise the overhead

# Position in the official list, and the media files.
Clip = tuple[int, ClipSource]


@dataclass(frozen=True)
class ClipValues:
    """The settings of a worker: the folder of the arrays and how clips are decoded."""

    folder: Path
    segments: int
    segment_seconds: float
    frame_size: int
    spectrogram: dict[str, Any]  # keyword arguments of log_mels
    frames: str = "raw"  # or the form of pictures
    quality: int = 90


@dataclass(frozen=True)
class Outcome:
    """The outcome of decoding one clip; unless it is excluded, its data are in row `index` of the array files.

    The sums are over the pixel values (red, green, blue, then their squares) and over the log-mels of valid frames
    (values, then squares). The statistics of the split are computed from them.
    """

    index: int
    status: str  # ok, repaired, excluded, dropped
    reason: str
    checksum: int = 0  # of the row in all array files, and of the clip's pictures
    pixel_sums: Sequence[int] = (0,) * 6
    log_mel_sums: Sequence[float] = (0.0,) * 2
    lengths: Sequence[int] = ()  # of its pictures, bytes


# The function that a worker applies to a chunk of clips.
Work = Callable[[Sequence[Clip]], list[Outcome]]


def rows_checksum(folder: Path, arrays: Sequence[np.ndarray], index: int) -> int:
    """Return the CRC-32 of row `index` of the arrays of a folder, and of the clip's pictures, if there are any."""
    checksum = 0
    with suppress(FileNotFoundError):
        checksum = zlib.crc32((folder / PICTURES / str(index)).read_bytes())
    for array in arrays:
        checksum = zlib.crc32(np.ascontiguousarray(array[index]).data, checksum)
    return checksum


def open_arrays(folder: Path, mode: Any) -> list[np.ndarray]:
    """Memory-map the array files of a folder: frames (if raw), log-mels, waveforms and masks, if any."""
    return [np.load(folder / name, mmap_mode=mode, allow_pickle=False) for name in array_names(folder)]


def array_names(folder: Path) -> list[str]:
    """Return the names of the array files in a folder."""
    names = ARRAYS[1:] if (folder / PICTURES).exists() else ARRAYS
    return [*names, MASKS] if (folder / MASKS).exists() else list(names)


def decode_chunk(values: ClipValues, clips: Sequence[Clip]) -> list[Outcome]:
    """Decode clips into their rows of the array files; runs in a worker process."""
    # Only workers need torch and the decoders; without them the parent starts two seconds faster.
    import torch

    from lavish.data.decoding.media import decode_source
    from lavish.data.decoding.spectrogram import log_mels

    torch.set_num_threads(1)
    arrays = open_arrays(values.folder, "r+")

    def decode(index: int, source: ClipSource) -> Outcome:
        frames, waveform, masks, notes = decode_source(
            source,
            segments=values.segments,
            duration=values.segments * values.segment_seconds,
            frame_size=values.frame_size,
            sample_rate=values.spectrogram["sample_rate"],
        )
        mels = log_mels(torch.from_numpy(waveform) / 32768, segments=values.segments, **values.spectrogram)
        # Statistics are those of what is stored: float16, and frames after the loss of their pictures.
        stored = mels.numpy().astype(np.float16)
        rows = [stored, waveform, *([] if masks is None else [masks])]
        lengths: list[int] = []
        if values.frames == "raw":
            rows.insert(0, frames)
        else:
            pictures = values.folder / PICTURES / str(index)
            lengths, frames = write_pictures(pictures, frames, values.frames, values.quality)
        for array, row in zip(arrays, rows, strict=True):
            array[index] = row
        checksum = rows_checksum(values.folder, arrays, index)
        return Outcome(
            index, "repaired" if notes else "ok", "; ".join(notes), checksum, *_sums(frames, stored), lengths
        )

    return each_clip(clips, decode)


def each_clip(clips: Sequence[Clip], decode: Callable[[int, ClipSource], Outcome]) -> list[Outcome]:
    """Return the outcomes of `decode` for all clips; a clip for which it fails, in whatever way, is excluded.

    Media from outside fail in ways that nobody has foreseen. Such an error is a reason like any other, with the name of
    the exception, and the other clips are decoded. A LavishError is one of the store, and stays an error.
    """
    from lavish.data.decoding.media import MediaError

    outcomes = []
    for index, source in clips:
        try:
            outcomes.append(decode(index, source))
        except LavishError:
            raise
        except MediaError as error:
            outcomes.append(Outcome(index, "excluded", str(error)))
        except Exception as error:
            outcomes.append(Outcome(index, "excluded", f"{type(error).__name__}: {error}"))
    return outcomes


def _sums(frames: np.ndarray, log_mels: np.ndarray) -> tuple[tuple[int, ...], tuple[float, float]]:
    pixels = frames.reshape(-1, 3).astype(np.int64)
    mels = log_mels.astype(np.float64)  # padding is zero and adds nothing
    return (
        tuple(pixels.sum(axis=0).tolist() + np.square(pixels).sum(axis=0).tolist()),
        (float(mels.sum()), float(np.square(mels).sum())),
    )


def decode_all(values: ClipValues, clips: Sequence[Clip], jobs: int) -> Iterator[list[Outcome]]:
    """Decode clips into the arrays in `jobs` processes; yield the outcomes of each chunk as soon as it is finished."""
    preload = ["lavish.data.decoding.media", "lavish.data.decoding.spectrogram"]
    preload += [] if values.frames == "raw" else ["torchvision.io"]
    return run_all(partial(decode_chunk, values), clips, jobs, preload)


def run_all(work: Work, clips: Sequence[Clip], jobs: int, preload: Sequence[str]) -> Iterator[list[Outcome]]:
    """Run `work` on chunks of clips in `jobs` processes; yield the outcomes of each chunk as soon as it is finished.

    A clip that kills its process (decoder crash, out of memory) is excluded like any other that cannot be decoded, and
    the remaining clips are processed.

    Args:
        work: the function to run on a chunk; it is pickled.
        clips: the clips to process.
        jobs: number of worker processes.
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
            # Chunks start in order, so the clip at fault is in one of the first; running each clip alone identifies it.
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
        return [Outcome(clip[0], "excluded", "decoding killed the process (crash or out of memory)")]
