"""Clips of the training split that are in another split as well: the same files, or pictures that look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from lavish.data.formats.base import ClipSource

HASH_BITS = 64
MAX_DIFFERENT_BITS = 3
"""Of the hashes of two pictures that look alike."""
_BANDS = 4
"""Parts of a hash. Two hashes with fewer differing bits than parts agree in one part at least."""
_MIN_CONTRAST = 8.0
"""Standard deviation of a picture's grey levels; black frames and title cards all look alike."""

Media = tuple[Path, Path]


def media_of(source: ClipSource) -> Media:
    """Return the media files of a clip."""
    return source.video, source.audio


def shared_media(clips: Mapping[str, Sequence[ClipSource]]) -> dict[Media, tuple[str, ...]]:
    """Return the media files of training clips that other splits have too, with the names of these splits."""
    media = {split: set(map(media_of, sources)) for split, sources in clips.items()}
    train = media.pop("train", set())
    others = {one: tuple(split for split, known in media.items() if one in known) for one in train}
    return {one: splits for one, splits in others.items() if splits}


def dropped_clips(clips: Mapping[str, Sequence[ClipSource]]) -> dict[int, str]:
    """Return the positions of training clips whose media are in another split as well, each with the reason."""
    shared = shared_media(clips)
    return {
        index: f"its media are in the {' and the '.join(splits)} list as well (data.duplicates: drop_from_train)"
        for index, source in enumerate(clips["train"])
        if (splits := shared.get(media_of(source)))
    }


def picture_hash(frames: np.ndarray) -> int | None:
    """Return a hash of the middle one of frames (segments, H, W, 3) uint8, alike for pictures that look alike.

    Each bit says whether a cell of an 8 x 9 grid of grey levels is brighter than its right neighbour (the difference
    hash). None for a picture without contrast.
    """
    grey = frames[len(frames) // 2].mean(axis=-1)
    if grey.std() < _MIN_CONTRAST:
        return None
    rows, columns = (
        np.linspace(0, size, parts + 1).astype(int)[:-1] for size, parts in zip(grey.shape, (8, 9), strict=True)
    )
    cells = np.add.reduceat(np.add.reduceat(grey, rows, axis=0), columns, axis=1)
    area = np.outer(np.diff([*rows, grey.shape[0]]), np.diff([*columns, grey.shape[1]]))
    bits = np.diff(cells / area, axis=1).ravel() > 0
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def look_alike(hashes: Mapping[int, int], split_of: Mapping[int, str]) -> Iterator[tuple[int, int]]:
    """Yield pairs of pictures of different splits, by their keys, whose hashes differ in few bits."""
    width = HASH_BITS // _BANDS
    seen: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        alike: dict[int, list[int]] = defaultdict(list)
        for key, value in hashes.items():
            alike[value >> (band * width) & (2**width - 1)].append(key)
        for keys in alike.values():
            for pair in combinations(keys, 2):
                first, second = pair
                differ = (hashes[first] ^ hashes[second]).bit_count()
                if split_of[first] != split_of[second] and differ <= MAX_DIFFERENT_BITS and pair not in seen:
                    seen.add(pair)
                    yield pair
