"""Small prepared stores for tests of what reads them: two classes that are a colour and a level of sound."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lavish.data.formats.music_avqa import WORD_SLOTS
from lavish.io.checksums import sha256_of

SPECTROGRAM = {"sample_rate": 16000, "shift_ms": 5.0, "length_ms": 25.0, "window_seconds": 0.1, "window_margin": 0.0}
"""Of the waveforms, whose segments take a tenth of a second; the spectrograms of the stores are drawn at random."""
QUALITY = 90
"""Of pictures."""
TASK_OPTIONS: dict[str, dict[str, Any]] = {
    "event_localization": {"hidden": 16, "loss": "ce"},
    "segmentation": {"channels": 8, "levels": 1},
    "question_answering": {"width": 8},
    "action_recognition": {},
}
"""Options of each task that suit these stores."""

CONDITIONS: dict[str, dict[str, Any]] = {
    "silence": {"kind": "silence"},
    "noise": {"kind": "noise", "snr_db": 0, "seed": 1},
    "shift": {"kind": "shift", "segments": 1},
    "blur": {"kind": "blur", "sigma": 0.1},
    "darken": {"kind": "darken", "factor": 0.25},
    "swap_audio": {"kind": "swap", "stream": "audio", "seed": 1},
    "swap_visual": {"kind": "swap", "stream": "visual", "seed": 1},
    "missing_audio": {"kind": "missing", "stream": "audio"},
    "missing_visual": {"kind": "missing", "stream": "visual"},
}
"""Conditions of each kind, without titles."""


def write_store(
    path: Path,
    *,
    clips: int = 12,
    segments: int = 2,
    size: int = 16,
    seed: int = 0,
    masks: np.ndarray | None = None,
    units: np.ndarray | None = None,
    targets: dict[str, np.ndarray] | None = None,
    vocabulary: int = 0,
    pictures: str | None = None,
    categories: list[str] | None = None,
) -> Path:
    """Write one prepared split of `clips` clips with images of `size` pixels; class 2 is background.

    With `pictures` (jpeg or webp) frames are pictures in two shards, the last clip's first.

    `masks`, or `units` (the clip of each) with their `targets` and `vocabulary`, make it that of another task.
    """
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    labels = rng.integers(0, 3, (clips, segments))
    level = labels[..., None, None] - 1.0
    arrays = {
        "frames.npy": (100 + 50 * level[..., None] + rng.integers(0, 40, (clips, segments, size, size, 3))).astype(
            np.uint8
        ),
        "log_mels.npy": (3 * level + rng.normal(size=(clips, segments, size, size))).astype(np.float16),
        "waveforms.npy": rng.integers(-100, 100, (clips, segments * 1600)).astype(np.int16),
    }
    if masks is not None:
        arrays["masks.npy"] = masks
    shards = []
    if pictures is not None:
        index, shards = _write_pictures(path, arrays.pop("frames.npy"), pictures)
        arrays = {"frame_index.npy": index, **arrays}
    for name, array in arrays.items():
        np.save(path / name, array)
    np.savez(path / "targets.npz", **({"labels": labels} if targets is None else targets))
    np.save(path / "units.npy", np.arange(clips) if units is None else units)
    listed = [["clip"], *([f"-clip{index:03d}"] for index in range(clips))]
    if categories is not None:
        listed = [[*row, more] for row, more in zip(listed, ["category", *categories], strict=True)]
    report = [["clip", "status", "reason"], *([f"-clip{index:03d}", "ok", ""] for index in range(clips))]
    for name, rows in (("clips.csv", listed), ("report.csv", report)):
        with (path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    statistics = {"frames": {"mean": [0.4] * 3, "std": [0.2] * 3}, "log_mels": {"mean": 0.0, "std": 2.0}}
    (path / "statistics.json").write_text(json.dumps(statistics))
    names = [*arrays, *shards, "units.npy", "targets.npz", "clips.csv", "report.csv", "statistics.json"]
    manifest = {
        "format": "ave",
        "classes": ["dark", "middle"],
        "vocabulary": vocabulary,
        "segments": segments,
        "valid_frames": size,
        "config": {"segment_seconds": 0.1, "spectrogram": SPECTROGRAM | {"mel_bins": size, "frames": size}},
        "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in arrays.items()},
        "sizes": {name: (path / name).stat().st_size for name in names},
        "checksums": {name: sha256_of(path / name) for name in names},
    }
    if pictures is not None:
        manifest["frames"] = {"form": pictures, "size": size}
    (path / "store.json").write_text(json.dumps(manifest))
    return path


def contents_of_tasks(clips: int, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Return what :func:`write_store` takes for each task, with two units a clip for questions, in any order."""
    units = rng.permutation(np.repeat(np.arange(clips), 2))
    word = rng.integers(1, 3, len(units))
    masks = rng.integers(0, 2, (clips, 2, 4, 4), np.uint8).repeat(4, axis=2).repeat(4, axis=3)
    questions = np.repeat(word[:, None], WORD_SLOTS, axis=1)
    targets = {"questions": questions, "answers": word - 1, "types": np.arange(len(units)) % 9}
    return {
        "event_localization": {},
        "segmentation": {"masks": masks},
        "question_answering": {"units": units, "targets": targets, "vocabulary": 5},
        "action_recognition": {"targets": {"labels": np.arange(clips) % 2}},
    }


def write_stores_of_tasks(folder: Path, clips: int) -> None:
    """Write a training and a validation split for each task below `folder`."""
    for seed, split in enumerate(("train", "val")):
        for task, content in contents_of_tasks(clips, np.random.default_rng(seed)).items():
            write_store(folder / task / split, clips=clips, seed=seed, **content)


def _write_pictures(path: Path, frames: np.ndarray, form: str) -> tuple[np.ndarray, list[str]]:
    contents = [b"", b""]
    index = np.zeros(frames.shape[:2], [("shard", "<u4"), ("offset", "<u8"), ("length", "<u4")])
    for clip in reversed(range(len(frames))):
        for segment, frame in enumerate(frames[clip]):
            content = as_picture(frame, form)
            index[clip, segment] = clip % 2, len(contents[clip % 2]), len(content)
            contents[clip % 2] += content
    names = ["frames-00000.bin", "frames-00001.bin"]
    for name, content in zip(names, contents, strict=True):
        (path / name).write_bytes(content)
    return index, names


def as_picture(frame: np.ndarray, form: str) -> bytes:
    """Return a frame as JPEG or WebP, as Pillow writes it."""
    picture = io.BytesIO()
    Image.fromarray(frame).save(picture, form, quality=QUALITY)
    return picture.getvalue()


def run_values(**changes: object) -> dict[str, object]:
    """Return a run configuration that fits the stores above, with `changes` to its top-level keys."""
    values: dict[str, object] = {
        "data": {
            "name": "tiny",
            "root": "nowhere",
            "num_classes": 2,
            "segments": 2,
            "frame_size": 16,
            "spectrogram": {"mel_bins": 16, "frames": 16},
        },
        "normalisation": {"frames": "train"},
        "backbone": {
            "model": "vit",
            "spec": {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
            "weights": {"source": "random"},
        },
        "task": {"name": "event_localization", "options": {"hidden": 16, "loss": "ce"}},
        "adapter": {"method": "lavish", "options": {"reduction": 4}},
        "training": {"epochs": 3, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01},
    }
    return values | changes
