"""Batches: reading prepared splits through memory maps and moving them to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lavish.data.formats.base import NOT_ANNOTATED
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError


@dataclass(frozen=True)
class Batch:
    """The units of one batch and their clips, each clip once.

    A stream that was not requested, or whose features are in `frozen`, is None.
    """

    frames: Tensor | None
    """(clips, segments, H, W, 3) uint8."""
    log_mels: Tensor | None
    """(clips, segments, mel bins, frames) float16."""
    audio_features: Tensor | None
    """(clips, segments, E) float32, features of a separate audio encoder."""
    targets: dict[str, Tensor]
    """First axis: units; of `annotated`, the frames (of all units, one after another) that have a mask."""
    units: np.ndarray
    """Positions of the units in the store."""
    rows: Tensor | None = None
    """(units,) the clip of each unit; None if the units are the clips."""
    negatives: Tensor | None = None
    """(clips, segments, H, W, 3) uint8, frames of other clips, if requested; with visual features in `frozen`,
    features of these frames."""
    frozen: Mapping[str, Tensor] = field(default_factory=dict)
    """By stream, (clips, segments, W) float32, features of the frozen backbone as rows of numbers."""

    def __len__(self) -> int:
        return len(self.units)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by their names; those of mappings are named 'targets.labels'."""
        named: dict[str, Tensor] = {}
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if isinstance(value, Tensor):
                named[field_.name] = value
            elif isinstance(value, dict):
                named |= {f"{field_.name}.{key}": value[key] for key in sorted(value)}
        return named

    def with_tensors(self, named: Mapping[str, Tensor]) -> Batch:
        """Return the batch with other tensors, by the names of :meth:`tensors`."""
        changes: dict[str, Any] = {}
        for name, tensor in named.items():
            key, _, inner = name.partition(".")
            if inner:
                changes.setdefault(key, {})[inner] = tensor
            else:
                changes[key] = tensor
        return replace(self, **changes)


