"""Preparing a split: decode every listed clip of an official layout once and write the store."""

from __future__ import annotations

import csv
import errno
import hashlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lavish.config.schema import DataConfig
from lavish.data.decoding.windows import count_valid_frames
from lavish.data.formats.base import ClipSource, Targets, missing_media, printable
from lavish.data.formats.registry import reader
from lavish.data.leaks import dropped_clips
from lavish.data.store.clip_jobs import ClipValues, Outcome, array_names, decode_all, open_arrays
from lavish.data.store.frames import INDEX, PICTURES, is_shard, pack
from lavish.data.store.journal import Journal
from lavish.data.store.store import ARRAYS, FILES, MANIFEST, MASKS, VERIFIED
from lavish.errors import LavishError
from lavish.io.atomic import sync, write_json
from lavish.io.checksums import sha256_of

# Of the contents of the arrays; increased when decoding changes, so that unfinished work of older code is not resumed.
_VERSION = 4
_ROWS_AT_ONCE = 16


def prepare(config: DataConfig, root: Path, split: str, out: Path, jobs: int) -> None:
    """Write the prepared store of one split (:class:`lavish.data.store.store.SplitStore`) to the folder `out`.

    The store is written to ``<out>.partial``, which is renamed to `out` at the end. Interrupted work is resumed; a
    changed configuration or list starts it from scratch, and clips whose media files changed are decoded again. Neither
    interruptions nor `jobs` change the result.

    Every clip of the official list has a line in report.csv: `ok`, `repaired` (kept, but with faults or repairs, see
    :mod:`lavish.data.decoding.media`), `excluded` (not in the arrays) or `dropped` (nor in them, by
    ``data.duplicates``).

    Args:
        config: the data set and how it is prepared.
        root: folder of the official layout.
        split: train, val or test.
        out: folder to write; it may exist if it is empty or holds only files of a prepared split, which is replaced
            (the workflow removes store.json before it has a split prepared again).
        jobs: number of worker processes.

    Raises:
        LavishError: the layout is malformed, `out` contains something else, or more than `config.max_lost` of the clips
            would be excluded; then ``<out>.partial/report.csv`` lists them.
    """
    if jobs < 1:
        raise LavishError(f"--jobs {jobs}: give at least 1")
    _check_out(out)
    layout = reader(config.format)
    sources = layout.clips(root, split)
    targets = layout.targets(root, split, segments=config.segments, segment_seconds=config.segment_seconds)
    notes = targets.notes | layout.unread(root)
    classes = layout.classes(root)
    words = layout.vocabulary(root)
    for key, value, found in (("num_classes", config.num_classes, classes), ("vocabulary", config.vocabulary, words)):
        if len(found) != value:
            what = "classes" if key == "num_classes" else "words"
            raise LavishError(f"data.{key} is {value}, but {root} has {len(found)} {what}: correct the key")
    spectrogram = config.spectrogram.model_dump()
    framing = {"sample_rate", "shift_ms", "length_ms", "frames", "window_seconds", "filter_bank"}
    valid_frames = count_valid_frames(**{key: value for key, value in spectrogram.items() if key in framing})
    folder = out.with_name(out.name + ".partial")
    form, quality = config.store.frames, config.store.quality
    values = ClipValues(folder, config.segments, config.segment_seconds, config.frame_size, spectrogram, form, quality)

    for what, number in notes.items():
        print(f"{root}, split {split}: {number} {what}", file=sys.stderr)
    outcomes = {
        index: Outcome(index, "excluded", reason)
        for index, source in enumerate(sources)
        if (reason := missing_media(source))
    }
    dropped: dict[int, Outcome] = {}
    if split == "train" and config.duplicates == "drop_from_train":
        reasons = dropped_clips({"train": sources, **{other: layout.clips(root, other) for other in ("val", "test")}})
        dropped = {index: Outcome(index, "dropped", reason) for index, reason in reasons.items()}
    outcomes |= dropped
    # If too many media files are missing, fail before hours of decoding.
    _check_lost(config, root, split, sources, outcomes, folder)
    make_arrays = _array_maker(config, len(sources), masked=any(source.masks for source in sources))
    with Journal(folder, _job(config, split, sources, targets), sources, make_arrays) as journal:
        outcomes |= journal.finished | dropped
        pending = [(index, source) for index, source in enumerate(sources) if index not in outcomes]
        with tqdm(total=len(sources), initial=len(outcomes), unit="clip", disable=None) as bar:
            bar.set_description(f"{config.name} {split}")
            for chunk in decode_all(values, pending, jobs):
                journal.add(chunk)
                bar.update(len(chunk))
        outcomes |= journal.finished | dropped
        _check_lost(config, root, split, sources, outcomes, folder)
        kept = {index: outcomes[index] for index in range(len(sources)) if outcomes[index].status in ("ok", "repaired")}
        arrays = _dense_arrays(folder, list(kept), len(sources))
        pictures: list[str] = []
        if form != "raw":
            pictures = pack(folder, {index: outcome.lengths for index, outcome in kept.items()})
        names = (*array_names(folder), *pictures, *FILES[len(ARRAYS) :])
        write_json(folder / "statistics.json", _statistics(list(kept.values()), config, valid_frames))
        columns = ["clip", "category"] if any(source.category for source in sources) else ["clip"]
        _write_csv(
            folder / "clips.csv", columns, [[getattr(sources[index], name) for name in columns] for index in kept]
        )
        units, clip_of_unit = _kept_units(targets, list(kept), len(sources))
        np.save(folder / "units.npy", clip_of_unit)
        kept_targets: dict[str, Any] = {name: array[units] for name, array in targets.arrays.items()}
        np.savez(folder / "targets.npz", **kept_targets)
        manifest = {
            "format": config.format,
            "split": split,
            "classes": classes,
            "vocabulary": len(words),
            "clips": len(kept),
            "units": len(units),
            "notes": notes,
            "segments": config.segments,
            "valid_frames": valid_frames,
            **_describe({name: arrays.get(name, folder / name) for name in names}),
            **({"frames": {"form": form, "size": config.frame_size}} if pictures else {}),
            "config": config.model_dump(mode="json"),
        }
        write_json(folder / MANIFEST, manifest)
        # The renames below move rows, after which the journal would be wrong.
        journal.remove()
    for name, path in arrays.items():
        path.replace(folder / name)
    shutil.rmtree(folder / PICTURES, ignore_errors=True)
    for path in folder.iterdir():
        sync(path)
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


