"""The prepared store: one folder per split, read through memory maps.

Its files:

=================  =====================================================================================================
frames.npy         uint8 (clips, segments, height, width, 3), RGB; or, for frames that are stored as pictures:
frames-<n>.bin     pictures one after the other, at most 256 MiB
frame_index.npy    (clips, segments): shard, offset and length of each picture
log_mels.npy       float16 (clips, segments, mel_bins, frames), not normalised; see :attr:`SplitStore.valid_frames`
waveforms.npy      int16 (clips, samples), mono
masks.npy          uint8 (clips, segments, height, width): 1 object, 0 rest, 255 not annotated; for formats with masks
units.npy          int64 (units,), the clip of each unit; a unit is one prediction: for a clip, or a question about one
targets.npz        the task's arrays, first axis units
clips.csv          column ``clip``: the names, in order; for formats that have them, column ``category``
report.csv         clip, status (ok, repaired, excluded) and reason of every clip of the official list
statistics.json    mean and standard deviation of frames (/ 255, per channel) and of log-mels over this split
store.json         the manifest: shapes, sizes and checksums of the other files, the configuration
verified.json      sizes and modification times that the other files had when their checksums were last compared
=================  =====================================================================================================
"""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from lavish.data.store.computed import ComputedRows
from lavish.data.store.frames import INDEX, REMEDY, CompressedFrames, is_shard, shard_name
from lavish.errors import LavishError
from lavish.io.atomic import write_json
from lavish.io.checksums import sha256_of

MANIFEST = "store.json"
VERIFIED = "verified.json"
ARRAYS = ("frames.npy", "log_mels.npy", "waveforms.npy")
MASKS = "masks.npy"
FILES = (*ARRAYS, "units.npy", "targets.npz", "clips.csv", "report.csv", "statistics.json")


class _Array(BaseModel):
    shape: list[int]
    dtype: str


class _Frames(BaseModel):
    form: Literal["jpeg", "webp"]
    size: int = Field(ge=1)  # height and width


class _Manifest(BaseModel):
    """What must be in the manifest for a store to be opened."""

    classes: list[str]
    vocabulary: int
    valid_frames: int
    arrays: dict[str, _Array]
    sizes: dict[str, int]
    checksums: dict[str, str]
    frames: _Frames | None = None  # of frames that are stored as pictures


