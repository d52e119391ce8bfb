"""Batches: units and their clips, masks, frames of other clips."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from lavish.data.formats.base import NOT_ANNOTATED
from lavish.data.store.batches import SplitReader, part_of_clips
from lavish.errors import LavishError
from tests.stores import write_store

CPU = torch.device("cpu")
STREAMS = ("visual", "audio")
UNITS = np.array([3, 0, 0, 2, 3, 3, 1, 0])


@pytest.fixture
def asked(tmp_path: Path) -> SplitReader:
    """Four clips, eight units."""
    path = write_store(tmp_path / "asked", clips=4, units=UNITS, targets={"answers": np.arange(8)})
    return SplitReader(path, STREAMS)


def test_units_of_a_clip_share_its_frames(asked: SplitReader) -> None:
    assert len(asked) == 8
    (batch,) = asked.batches([np.array([4, 1, 2, 0])], CPU)
    assert len(batch) == 4 and batch.targets["answers"].tolist() == [4, 1, 2, 0]
    assert batch.frames.shape[0] == batch.log_mels.shape[0] == 2
    for unit, row in zip(batch.units, batch.rows, strict=True):
        assert np.array_equal(batch.frames[row], asked.store.frames[UNITS[unit]])
        assert np.array_equal(batch.log_mels[row], asked.store.log_mels[UNITS[unit]])


def test_where_every_unit_has_its_own_clip_nothing_is_shared_or_sorted(asked: SplitReader) -> None:
    (batch,) = asked.batches([np.array([6, 0, 3])], CPU)
    assert batch.rows is None
    assert np.array_equal(batch.frames, asked.store.frames[[1, 3, 2]])


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_evaluation_reads_each_clip_once_and_each_unit_once(asked: SplitReader, size: int) -> None:
    groups = asked.by_clip(size)
    assert sorted(np.concatenate(groups)) == list(range(8))
    clips = [set(UNITS[group]) for group in groups]
    assert sum(map(len, clips)) == 4 and all(len(group) <= size for group in clips)


def test_clips_in_random_order_keep_their_units_together(asked: SplitReader) -> None:
    orders = set()
    for seed in range(20):
        groups = asked.by_clip(1, np.random.default_rng(seed))
        assert sorted(np.concatenate(groups)) == list(range(8))
        assert all(len(set(UNITS[group])) == 1 for group in groups)
        orders.add(tuple(int(UNITS[group][0]) for group in groups))
    assert len(orders) > 5


def test_a_clip_without_units_makes_no_empty_batch(tmp_path: Path) -> None:
    path = write_store(tmp_path / "store", clips=5, units=np.array([4, 0]), targets={"answers": np.zeros(2)})
    assert [group.tolist() for group in SplitReader(path, STREAMS).by_clip(1)] == [[1], [0]]


def test_shuffling_depends_on_the_generator_alone(asked: SplitReader) -> None:
    first, again, other = (asked.shuffled(3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert [group.tolist() for group in first] == [group.tolist() for group in again]
    assert [group.tolist() for group in first] != [group.tolist() for group in other]
    assert sorted(np.concatenate(first)) == list(range(8)) and [len(group) for group in first] == [3, 3, 2]


def test_masks_reach_the_targets(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 2, 16, 16)).astype(np.uint8)
    masks[0, 1] = NOT_ANNOTATED
    reader = SplitReader(write_store(tmp_path / "store", clips=3, masks=masks), STREAMS)
    (batch,) = reader.batches([np.array([2, 0])], CPU)
    assert np.array_equal(batch.targets["masks"], masks[[2, 0]])
    assert batch.targets["annotated"].tolist() == [0, 1, 2]


def test_negatives_are_frames_of_other_clips(tmp_path: Path) -> None:
    reader = SplitReader(write_store(tmp_path / "store", clips=3, segments=2), STREAMS)
    own = {clip: {frame.tobytes() for frame in reader.store.frames[clip]} for clip in range(3)}
    seen: set[bytes] = set()
    rng = np.random.default_rng(0)
    for _ in range(30):
        (batch,) = reader.batches([np.array([1, 2])], CPU, rng)
        assert batch.negatives.shape == batch.frames.shape
        for clip, frames in zip((1, 2), batch.negatives.numpy(), strict=True):
            assert not own[clip] & {frame.tobytes() for frame in frames}
            seen |= {frame.tobytes() for frame in frames}
    assert len(seen) == 6, "every frame of every clip is drawn for some other clip"


def test_one_clip_has_no_others(tmp_path: Path) -> None:
    reader = SplitReader(write_store(tmp_path / "store", clips=1), STREAMS)
    with pytest.raises(LavishError, match="has only one clip"):
        list(reader.batches([np.array([0])], CPU, np.random.default_rng(0)))


def held_of(reader: SplitReader) -> list[tuple[int, ...]]:
    return sorted(tuple(tensor.shape) for tensor in reader._held.values())


@pytest.mark.parametrize("frozen", [False, True])
def test_batches_from_arrays_that_are_held_on_the_device_are_the_same(frozen: bool, tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 2, 16, 16)).astype(np.uint8)
    path = write_store(tmp_path / "store", clips=3, segments=2, masks=masks)
    np.save(tmp_path / "features.npy", np.random.default_rng(1).random((3, 2, 5), np.float32))
    files = {"visual": tmp_path / "features.npy"} if frozen else {}
    read, held = (SplitReader(path, STREAMS, tmp_path / "features.npy", files) for _ in range(2))
    sizes = [held.store.log_mels, masks, np.zeros((3, 2, 5), np.float32)]
    sizes.append(sizes[-1] if frozen else held.store.frames)
    held.hold(CPU, sum(array.nbytes for array in sizes) - 1)
    assert held_of(held) == []
    held.hold(CPU, sum(array.nbytes for array in sizes))
    assert held_of(held) == sorted(array.shape for array in sizes)
    groups = [np.array([2, 0]), np.array([1])]
    batches = (reader.batches(groups, CPU, np.random.default_rng(2)) for reader in (read, held))
    for expected, found in zip(*batches, strict=True):
        assert len(found) == len(expected) and found.tensors().keys() == expected.tensors().keys()
        for name, tensor in expected.tensors().items():
            assert found.tensors()[name].dtype == tensor.dtype and torch.equal(found.tensors()[name], tensor), name
        assert found.negatives is not None and (found.frames is None) is frozen


def test_a_part_has_the_same_part_of_each_class_and_is_in_larger_parts() -> None:
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [100, 60, 30, 10]))
    parts = [part_of_clips(classes, fraction, 3) for fraction in (0.05, 0.1, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts] == [10, 20, 50, 100, 200]
    for part in parts:
        expected = np.bincount(classes) * len(part) / len(classes)
        assert (np.abs(np.bincount(classes[part], minlength=4) - expected) < 1).all(), "but for rounding"
    for smaller, larger in pairwise(parts):
        assert set(smaller) <= set(larger) and (np.diff(smaller) > 0).all()
    assert set(part_of_clips(classes, 0.5, 4)) != set(parts[3]), "another seed draws others"
    assert len(part_of_clips(classes, 0.001, 0)) == 1


def test_only_a_part_is_read_and_in_every_way(tmp_path: Path) -> None:
    units = np.array([3, 0, 0, 2, 3, 3, 1, 0, 5, 4, 5])
    reader = SplitReader(write_store(tmp_path / "store", clips=6, units=units, targets={"answers": units}), STREAMS)
    reader.restrict(0.5, 0)
    chosen = set(reader.clips)
    expected = {unit for unit, clip in enumerate(units) if clip in chosen}
    assert len(chosen) == 3 and len(reader) == len(expected)
    rng = np.random.default_rng(0)
    for groups in (reader.shuffled(2, rng), reader.by_clip(2), reader.by_clip(2, rng)):
        assert sorted(np.concatenate(groups)) == sorted(expected)
    assert [set(units[group]) for group in reader.by_clip(2)] == [set(sorted(chosen)[:2]), set(sorted(chosen)[2:])]
    own = {frame.tobytes() for clip in chosen for frame in reader.store.frames[clip]}
    for batch in reader.batches(reader.by_clip(1) * 20, CPU, rng):
        assert {frame.tobytes() for frame in batch.negatives[0].numpy()} < own, (
            "frames of others are of the part as well"
        )


def test_the_whole_is_read_as_without_a_part(asked: SplitReader) -> None:
    before = [asked.shuffled(3, np.random.default_rng(1)), asked.by_clip(3, np.random.default_rng(1)), asked.by_clip(3)]
    asked.restrict(1.0, 5)
    after = [asked.shuffled(3, np.random.default_rng(1)), asked.by_clip(3, np.random.default_rng(1)), asked.by_clip(3)]
    assert [[group.tolist() for group in groups] for groups in after] == [
        [group.tolist() for group in groups] for groups in before
    ]


def test_the_class_of_a_clip_is_its_first_event(tmp_path: Path) -> None:
    labels = np.array([[2, 0], [2, 2], [1, 2], [2, 1], [0, 2], [2, 2]])  # 2 is background
    reader = SplitReader(write_store(tmp_path / "store", clips=6, targets={"labels": labels}), STREAMS)
    for seed in range(5):
        reader.restrict(0.5, seed)
        assert sorted(labels[reader.clips].min(axis=1)) == [0, 1, 2]


def test_a_batch_with_the_tensors_of_another_is_that_batch(asked: SplitReader) -> None:
    first, second = asked.batches([np.array([1, 4]), np.array([0, 3])], CPU)
    assert set(first.tensors()) == {"frames", "log_mels", "targets.answers"}
    changed = first.with_tensors(second.tensors())
    assert changed.units is first.units and changed.frozen == first.frozen
    assert all(changed.tensors()[name] is tensor for name, tensor in second.tensors().items())
