"""From an official layout to a prepared split: decode every listed clip once, count what could not be used."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lavish.config.schema import DataConfig
from lavish.data.decoding.windows import count_valid_frames
from lavish.data.formats.base import ClipSource, Targets, missing_media
from lavish.data.formats.registry import reader
from lavish.data.store.clip_jobs import ClipValues, Outcome, array_names, decode_all, open_arrays
from lavish.data.store.journal import Journal
from lavish.data.store.store import ARRAYS, FILES, MANIFEST, MASKS
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of

# Of the arrays' contents: raised when decoding changes, so that no unfinished work of older code is taken up.
_VERSION = 3
_ROWS_AT_ONCE = 16


def prepare(config: DataConfig, root: Path, split: str, out: Path, jobs: int) -> None:
    """Write the prepared store of one split (:class:`lavish.data.store.store.SplitStore`) to the folder `out`.

    The work goes on in ``<out>.partial`` and becomes `out` by one rename at the end. Interrupted work is taken up
    again; another configuration, list or medium starts it anew. Neither interruptions nor `jobs` change the result.

    Every clip of the official list has a line in report.csv: `ok`, `repaired` (kept, but something had to be filled in
    or is not as promised, see :mod:`lavish.data.decoding.media`) or `excluded` (not in the arrays).

    Args:
        config: the data set and how it is prepared.
        root: folder of the official layout.
        split: train, val or test.
        out: folder to write; it may exist if it is empty or an older prepared split, which is replaced.
        jobs: worker processes.

    Raises:
        LavishError: the layout is malformed, `out` holds something else, or more than `config.max_lost` of the clips
            would be left out; then ``<out>.partial/report.csv`` lists them.
    """
    if jobs < 1:
        raise LavishError(f"--jobs {jobs}: give at least 1")
    _check_out(out)
    layout = reader(config.format)
    sources = layout.clips(root, split)
    targets = layout.targets(root, split, segments=config.segments, segment_seconds=config.segment_seconds)
    classes = layout.classes(root)
    words = layout.vocabulary(root)
    for key, value, found in (("num_classes", config.num_classes, classes), ("vocabulary", config.vocabulary, words)):
        if len(found) != value:
            what = "classes" if key == "num_classes" else "words"
            raise LavishError(f"data.{key} is {value}, but {root} has {len(found)} {what}: correct the key")
    spectrogram = config.spectrogram.model_dump()
    heard = count_valid_frames(
        **{key: spectrogram[key] for key in ("sample_rate", "shift_ms", "length_ms", "frames", "window_seconds")}
    )
    folder = out.with_name(out.name + ".partial")
    values = ClipValues(folder, config.segments, config.segment_seconds, config.frame_size, spectrogram)

    outcomes = {
        index: Outcome(index, "excluded", reason)
        for index, source in enumerate(sources)
        if (reason := missing_media(source))
    }
    # Hours of decoding are not worth it when the end is known before they start.
    _check_lost(config, root, split, sources, outcomes, folder)
    arrays_of = _array_maker(config, len(sources), masked=any(source.masks for source in sources))
    with Journal(folder, _job(config, split, sources, targets), sources, arrays_of) as journal:
        outcomes |= journal.finished
        pending = [(index, source) for index, source in enumerate(sources) if index not in outcomes]
        with tqdm(total=len(sources), initial=len(outcomes), unit="clip", disable=None) as bar:
            bar.set_description(f"{config.name} {split}")
            for chunk in decode_all(values, pending, jobs):
                journal.add(chunk)
                bar.update(len(chunk))
        outcomes |= journal.finished
        _check_lost(config, root, split, sources, outcomes, folder)
        kept = {index: outcomes[index] for index in range(len(sources)) if outcomes[index].status != "excluded"}
        arrays = _dense_arrays(folder, list(kept), len(sources))
        _write_json(folder / "statistics.json", _statistics(list(kept.values()), config, heard))
        _write_csv(folder / "clips.csv", ["clip"], [[sources[index].clip] for index in kept])
        units, asked = _kept_units(targets, list(kept), len(sources))
        np.save(folder / "units.npy", asked)
        kept_targets: dict[str, Any] = {name: array[units] for name, array in targets.arrays.items()}
        np.savez(folder / "targets.npz", **kept_targets)
        manifest = {
            "format": config.format,
            "split": split,
            "classes": classes,
            "vocabulary": len(words),
            "clips": len(kept),
            "units": len(units),
            "notes": targets.notes,
            "segments": config.segments,
            "valid_frames": heard,
            **_describe({name: arrays.get(name, folder / name) for name in (*array_names(folder), *FILES)}),
            "config": config.model_dump(mode="json"),
        }
        _write_json(folder / MANIFEST, manifest)
        # Once rows have moved, the journal no longer tells the truth. Only renames follow.
        journal.remove()
    for name, path in arrays.items():
        path.replace(folder / name)
    if out.exists():
        shutil.rmtree(out)
    folder.rename(out)


def _check_out(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).exists() or not any(out.iterdir()))):
        raise LavishError(f"{out}: neither an empty folder nor a prepared split: give another --out")


def _job(config: DataConfig, split: str, sources: Sequence[ClipSource], targets: Targets) -> dict[str, Any]:
    """Everything that decides what the rows of the arrays hold."""
    keys = {"format", "segments", "segment_seconds", "frame_size", "spectrogram"}
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
    """Return which units stay when only the clips `kept` do, and the position of each unit's clip among these."""
    clip_of = np.arange(clips) if targets.clips is None else targets.clips
    place = np.full(clips, -1)
    place[list(kept)] = np.arange(len(kept))
    units = np.flatnonzero(place[clip_of] >= 0)
    return units, place[clip_of[units]].astype(np.int64)


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

    def make(folder: Path) -> None:
        for name, (dtype, shape) in files.items():
            _make_array(folder / name, dtype, shape)

    return make