class SplitReader:
    """Reads batches of one split, and of the streams only the requested ones.

    Args:
        path: folder of the prepared split.
        streams: the streams to read.
        audio_features: features of a separate audio encoder, a file.
        frozen: by stream, a file with features of the frozen backbone, which are read instead of the stream's images.

    Raises:
        LavishError: a file of the split is missing or damaged, or features do not fit it.
    """

    def __init__(
        self,
        path: Path,
        streams: tuple[str, ...],
        audio_features: Path | None = None,
        frozen: Mapping[str, Path] | None = None,
    ) -> None:
        self.store = SplitStore(path, torch.get_num_threads())
        self.store.verify()
        self._streams = streams
        self.clips: np.ndarray = np.arange(len(self.store))
        """The clips whose units are read, by their positions in the store."""
        self._audio_features = None if audio_features is None else self._features(audio_features)
        self._frozen = {stream: self._features(file) for stream, file in (frozen or {}).items()}
        self._held: dict[int, Tensor] = {}
        """By the id of an array, its copy on the device."""

    def hold(self, device: torch.device, limit: int) -> None:
        """Keep the arrays that batches are made of on the device, if they take at most `limit` bytes in all.

        Batches are then made there, and no step waits for a copy. Frames that are stored as pictures stay on disk, and
        what a condition changes is computed for each batch.
        """
        store = self.store
        stored = {"visual": store.frames, "audio": store.log_mels}
        read = [stored[stream] for stream in self._streams if stream not in self._frozen]
        # Not those that are decoded or computed when they are read.
        arrays = [
            array
            for array in (*self._frozen.values(), *read, self._audio_features, store.masks)
            if isinstance(array, np.ndarray)
        ]
        if sum(array.nbytes for array in arrays) <= limit:
            # Copied, since torch warns of arrays that it may not write to.
            self._held = {id(array): torch.from_numpy(np.array(array)).to(device) for array in arrays}

    def use_audio_features(self, features: np.ndarray) -> None:
        """Read these features of a separate audio encoder, float32 (clips, segments, E), instead of a file's."""
        self._audio_features = features

    def restrict(self, fraction: float, seed: int) -> None:
        """Read only a part of the clips: see :func:`part_of_clips`."""
        labels = self.store.targets.get("labels")
        classes = np.zeros(len(self.store), np.int64)
        if labels is not None:  # of segments the first class that is not background, which has the last index
            classes[self.store.units] = labels.min(axis=1) if labels.ndim == 2 else labels
        self.clips = part_of_clips(classes, fraction, seed)

    def _features(self, file: Path) -> np.ndarray:
        try:
            features = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise LavishError(f"{file}: missing; `lavish encode` writes it") from None
        except Exception as error:  # what NumPy raises of damaged files has no end
            raise LavishError(f"{file}: cannot be read as an array ({error}): delete the features") from None
        expected = (len(self.store), self.store.log_mels.shape[1])
        if features.ndim != 3 or features.dtype != np.float32 or features.shape[:2] != expected:
            raise LavishError(
                f"{file} has {features.dtype} {features.shape}, but {self.store.path} has {expected[0]} clips of "
                f"{expected[1]} segments: delete the features, they belong to another prepared store"
            )
        return features

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self._units)

    @property
    def _units(self) -> np.ndarray:
        """The units of :attr:`clips`, by their positions in the store."""
        return np.flatnonzero(np.isin(self.store.units, self.clips))

    @property
    def audio_feature_dim(self) -> int:
        """Width of the separate audio encoder's features; 0 without such an encoder."""
        return 0 if self._audio_features is None else self._audio_features.shape[-1]

    @property
    def frozen_dims(self) -> dict[str, int]:
        """Width of the rows of each stream whose features of the frozen backbone are read."""
        return {stream: features.shape[-1] for stream, features in self._frozen.items()}

    def shuffled(self, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return all units in random order, in groups of `batch_size`."""
        order = rng.permutation(self._units)
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def by_clip(self, batch_size: int, rng: np.random.Generator | None = None) -> list[np.ndarray]:
        """Return all units in groups; a group has the units of `batch_size` clips, and each clip is in one group only.

        Clips are in the store's order or, if `rng` is given, in random order.
        """
        clips, units = len(self.clips), self._units
        position = np.arange(clips) if rng is None else rng.permutation(clips)
        of_unit = position[np.searchsorted(self.clips, self.store.units[units])]
        in_order = np.argsort(of_unit, kind="stable")
        order = units[in_order]
        first = np.searchsorted(of_unit[in_order], np.arange(0, clips, batch_size))
        return [group for group in np.split(order, first[1:]) if len(group)]

    def batches(
        self, groups: Sequence[np.ndarray], device: torch.device, negatives: np.random.Generator | None = None
    ) -> Iterator[Batch]:
        """Yield a batch for each group of units; the next batch is prefetched on a GPU, and of frames to decode.

        With `negatives`, a frame of another clip of the split is sampled for each segment of each clip.
        """
        if device.type == "cpu" and isinstance(self.store.frames, np.ndarray):
            # A memory-mapped read takes about a thousandth of the time of an optimizer step on a CPU: prefetching in a
            # thread would only compete for the CPU.
            yield from (self._read(group, device, negatives) for group in groups)
            return
        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending = ahead.submit(self._read, groups[0], device, negatives) if groups else None
            for following in [*groups[1:], None]:
                batch = pending.result() if pending else None
                pending = ahead.submit(self._read, following, device, negatives) if following is not None else None
                if batch is not None:
                    yield batch

    def _read(self, units: np.ndarray, device: torch.device, negatives: np.random.Generator | None) -> Batch:
        store = self.store
        clips, rows = np.unique(store.units[units], return_inverse=True)
        shared = len(clips) < len(units)
        if not shared:
            clips = store.units[units]

        def put(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array))
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        def rows_of(array: Any, *index: np.ndarray) -> Tensor:
            held = self._held.get(id(array))
            return put(array[index]) if held is None else held[tuple(map(put, index))]

        encoded = [stream for stream in self._streams if stream not in self._frozen]
        targets = {name: put(values[units]) for name, values in store.targets.items()}
        if store.masks is not None:
            of_units = store.units[units]
            # Counted here, because what is chosen on a GPU has a size that the program would have to wait for.
            annotated = np.flatnonzero(store.masks[of_units, :, 0, 0] != NOT_ANNOTATED)
            targets |= {"masks": rows_of(store.masks, of_units), "annotated": put(annotated)}
        return Batch(
            frames=rows_of(store.frames, clips) if "visual" in encoded else None,
            log_mels=rows_of(store.log_mels, clips) if "audio" in encoded else None,
            audio_features=None if self._audio_features is None else rows_of(self._audio_features, clips),
            targets=targets,
            units=units,
            rows=put(rows) if shared else None,
            negatives=None
            if negatives is None or "visual" not in self._streams
            else rows_of(self._frozen.get("visual", store.frames), *self._frames_of_others(clips, negatives)),
            frozen={stream: rows_of(features, clips) for stream, features in self._frozen.items()},
        )

    def _frames_of_others(self, clips: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Sample the clips and the segments (clips, segments) of frames, uniformly from all segments of other clips."""
        if len(self.clips) < 2:
            raise LavishError(
                f"{self.store.path}: the method needs frames of other clips, but the split has only one clip: add clips"
            )
        segments, count = self.store.log_mels.shape[1], len(self.clips)
        shape = (len(clips), segments)
        others = (np.searchsorted(self.clips, clips)[:, None] + rng.integers(1, count, size=shape)) % count
        return self.clips[others], rng.integers(segments, size=shape)


def part_of_clips(classes: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Return the positions, in order, of a random part of clips of these classes (clips,).

    Each class has the same part, but for rounding. With the same seed, smaller parts are contained in larger ones.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(classes))  # of a clip in its class, from 0 to 1
    for one in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == one))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.sort(np.argsort(place, kind="stable")[: max(1, round(fraction * len(classes)))])
