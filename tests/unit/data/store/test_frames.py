"""Frames that are stored as pictures: what is read, how they are packed, and what is said of damaged ones."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavish.data.formats.base import ClipSource
from lavish.data.store import frames as frames_module
from lavish.data.store.batches import SplitReader
from lavish.data.store.clip_jobs import each_clip
from lavish.data.store.frames import INDEX, PICTURES, CompressedFrames, encode, is_shard, pack, write_pictures
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from tests.stores import QUALITY, as_picture, write_store

CPU = torch.device("cpu")
CLIPS, SEGMENTS, SIZE = 5, 3, 24


@pytest.fixture(params=["jpeg", "webp"])
def form(request: pytest.FixtureRequest) -> str:
    return request.param


def written(path: Path, form: str | None, **more: object) -> Path:
    return write_store(path, clips=CLIPS, segments=SEGMENTS, size=SIZE, pictures=form, **more)


def by_pillow(frames: np.ndarray, form: str) -> np.ndarray:
    """Encode and decode frames (..., H, W, 3) by Pillow alone."""
    flat = [Image.open(io.BytesIO(as_picture(frame, form))) for frame in frames.reshape(-1, *frames.shape[-3:])]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in flat]).reshape(frames.shape)


KEYS = [
    2,
    -1,
    (3, 1),
    slice(1, 4),
    np.array([4, 0, 0, 2]),
    (np.array([[0, 4], [2, 2]]), np.array([[2, 0], [1, 1]])),
    (slice(None), 0),
    slice(None),
]


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_are_read_as_from_the_array_of_what_pillow_decodes(tmp_path: Path, form: str, threads: int) -> None:
    raw = SplitStore(written(tmp_path / "raw", None)).frames
    expected = by_pillow(raw, form)
    assert not np.array_equal(expected, raw)
    frames = SplitStore(written(tmp_path / form, form), threads).frames
    assert isinstance(frames, CompressedFrames)
    assert (frames.shape, frames.dtype, len(frames)) == (raw.shape, raw.dtype, CLIPS)
    for key in KEYS:
        np.testing.assert_array_equal(frames[key], expected[key])
    for key in (CLIPS, (0, SEGMENTS), (0, 0, 0)):
        with pytest.raises(IndexError):
            frames[key]


def test_what_is_packed_is_read_whatever_the_bound_of_a_shard(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.asarray(SplitStore(written(tmp_path / "raw", None)).frames)
    (tmp_path / PICTURES).mkdir()
    lengths = {}
    for clip in (3, 0, 4):
        lengths[clip], kept = write_pictures(tmp_path / PICTURES / str(clip), raw[clip], form, QUALITY)
        np.testing.assert_array_equal(kept, by_pillow(raw[clip], form))
    longest = max(map(sum, lengths.values()))
    (tmp_path / "frames-00007.bin").write_bytes(b"left by an interruption")
    for bound, shards in ((1, 3), (longest, 3), (2 * longest, 2), (3 * longest, 1)):
        monkeypatch.setattr(frames_module, "SHARD_BYTES", bound)
        names = pack(tmp_path, lengths)
        assert names == [INDEX, *(f"frames-{number:05d}.bin" for number in range(shards))]
        assert sorted(path.name for path in tmp_path.iterdir() if is_shard(path.name)) == names[1:]
        sizes = [(tmp_path / name).stat().st_size for name in names[1:]]
        assert max(sizes) <= max(bound, longest) and sum(sizes) == sum(map(sum, lengths.values()))
        frames = CompressedFrames(tmp_path, form, SIZE, np.load(tmp_path / INDEX), sizes, 1)
        np.testing.assert_array_equal(frames[:], by_pillow(raw[[3, 0, 4]], form))


def test_a_higher_quality_is_larger_and_closer(form: str) -> None:
    rows, columns = np.mgrid[:64, :64]
    frame = np.stack([rows * 3, columns * 3, 128 + 60 * np.sin(rows / 4) * np.cos(columns / 5)], -1).astype(np.uint8)
    pictures = [encode(frame, form, quality) for quality in (30, 95)]
    errors = [np.abs(frames_module.decode(picture, form).astype(int) - frame).mean() for picture in pictures]
    assert len(pictures[0]) < len(pictures[1]) and errors[1] < errors[0] < 8


def test_batches_differ_from_raw_ones_by_the_error_of_the_codec_alone(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    masks = rng.choice(np.array([0, 1, 255], np.uint8), (CLIPS, SEGMENTS, SIZE, SIZE))
    readers = [
        SplitReader(written(tmp_path / str(pictures), pictures, masks=masks), ("visual", "audio"))
        for pictures in (None, form)
    ]
    groups = readers[0].shuffled(2, np.random.default_rng(1))
    raw, read = (list(reader.batches(groups, CPU, np.random.default_rng(2))) for reader in readers)
    assert len(raw) == len(read) == 3
    for expected, batch in zip(raw, read, strict=True):
        assert np.array_equal(batch.units, expected.units)
        assert torch.equal(batch.log_mels, expected.log_mels)
        assert torch.equal(batch.targets["masks"], expected.targets["masks"])
        for name in ("frames", "negatives"):
            np.testing.assert_array_equal(getattr(batch, name), by_pillow(getattr(expected, name).numpy(), form))


def test_a_stream_that_is_not_read_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = SplitReader(written(tmp_path / "store", "jpeg"), ("audio",))
    monkeypatch.setattr(frames_module, "decode", lambda *_: pytest.fail("decoded"))
    assert [batch.frames for batch in reader.batches([np.array([0, 1])], CPU)] == [None]


def test_pickling_passes_the_path_and_the_threads(tmp_path: Path) -> None:
    store = SplitStore(written(tmp_path / "store", "webp"), 2)
    store.frames[0]
    content = pickle.dumps(store)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).frames[:], store.frames[:])


# --- damaged stores ---


def change_manifest(split: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((split / "store.json").read_text())
    change(manifest)
    (split / "store.json").write_text(json.dumps(manifest))


def change_index(split: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Change the index and its entries in the manifest."""
    index = np.load(split / INDEX)
    changed = change(index)
    np.save(split / INDEX, index if changed is None else changed)

    def follow(manifest: dict) -> None:
        array = np.load(split / INDEX)
        manifest["arrays"][INDEX] = {"shape": list(array.shape), "dtype": str(array.dtype)}
        manifest["sizes"][INDEX] = (split / INDEX).stat().st_size
        manifest["checksums"][INDEX] = sha256_of(split / INDEX)

    change_manifest(split, follow)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return written(tmp_path / "train", "jpeg")


