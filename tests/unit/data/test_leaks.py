"""Clips that several splits share: by their files, and by what they look like."""

from __future__ import annotations

import io
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavish.data import leaks
from lavish.data.formats.ave import clips

RNG = np.random.default_rng(0)


def picture() -> np.ndarray:
    """Return a smooth random picture (48, 48, 3)."""
    coarse = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))


def bits(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many bits of the hashes of two pictures differ."""
    hashes = [leaks.picture_hash(one[None]) for one in (first, second)]
    assert None not in hashes
    return (hashes[0] ^ hashes[1]).bit_count()


def test_other_sizes_codecs_and_brightness_look_alike_and_other_pictures_do_not() -> None:
    differences = []
    for _ in range(20):
        one = picture()
        content = io.BytesIO()
        Image.fromarray(one).resize((61, 40)).save(content, "jpeg", quality=60)
        changed = np.asarray(Image.open(content)) // 2
        differences.append(bits(one, changed))
        assert bits(one, picture()) > 3 * leaks.MAX_DIFFERENT_BITS
    assert np.mean(np.array(differences) <= leaks.MAX_DIFFERENT_BITS) > 0.8


def test_a_hash_is_that_of_the_middle_frame_by_hand() -> None:
    rising = np.broadcast_to(np.arange(18, dtype=np.uint8)[None, :, None] * 10, (16, 18, 3))
    assert leaks.picture_hash(np.stack([rising[:, ::-1], rising, rising[:, ::-1]])) == 2**64 - 1
    assert leaks.picture_hash(rising[None, :, ::-1]) == 0


def test_pictures_without_contrast_have_no_hash() -> None:
    assert leaks.picture_hash(np.full((3, 32, 32, 3), 17, np.uint8)) is None


def test_pairs_are_those_that_comparing_all_with_all_finds() -> None:
    base = [int.from_bytes(RNG.bytes(8), "big") for _ in range(20)]
    values = [
        *base,
        *(
            value ^ sum(1 << int(bit) for bit in RNG.choice(64, size=RNG.integers(0, 7), replace=False))
            for value in base
        ),
    ]
    hashes = dict(enumerate(values))
    split_of = {key: ("train", "val", "test")[key % 3] for key in hashes}
    expected = {
        (first, second)
        for first, second in combinations(hashes, 2)
        if (hashes[first] ^ hashes[second]).bit_count() <= 3 and split_of[first] != split_of[second]
    }
    found = list(leaks.look_alike(hashes, split_of))
    assert len(found) == len(set(found))
    assert {tuple(sorted(pair)) for pair in found} == expected and expected


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An AVE folder whose lists share videos: a in all of them, b in training and test, d in the other two."""
    (tmp_path / "AVE").mkdir()
    for name, videos in {"trainSet": "abac", "valSet": "ad", "testSet": "badd"}.items():
        (tmp_path / f"{name}.txt").write_text("".join(f"dog&{video}&good&0&2\n" for video in videos))
    return tmp_path


def test_media_of_training_clips_in_other_lists(root: Path) -> None:
    lists = {split: clips(root, split) for split in ("train", "val", "test")}
    shared = leaks.shared_media(lists)
    assert {video.stem: splits for (video, _), splits in shared.items()} == {"a": ("val", "test"), "b": ("test",)}
    dropped = leaks.dropped_clips(lists)
    assert list(dropped) == [0, 1, 2], "each line of a shared video"
    assert dropped[0] == "its media are in the val and the test list as well (data.duplicates: drop_from_train)"


def test_the_official_lists_of_ave_share_18_videos(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data" / "official" / "ave").glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "AVE").mkdir()
    assert len(leaks.shared_media({split: clips(tmp_path, split) for split in ("train", "val", "test")})) == 18