def _check_out(out: Path) -> None:
    if not out.exists():
        return
    known = {*FILES, MASKS, MANIFEST, VERIFIED, INDEX}
    names = {path.name.removesuffix(".partial") for path in out.iterdir()} if out.is_dir() else {""}
    if not all(name in known or is_shard(name) for name in names):
        raise LavishError(f"{out}: neither an empty folder nor a prepared split: choose another --out")


def _job(config: DataConfig, split: str, sources: Sequence[ClipSource], targets: Targets) -> dict[str, Any]:
    """Return everything that determines the contents of the arrays."""
    keys = {"format", "segments", "segment_seconds", "frame_size", "spectrogram", "store"}
    arrays = [targets.arrays[name] for name in sorted(targets.arrays)]
    labels = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    return {
        "version": _VERSION,
        "config": config.model_dump(mode="json", include=keys),
        "split": split,
        "clips": [source.clip for source in sources],
        "targets": labels.hexdigest(),
    }


def _kept_units(targets: Targets, kept: Sequence[int], clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the units of the clips `kept`, and the position of each unit's clip among these clips."""
    clip_of = np.arange(clips) if targets.clips is None else targets.clips
    position = np.full(clips, -1)
    position[list(kept)] = np.arange(len(kept))
    units = np.flatnonzero(position[clip_of] >= 0)
    return units, position[clip_of[units]].astype(np.int64)


def _array_maker(config: DataConfig, clips: int, *, masked: bool) -> Callable[[Path], None]:
    segments, size, mels = config.segments, config.frame_size, config.spectrogram
    samples = round(segments * config.segment_seconds * mels.sample_rate)
    layout: list[tuple[Any, tuple[int, ...]]] = [
        (np.uint8, (clips, segments, size, size, 3)),
        (np.float16, (clips, segments, mels.mel_bins, mels.frames)),
        (np.int16, (clips, samples)),
    ]
    files = dict(zip(ARRAYS, layout, strict=True))
    if masked:
        files[MASKS] = (np.uint8, (clips, segments, size, size))
    raw = config.store.frames == "raw"
    if not raw:
        del files[ARRAYS[0]]

    def make(folder: Path) -> None:
        if not raw:
            (folder / PICTURES).mkdir()
        for name, (dtype, shape) in files.items():
            _make_array(folder / name, dtype, shape)

    return make


def _make_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size
    try:
        # Reserve the space now: if the disk is full when a worker writes to the map, a signal kills the worker.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LavishError(
                f"{path}: no disk space for {size / 1e9:.1f} GB: free some, or choose another --out"
            ) from None
    return array