class SplitStore:
    """One split of a prepared data set.

    Opening checks that every file exists with the size and shape in the manifest; :meth:`verify` compares the contents.
    Pickling passes only the path, so that the workers of a data loader map the same files.

    Args:
        path: the folder.
        threads: threads that decode frames which are stored as pictures.

    Attributes:
        path: the folder.
        manifest: the contents of store.json.
        classes: class names; a label equal to their number is background.
        vocabulary: number of words in the question vocabulary.
        clips: clip names, in order.
        categories: of the clips, what each is of where that is nothing to predict (AVSBench's S4); else None.
        statistics: {"frames": {"mean": [3], "std": [3]}, "log_mels": {"mean", "std"}} of this split.
        frames: uint8 (clips, segments, height, width, 3), memory-mapped, read-only; stored as pictures,
            they are decoded when they are read (:class:`lavish.data.store.frames.CompressedFrames`).
        log_mels: float16 (clips, segments, mel_bins, frames), memory-mapped, read-only.
        waveforms: int16 (clips, samples), memory-mapped, read-only.
        masks: uint8 (clips, segments, height, width), memory-mapped, read-only; None for a format without masks.
        units: (units,) int64, the position of each unit's clip.
        targets: the task's arrays by name, first axis units.
        valid_frames: analysis frames of `log_mels` that hold audio; the later ones are padding and must be set to 0
            *after* normalisation.

    Raises:
        LavishError: a file is missing or does not match the manifest.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self.path = Path(path)
        self._threads = threads
        self.manifest: dict[str, Any] = self._json(MANIFEST)
        try:
            pictures = _Manifest.model_validate(self.manifest, strict=True).frames
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            problem = f"no key '{key}'" if first["type"] == "missing" else f"key '{key}': {first['msg']}"
            raise LavishError(f"{self.path / MANIFEST}: {problem}: {REMEDY}") from None
        arrays, sizes = self.manifest["arrays"].keys(), self.manifest["sizes"].keys()
        stored = FILES if pictures is None else (INDEX, *FILES[1:])
        for name in [*stored[: len(ARRAYS)], *({MASKS} & sizes)]:
            if name not in arrays:
                raise LavishError(f"{self.path / MANIFEST}: no key 'arrays.{name}': {REMEDY}")
        shards = {name for name in sizes if pictures is not None and is_shard(name)}
        for name in (sizes | self.manifest["checksums"].keys()) - {*stored, MASKS} - shards:
            raise LavishError(f"{self.path / MANIFEST}: '{name}' is no file of a prepared split: {REMEDY}")
        for name in sorted({*stored, *sizes}):
            self._check_size(name)
        self.classes: list[str] = self.manifest["classes"]
        self.vocabulary: int = self.manifest["vocabulary"]
        self.valid_frames: int = self.manifest["valid_frames"]
        self.statistics: dict[str, Any] = self._json("statistics.json")
        with (self.path / "clips.csv").open(newline="", encoding="utf-8") as file:
            try:
                rows = list(csv.DictReader(file))
                self.clips = [row["clip"] for row in rows]
                self.categories = [row["category"] for row in rows] if rows and "category" in rows[0] else None
            except (csv.Error, KeyError, UnicodeDecodeError) as error:
                raise LavishError(f"{self.path / 'clips.csv'}: not a list of clips ({error}): {REMEDY}") from None
        frames, log_mels, waveforms = (self._map(name) for name in stored[: len(ARRAYS)])
        self.frames: np.ndarray | CompressedFrames | ComputedRows = frames
        self.log_mels: np.ndarray | ComputedRows = log_mels
        self.waveforms: np.ndarray | ComputedRows = waveforms
        if pictures is not None:
            lengths = [self.manifest["sizes"].get(shard_name(number), 0) for number in range(len(shards))]
            self.frames = CompressedFrames(self.path, pictures.form, pictures.size, frames, lengths, threads)
        self.masks = self._map(MASKS) if MASKS in self.manifest["sizes"] else None
        self.units: np.ndarray = self._load("units.npy")
        self.targets: dict[str, np.ndarray] = self._arrays("targets.npz")
        for name, array in self.targets.items():
            if len(array) != len(self.units):
                raise LavishError(
                    f"{self.path}: targets.npz, '{name}' has {len(array)} entries, but there are {len(self.units)} "
                    f"units: {REMEDY}"
                )

    def __len__(self) -> int:
        return len(self.clips)

    def __reduce__(self) -> tuple[type[SplitStore], tuple[Path, int]]:
        return SplitStore, (self.path, self._threads)

    def verify(self) -> None:
        """Compare all checksums, unless no file has changed since they were last compared.

        The sizes and modification times of the compared files are remembered beside them, if the folder can be written.

        Raises:
            LavishError: naming the file whose contents have changed since preparation.
        """
        state = {"manifest": sha256_of(self.path / MANIFEST)}
        for name in self.manifest["checksums"]:
            found = (self.path / name).stat()
            state[name] = f"{found.st_size} {found.st_mtime_ns}"
        remembered = self.path / VERIFIED
        with suppress(OSError, ValueError):
            if json.loads(remembered.read_text(encoding="utf-8")) == state:
                return
        for name, expected in self.manifest["checksums"].items():
            if sha256_of(self.path / name) != expected:
                raise LavishError(f"{self.path / name}: the contents have changed since preparation: {REMEDY}")
        with suppress(OSError):
            write_json(remembered, state)

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise LavishError(f"{path}: missing, so this is not a prepared split: {REMEDY}") from None
        except ValueError as error:
            raise LavishError(f"{path}: not JSON ({error}): {REMEDY}") from None

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path / name, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # what NumPy raises of damaged files has no end: SyntaxError, TokenError, ...
            raise LavishError(f"{self.path / name}: cannot be read as arrays ({error}): {REMEDY}") from None

    def _check_size(self, name: str) -> None:
        path, expected = self.path / name, self.manifest["sizes"].get(name)
        if not path.exists():
            raise LavishError(f"{path}: missing: {REMEDY}")
        if (size := path.stat().st_size) != expected:
            raise LavishError(f"{path}: {size} bytes instead of {expected}: {REMEDY}")

    def _load(self, name: str, mode: Literal["r"] | None = None) -> np.ndarray:
        try:
            return np.load(self.path / name, mmap_mode=mode, allow_pickle=False)
        except Exception as error:
            raise LavishError(f"{self.path / name}: cannot be read as an array ({error}): {REMEDY}") from None

    def _map(self, name: str) -> np.ndarray:
        array = self._load(name, "r")
        shape, dtype = self.manifest["arrays"][name]["shape"], self.manifest["arrays"][name]["dtype"]
        if list(array.shape) != shape or str(array.dtype) != dtype:
            raise LavishError(
                f"{self.path / name}: {array.dtype} {array.shape} instead of {dtype} {tuple(shape)}: {REMEDY}"
            )
        if len(array) != len(self.clips):
            raise LavishError(f"{self.path}: {name} has {len(array)} entries for {len(self.clips)} clips: {REMEDY}")
        return array
