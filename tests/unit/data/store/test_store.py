"""The prepared store: what it reads, and what it says when it was damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lavish.data.store import store as store_module
from lavish.data.store.batches import SplitReader
from lavish.data.store.store import FILES, SplitStore
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from tests.stores import write_store


@pytest.fixture
def split(tmp_path: Path) -> Path:
    return write_store(tmp_path / "train", clips=5)


def change_manifest(split: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((split / "store.json").read_text())
    change(manifest)
    (split / "store.json").write_text(json.dumps(manifest))


def test_everything_is_read_and_the_arrays_are_mapped(split: Path) -> None:
    store = SplitStore(split)
    assert len(store) == 5
    assert store.clips[0] == "-clip000"
    assert store.classes == ["dark", "middle"]
    assert store.valid_frames == 16
    assert store.statistics["log_mels"]["std"] == 2.0
    assert set(store.targets) == {"labels"}
    for array in (store.frames, store.log_mels, store.waveforms):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
    store.verify()


def test_pickling_passes_the_path_and_not_the_arrays(split: Path) -> None:
    store = SplitStore(split)
    assert len(pickle.dumps(store)) < 1000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).frames, store.frames)


def test_clip_names_stay_text(split: Path) -> None:
    (split / "clips.csv").write_text('clip\n-001\n1e5\nNA\n"a,b"\n007\n')
    change_manifest(split, lambda m: m["sizes"].update({"clips.csv": (split / "clips.csv").stat().st_size}))
    assert SplitStore(split).clips == ["-001", "1e5", "NA", "a,b", "007"]


@pytest.mark.parametrize("text", ["name\n-001\n", "clip\n" + "x" * 140000 + "\n"])
def test_a_list_of_clips_that_is_none_is_named(split: Path, text: str) -> None:
    (split / "clips.csv").write_text(text)
    change_manifest(split, lambda m: m["sizes"].update({"clips.csv": len(text)}))
    with pytest.raises(LavishError, match=r"clips\.csv: not a list of clips .*prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize("name", [*FILES, "store.json"])
def test_a_missing_file_is_named(split: Path, name: str) -> None:
    (split / name).unlink()
    with pytest.raises(LavishError, match=rf"{name}: missing.*prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(split: Path, name: str) -> None:
    (split / name).write_bytes((split / name).read_bytes()[:-1])
    with pytest.raises(LavishError, match=rf"{name}: \d+ bytes instead of \d+"):
        SplitStore(split)


@pytest.mark.parametrize("name", FILES)
def test_changed_contents_are_found_by_verification(split: Path, name: str) -> None:
    store = SplitStore(split)
    content = bytearray((split / name).read_bytes())
    content[-2] ^= 1
    (split / name).write_bytes(bytes(content))
    with pytest.raises(LavishError, match=rf"{name}: the contents have changed since preparation"):
        store.verify()


def test_contents_are_compared_once_for_each_state_of_the_files(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(store_module, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    SplitStore(split).verify()
    SplitStore(split).verify()
    assert sorted(read) == sorted([*SplitStore(split).manifest["checksums"], "store.json", "store.json"])


def test_a_training_refuses_zeroed_arrays_of_the_same_size(split: Path) -> None:
    SplitReader(split, ("visual",))
    frames = split / "frames.npy"
    content = frames.read_bytes()
    frames.write_bytes(content[:128] + bytes(len(content) - 128))
    with pytest.raises(LavishError, match=r"frames\.npy: the contents have changed since preparation"):
        SplitReader(split, ("visual",))


def test_shapes_and_numbers_of_clips_must_agree(split: Path) -> None:
    manifest = (split / "store.json").read_text()
    change_manifest(split, lambda m: m["arrays"]["frames.npy"]["shape"].__setitem__(1, 3))
    with pytest.raises(LavishError, match=r"frames\.npy: uint8 .* instead of uint8"):
        SplitStore(split)
    (split / "store.json").write_text(manifest)
    np.savez(split / "targets.npz", labels=np.zeros((4, 2)))
    change_manifest(split, lambda m: m["sizes"].update({"targets.npz": (split / "targets.npz").stat().st_size}))
    with pytest.raises(LavishError, match=r"targets\.npz, 'labels' has 4 entries, but there are 5 units"):
        SplitStore(split)


def test_a_foreign_manifest_is_refused(split: Path) -> None:
    change_manifest(split, lambda m: m.pop("sizes"))
    with pytest.raises(LavishError, match=r"store\.json: no key 'sizes'"):
        SplitStore(split)
    (split / "store.json").write_text("{")
    with pytest.raises(LavishError, match=r"store\.json: not JSON"):
        SplitStore(split)


def test_targets_are_never_unpickled(split: Path) -> None:
    np.savez(split / "targets.npz", labels=np.array([object()] * 5))
    change_manifest(split, lambda m: m["sizes"].update({"targets.npz": (split / "targets.npz").stat().st_size}))
    with pytest.raises(LavishError, match=r"targets\.npz: .*prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize("text", ["null", "[]", '"store"'])
def test_a_manifest_that_is_no_mapping_is_named(split: Path, text: str) -> None:
    (split / "store.json").write_text(text)
    with pytest.raises(LavishError, match=r"store\.json: .* prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(vocabulary="1"), "key 'vocabulary': Input should be a valid integer"),
        (lambda m: m["sizes"].update({"clips.csv": None}), r"key 'sizes\.clips\.csv': Input should be a valid integer"),
        (lambda m: m["arrays"].pop("frames.npy"), r"no key 'arrays\.frames\.npy'"),
        (lambda m: m["arrays"]["frames.npy"].pop("shape"), r"no key 'arrays\.frames\.npy\.shape'"),
        (lambda m: m["sizes"].update({"x" * 300: 1}), "'x+' is no file of a prepared split"),
        (lambda m: m["checksums"].update({"../x": ""}), r"'\.\./x' is no file of a prepared split"),
    ],
)
def test_wrong_values_in_the_manifest_are_named(split: Path, change: Callable[[dict], None], message: str) -> None:
    change_manifest(split, change)
    with pytest.raises(LavishError, match=rf"store\.json: {message}: prepare the split again"):
        SplitStore(split)


@pytest.mark.parametrize("name", ["frames.npy", "units.npy"])
@pytest.mark.parametrize("header", [b"[", b"(1", b"\x99\n("])
def test_a_damaged_header_of_an_array_is_named(split: Path, name: str, header: bytes) -> None:
    content = (split / name).read_bytes()
    (split / name).write_bytes(content[:10] + header + content[10 + len(header) :])
    with pytest.raises(LavishError, match=rf"{name}: cannot be read as an array"):
        SplitStore(split)


def test_a_list_of_clips_that_is_not_text_is_named(split: Path) -> None:
    (split / "clips.csv").write_bytes(b"\xff" + (split / "clips.csv").read_bytes()[1:])
    with pytest.raises(LavishError, match=r"clips\.csv: not a list of clips"):
        SplitStore(split)