def _check_lost(
    config: DataConfig,
    root: Path,
    split: str,
    sources: Sequence[ClipSource],
    outcomes: Mapping[int, Outcome],
    folder: Path,
) -> None:
    """Write the report; LavishError if all clips are lost or more than the configuration allows."""
    not_read = ("not_read", "")
    rows = [
        [source.clip, *((outcome.status, outcome.reason) if (outcome := outcomes.get(index)) else not_read)]
        for index, source in enumerate(sources)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "report.csv", ["clip", "status", "reason"], rows)
    lost = [row for row in rows if row[1] == "excluded"]
    if len(lost) > config.max_lost * len(sources) or len(lost) == len(sources):
        examples = printable("; ".join(f"'{clip}': {reason}" for clip, _, reason in lost[:3]))
        raise LavishError(
            f"{root}, split {split}: {len(lost)} of {len(sources)} clips cannot be used, but data.max_lost allows only "
            f"{config.max_lost:.1%} ({examples}{'; ...' if len(lost) > 3 else ''}). All are listed in "
            f"{folder / 'report.csv'}. Restore the media and run again (finished clips are kept), or increase "
            "data.max_lost"
        )


def _dense_arrays(folder: Path, kept: Sequence[int], clips: int) -> dict[str, Path]:
    """Return copies of the array files without the rows of excluded clips; empty if no clip is excluded."""
    paths = {name: folder / f"kept_{name}" for name in array_names(folder)}
    for path in paths.values():
        path.unlink(missing_ok=True)  # left by an interruption
    if len(kept) == clips:
        return {}
    for path, array in zip(paths.values(), open_arrays(folder, "r"), strict=True):
        dense = _make_array(path, array.dtype, (len(kept), *array.shape[1:]))
        for start in range(0, len(kept), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            dense[rows] = array[kept[rows]]
    return paths


def _statistics(outcomes: Sequence[Outcome], config: DataConfig, valid_frames: int) -> dict[str, Any]:
    """Return mean and standard deviation of pixels / 255, per channel, and of the log-mels of valid frames."""
    pixels = len(outcomes) * config.segments * config.frame_size**2
    mels = len(outcomes) * config.segments * config.spectrogram.mel_bins * valid_frames
    # Exact sums, because the result must not depend on the order in which clips were decoded.
    sums = [math.fsum(values) for values in zip(*(outcome.pixel_sums for outcome in outcomes), strict=True)]
    red_green_blue = [_mean_and_std(sums[c] / 255, sums[c + 3] / 255**2, pixels) for c in range(3)]
    sums = [math.fsum(values) for values in zip(*(outcome.log_mel_sums for outcome in outcomes), strict=True)]
    mean, std = _mean_and_std(sums[0], sums[1], mels)
    return {
        "frames": {"mean": [mean for mean, _ in red_green_blue], "std": [std for _, std in red_green_blue]},
        "log_mels": {"mean": mean, "std": std},
    }


def _mean_and_std(total: float, squares: float, count: int) -> tuple[float, float]:
    mean = total / count
    return mean, math.sqrt(max(0.0, squares / count - mean * mean))


def _describe(files: Mapping[str, Path]) -> dict[str, Any]:
    names = [name for name in files if name in (*ARRAYS, MASKS, INDEX)]
    arrays = {name: np.load(files[name], mmap_mode="r", allow_pickle=False) for name in names}
    return {
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
        "sizes": {name: path.stat().st_size for name, path in files.items()},
        "checksums": {name: sha256_of(path) for name, path in files.items()},
    }


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    # The names of files need not be text.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