@pytest.mark.parametrize("name", ["frames-00001.bin", INDEX])
def test_a_missing_truncated_or_changed_file_is_named(split: Path, name: str) -> None:
    content = (split / name).read_bytes()
    (split / name).write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    with pytest.raises(LavishError, match=rf"{name}: the contents have changed since preparation: prepare the split"):
        SplitReader(split, ("visual",))
    (split / name).write_bytes(content[:-1])
    with pytest.raises(LavishError, match=rf"{name}: \d+ bytes instead of \d+: prepare the split again"):
        SplitStore(split)
    (split / name).unlink()
    with pytest.raises(LavishError, match=rf"{name}: missing: prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize(
    ("field", "value"),
    [("shard", 2), ("shard", 2**32 - 1), ("offset", 10**6), ("offset", 2**64 - 1), ("length", 2**32 - 1)],
)
def test_an_index_that_points_outside_is_named(split: Path, field: str, value: int) -> None:
    change_index(split, lambda index: index[field].__setitem__((3, 1), value))
    with pytest.raises(LavishError, match=r"frame_index\.npy: frame 1 of clip 3 lies outside the shards: prepare"):
        SplitStore(split)


def test_an_index_of_a_shard_that_the_manifest_lacks_is_named(split: Path) -> None:
    for key in ("sizes", "checksums"):
        change_manifest(split, lambda manifest, key=key: manifest[key].pop("frames-00001.bin"))
    with pytest.raises(LavishError, match=r"frame_index\.npy: frame 0 of clip 1 lies outside the shards"):
        SplitStore(split)


@pytest.mark.parametrize("change", [lambda index: index[:, 0].copy(), lambda index: index["offset"].copy()])
def test_another_array_is_no_index(split: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    change_index(split, change)
    with pytest.raises(LavishError, match=r"frame_index\.npy: .* is no index of the frames: prepare"):
        SplitStore(split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["frames"].update(form="gif"), r"key 'frames\.form': Input should be 'jpeg' or 'webp'"),
        (lambda m: m["frames"].pop("size"), r"no key 'frames\.size'"),
        (lambda m: m["frames"].update(size=0), r"key 'frames\.size': Input should be greater"),
        (lambda m: m["arrays"].pop(INDEX), r"no key 'arrays\.frame_index\.npy'"),
        (lambda m: m.pop("frames"), r"no key 'arrays\.frames\.npy'"),
        (lambda m: m["sizes"].update({"frames-1.bin": 1}), r"'frames-1\.bin' is no file of a prepared split"),
    ],
)
def test_wrong_values_in_the_manifest_are_named(split: Path, change: Callable[[dict], object], message: str) -> None:
    change_manifest(split, change)
    with pytest.raises(LavishError, match=rf"store\.json: {message}.*: prepare the split again"):
        SplitStore(split)


def test_a_picture_that_cannot_be_decoded_names_its_shard(split: Path, form: str) -> None:
    frames = SplitStore(split, threads=2).frames
    start = int(np.load(split / INDEX)[2, 0]["offset"])
    with (split / "frames-00000.bin").open("r+b") as file:
        file.seek(start)
        file.write(bytes(16))
    with pytest.raises(
        LavishError, match=rf"frames-00000\.bin: the picture at byte {start} cannot be decoded .*prepare"
    ):
        frames[2]
    np.testing.assert_array_equal(frames[0], SplitStore(split).frames[0])


def test_a_picture_of_another_size_names_its_shard(split: Path) -> None:
    change_manifest(split, lambda manifest: manifest["frames"].update(size=10**9))
    with pytest.raises(LavishError, match=r"frames-00000\.bin: the picture at byte \d+ has another size: prepare"):
        SplitStore(split)


def test_an_error_of_a_batch_in_advance_reaches_the_training(split: Path) -> None:
    reader = SplitReader(split, ("visual",))
    (split / "frames-00001.bin").write_bytes(bytes((split / "frames-00001.bin").stat().st_size))
    batches = reader.batches([np.array([0]), np.array([1]), np.array([2])], CPU)
    assert len(next(batches)) == 1
    with pytest.raises(LavishError, match=r"frames-00001\.bin: .* cannot be decoded"):
        next(batches)


def test_pictures_that_cannot_be_written_are_an_error_and_exclude_no_clip(tmp_path: Path) -> None:
    frames = np.zeros((2, 16, 16, 3), np.uint8)

    def decode(index: int, source: ClipSource) -> None:
        write_pictures(Path("/dev/full"), frames, "jpeg", 90)

    clips = [(0, ClipSource("clip", tmp_path, tmp_path))]
    with pytest.raises(
        LavishError, match=r"/dev/full: no space left on device: free some room.*finished clips are kept"
    ):
        each_clip(clips, decode)