def _make_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size
    try:
        # A disk that fills up later would end a worker by a signal, in the middle of a write to the map.
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LavishError(f"{path}: no room for {size / 1e9:.1f} GB: free some, or choose another --out") from None
    return array


def _check_lost(
    config: DataConfig,
    root: Path,
    split: str,
    sources: Sequence[ClipSource],
    outcomes: Mapping[int, Outcome],
    folder: Path,
) -> None:
    """Write the report; LavishError when more clips are lost than the configuration allows, or all are."""
    unread = ("not_read", "")
    rows = [
        [source.clip, *((done.status, done.reason) if (done := outcomes.get(index)) else unread)]
        for index, source in enumerate(sources)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(folder / "report.csv", ["clip", "status", "reason"], rows)
    lost = [row for row in rows if row[1] == "excluded"]
    if len(lost) > config.max_lost * len(sources) or len(lost) == len(sources):
        examples = "; ".join(f"'{clip}': {reason}" for clip, _, reason in lost[:3])
        raise LavishError(
            f"{root}, split {split}: {len(lost)} of {len(sources)} clips cannot be used, data.max_lost allows "
            f"{config.max_lost:.1%} ({examples}{'; ...' if len(lost) > 3 else ''}). All are listed in "
            f"{folder / 'report.csv'}. Restore the media and run again (finished clips stay), or raise data.max_lost"
        )


def _dense_arrays(folder: Path, kept: Sequence[int], clips: int) -> dict[str, Path]:
    """Return copies of the array files without the rows of clips that were left out; none if there are none."""
    paths = {name: folder / f"kept_{name}" for name in array_names(folder)}
    for path in paths.values():
        path.unlink(missing_ok=True)  # of an interruption at this place
    if len(kept) == clips:
        return {}
    for path, array in zip(paths.values(), open_arrays(folder, "r"), strict=True):
        dense = _make_array(path, array.dtype, (len(kept), *array.shape[1:]))
        for start in range(0, len(kept), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            dense[rows] = array[kept[rows]]
    return paths


def _statistics(outcomes: Sequence[Outcome], config: DataConfig, heard: int) -> dict[str, Any]:
    """Mean and standard deviation over all pixels / 255, per channel, and over all log-mels that hold sound."""
    pixels = len(outcomes) * config.segments * config.frame_size**2
    mels = len(outcomes) * config.segments * config.spectrogram.mel_bins * heard
    # Exact sums: the numbers may not depend on the order in which clips were decoded.
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
    names = [name for name in files if name in (*ARRAYS, MASKS)]
    arrays = {name: np.load(files[name], mmap_mode="r", allow_pickle=False) for name in names}
    return {
        "arrays": {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()},
        "sizes": {name: path.stat().st_size for name, path in files.items()},
        "checksums": {name: sha256_of(path) for name, path in files.items()},
    }


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
