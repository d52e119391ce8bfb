"""Pictures and sounds: split by instance, the task's classes never pretrained on, clear messages for bad folders."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import ExifTags, Image

from lavish.config import schema as config
from lavish.data.decoding.pictures import open_picture
from lavish.data.synthetic import procedural_images, procedural_sounds
from lavish.data.synthetic.assets import FolderAssets, ProceduralAssets, divide, open_library
from lavish.data.synthetic.recordings import read_recording
from lavish.errors import LavishError
from lavish.io.fingerprint import fingerprint
from tests.asset_folders import RATE, write_class, write_image
from tests.media_files import tone, write_media

SPLITS = ("train", "val", "test")


def procedural(purpose="task", seed=0):
    counts = config.SplitCounts(train=3, val=2, test=2)
    return ProceduralAssets(config.ProceduralAssetsConfig(instances=counts, seed=seed), purpose)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("assets")
    for name in ("bird", "cow", "dog"):
        write_class(root, name)
    (root / "SOURCES.csv").write_text("file,licence\n")
    (root / ".cache" / "images").mkdir(parents=True)
    (root / "notes").mkdir()
    return root


def test_task_classes_share_parts_with_the_pretraining_ones_but_are_none_of_them():
    task, pretraining = set(procedural_images.TASK_LOOKS), set(procedural_images.PRETRAINING_LOOKS)
    assert len(task) == 8 and len(pretraining) == 12 and not task & pretraining
    assert {look.texture for look in task} == {look.texture for look in pretraining}
    assert {look.shape for look in task} < {look.shape for look in pretraining}
    # Neither part alone tells the class.
    for part in ("texture", "shape"):
        values = [getattr(look, part) for look in task]
        assert all(values.count(value) == 2 for value in values)
    assert not procedural_sounds.TASK_FAMILIES.keys() & procedural_sounds.PRETRAINING_FAMILIES.keys()
    assert len(procedural("task").classes) == 8 and len(procedural("pretraining").classes) == 12


@pytest.mark.parametrize("purpose", ["task", "pretraining"])
def test_procedural_pictures_are_cropped_cut_outs(purpose):
    library = procedural(purpose)
    for index in range(len(library.classes)):
        picture = library.image(index, "train", 0)
        assert picture.dtype == np.uint8 and picture.shape[2] == 4
        assert 32 <= max(picture.shape[:2]) <= procedural_images.SIZE
        covered = picture[..., 3] > 0
        assert covered[0].any() and covered[-1].any() and covered[:, 0].any() and covered[:, -1].any()
        assert 0.2 < (picture[..., 3] / 255).mean() < 0.95
        # Smooth edges: some, not most, of the pixels are partly transparent.
        assert 0 < ((picture[..., 3] > 0) & (picture[..., 3] < 255)).mean() < 0.2


@pytest.mark.parametrize("purpose", ["task", "pretraining"])
def test_procedural_sounds_are_level_and_never_pause(purpose):
    library = procedural(purpose)
    for index in range(len(library.classes)):
        sound = library.sound(index, "val", 1, 16000, 1.5)
        assert sound.dtype == np.float32 and sound.shape == (24000,) and np.abs(sound).max() <= 1
        assert np.sqrt(np.mean(np.square(sound))) == pytest.approx(0.1, rel=0.15)
        assert np.sqrt(np.mean(np.square(sound.reshape(3, -1)), axis=1)).min() > 0.03


def test_an_instance_keeps_its_pitch_when_it_sounds_longer():
    library = procedural()
    for index in (0, 1, 2, 4, 5, 7):
        short, long = library.sound(index, "train", 0, RATE, 0.5), library.sound(index, "train", 0, RATE, 1.5)
        assert np.corrcoef(short, long[: len(short)])[0, 1] > 0.9


def test_procedural_instances_differ_and_are_reproducible():
    pictures, sounds = [], []
    for library in (procedural(), procedural(seed=1), procedural("pretraining")):
        for split in SPLITS:
            for instance in range(library.count_images(0, split)):
                pictures.append(library.image(0, split, instance).tobytes())
                sounds.append(library.sound(0, split, instance, RATE, 0.5).tobytes())
    assert len(set(pictures)) == len(pictures) == 21 and len(set(sounds)) == 21
    assert procedural().image(0, "train", 0).tobytes() == pictures[0]
    assert procedural().sound(0, "train", 0, RATE, 0.5).tobytes() == sounds[0]
    with pytest.raises(IndexError, match="instance 2 of 2"):
        procedural().sound(0, "test", 2, RATE, 0.5)


def test_open_library(folder):
    assert open_library(config.FolderAssetsConfig(root=folder)).classes == ["bird", "cow", "dog"]
    with pytest.raises(LavishError, match="no separate classes for pretraining"):
        open_library(config.FolderAssetsConfig(root=folder), "pretraining")


def test_folder_classes_and_splits(folder):
    library = FolderAssets(config.FolderAssetsConfig(root=folder))
    assert library.classes == ["bird", "cow", "dog"]
    colours = {}
    for split in SPLITS:
        assert library.count_images(0, split) >= 8 and library.count_sounds(0, split) >= 8
        picture = library.image(1, split, 0)
        assert picture.dtype == np.uint8 and picture.shape[2] == 4 and picture[..., 3].max() == 255
        colours[split] = int(picture[picture[..., 3] == 255, 0].mean())
        sound = library.sound(1, split, 0, RATE, 1.0)
        assert sound.dtype == np.float32 and sound.shape == (RATE,) and np.abs(sound).max() <= 1
        # Recordings of 0.3 s are repeated: all of the second sounds.
        assert np.sqrt(np.mean(np.square(sound.reshape(2, -1)), axis=1)).min() > 0.05
    # Each split shows a file of its own.
    assert len(set(colours.values())) == 3
    first, second = library.image(0, "train", 0), library.image(0, "train", 1)
    assert first.tobytes() != second.tobytes()
    assert first.tobytes() == FolderAssets(config.FolderAssetsConfig(root=folder)).image(0, "train", 0).tobytes()


def test_variants_of_one_thing_stay_in_one_split(tmp_path):
    for name in ("rex_a", "rex_b", "rex_c", "bella", "lassie", "fido"):
        write_image(tmp_path / "dog" / "images" / f"{name}.png")
    parts = divide(tmp_path / "dog", "images")
    holding = [split for split in SPLITS if any(path.stem.startswith("rex") for path in parts[split])]
    assert len(holding) == 1
    assert sorted(path.stem for split in SPLITS for path in parts[split]) == sorted(
        ["rex_a", "rex_b", "rex_c", "bella", "lassie", "fido"]
    )


def test_variants_are_divided_where_there_is_nothing_else(tmp_path):
    for name in ("rex_a", "rex_b", "rex_c"):
        write_image(tmp_path / "dog" / "images" / f"{name}.png")
    assert all(len(paths) == 1 for paths in divide(tmp_path / "dog", "images").values())


def test_bad_folders_are_named(folder, tmp_path):
    with pytest.raises(LavishError, match="no such folder of assets"):
        FolderAssets(config.FolderAssetsConfig(root=tmp_path / "absent"))
    with pytest.raises(LavishError, match="0 classes instead of at least 2"):
        FolderAssets(config.FolderAssetsConfig(root=tmp_path))
    for name in ("cat", "dog"):
        write_class(tmp_path, name)
    (tmp_path / "dog" / "images" / "picture0.png").unlink()
    with pytest.raises(LavishError, match=r"dog.images: 2 files.* at least 3"):
        FolderAssets(config.FolderAssetsConfig(root=tmp_path))
    (tmp_path / "bat" / "images").mkdir(parents=True)
    with pytest.raises(LavishError, match=r"bat.images: 0 files"):
        FolderAssets(config.FolderAssetsConfig(root=tmp_path))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b"no picture"), "not a readable image"),
        (lambda path: write_image(path, mode="RGB"), "no alpha channel"),
        (lambda path: write_image(path, (0, 0, 0, 0)), "completely transparent"),
    ],
)
def test_bad_pictures_are_named(tmp_path, spoil, message):
    for name in ("cat", "dog"):
        write_class(tmp_path, name)
    for path in (tmp_path / "dog" / "images").iterdir():
        spoil(path)
    library = FolderAssets(config.FolderAssetsConfig(root=tmp_path))
    library.image(0, "train", 0)
    with pytest.raises(LavishError, match=rf"dog.images.picture\d.png: {message}"):
        library.image(1, "train", 0)


def test_bad_recordings_are_named(tmp_path):
    (tmp_path / "noise.ogg").write_bytes(b"no sound")
    with pytest.raises(LavishError, match=r"noise.ogg: cannot open.*replace"):
        read_recording(tmp_path / "noise.ogg", RATE)
    write_media(tmp_path / "silent.m4a", times=None, audio=np.zeros(16000))
    with pytest.raises(LavishError, match=r"silent.m4a: silent"):
        read_recording(tmp_path / "silent.m4a", RATE)


def test_pauses_of_recordings_are_shortened(tmp_path):
    sound = np.concatenate([np.zeros(16000), tone(0.5), np.zeros(32000), tone(0.5), np.zeros(16000)])
    path = write_media(tmp_path / "barks.m4a", times=None, audio=sound)
    recording = read_recording(path, 16000)
    assert 1.0 <= len(recording) / 16000 <= 1.7
    levels = np.sqrt(np.mean(np.square(recording[: len(recording) // 8000 * 8000].reshape(-1, 8000)), axis=1))
    assert levels.min() > 0.05


def test_fingerprint_sees_names_and_contents_only(folder, tmp_path):
    def copy(place):
        (place / "a").mkdir(parents=True)
        (place / "a" / "-x.txt").write_text("one")
        (place / "b.txt").write_text("two")
        return place

    def of(place):
        return fingerprint(place, place.rglob("*.txt"))

    original = of(copy(tmp_path / "one"))
    other = copy(tmp_path / "two")
    os.utime(other / "b.txt", (1, 1))
    assert of(other) == original and len(original) == 64
    assert fingerprint(other, [*other.rglob("*.txt"), other / "absent.txt"]) != original
    (other / "b.txt").write_text("Two")
    assert of(other) != original
    (other / "b.txt").rename(other / "c.txt")
    (other / "c.txt").write_text("two")
    assert of(other) != original
    with pytest.raises(LavishError, match="no such folder"):
        of(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LavishError, match="none of the files"):
        of(tmp_path / "empty")


def test_fingerprint_costs_the_workflow_no_import():
    code = "import sys, lavish.io.fingerprint; print({'numpy', 'PIL', 'torch'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_real_assets(shared):
    root = shared / "data" / "av_pairs"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    library = FolderAssets(config.FolderAssetsConfig(root=root))
    assert len(library.classes) == 11
    dogs = [path.stem for path in divide(root / "dog", "images")["train"]]
    assert {"s_dog2_a", "s_dog2_b", "s_dog2_c"} <= set(dogs) or not any("s_dog2" in name for name in dogs)
    for index in range(0, 11, 4):
        for split in SPLITS:
            assert (library.image(index, split, 5)[..., 3] > 128).mean() > 0.1
            seconds = library.sound(index, split, 5, 16000, 3.0).reshape(3, -1)
            assert np.sqrt(np.mean(np.square(seconds), axis=1)).min() > 0.002


def test_deep_and_turned_pictures_of_assets_are_read_as_all_pictures_are(tmp_path):
    for name in ("bird", "cow"):
        write_class(tmp_path, name)
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[:, 32:] = (200, 100, 50, 255)
    pixels[8:24, 4:32] = (0, 0, 0, 255)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for path in (tmp_path / "bird" / "images").iterdir():
        Image.fromarray(pixels).save(path, exif=exif)
        turned = open_picture(path)
        assert turned.size == (32, 64)
        assert turned.getpixel((16, 60)) == (200, 100, 50, 255)
    picture = FolderAssets(config.FolderAssetsConfig(kind="folder", root=tmp_path)).image(0, "train", 0)
    assert picture.shape[0] > picture.shape[1]
    for path in (tmp_path / "bird" / "images").iterdir():
        Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(path)
    with pytest.raises(LavishError, match="no alpha channel"):
        FolderAssets(config.FolderAssetsConfig(kind="folder", root=tmp_path)).image(0, "train", 0)
