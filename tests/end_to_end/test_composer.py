"""Composed data sets: official files, the same bytes on every way, and labels that can be seen and heard."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from lavish.config.schema import CompositionConfig, DataConfig
from lavish.data.formats import ave
from lavish.data.synthetic import composer
from lavish.data.synthetic.assets import asset_files
from lavish.data.synthetic.composer import compose
from lavish.data.synthetic.video_writing import write_video
from lavish.errors import LavishError
from lavish.io.fingerprint import fingerprint
from tests.asset_folders import write_class
from tests.media_files import tone


def configuration(**changes) -> CompositionConfig:
    values = {
        "assets": {"kind": "procedural", "instances": {"train": 5, "val": 3, "test": 3}},
        "clips": {"train": 17, "val": 4, "test": 5},
        "picture_size": 32,
        "sample_rate": 8000,
        **changes,
    }
    segment_seconds = values.pop("segment_seconds", 0.5)
    return CompositionConfig(
        format=values.pop("format", "ave"), segments=3, segment_seconds=segment_seconds, compose=values
    )


def decode(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    with av.open(f"file:{path}") as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(f"file:{path}") as container:
        frames = list(container.decode(audio=0))
    return pictures, np.concatenate([frame.to_ndarray()[0] for frame in frames]), frames[0].sample_rate


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "set"
    compose(configuration(), out, 1)
    return out


def scenes_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]


def test_layout_is_the_official_one(composed):
    lines = (composed / "Annotations.txt").read_text().splitlines()
    assert lines[0] == "Category&VideoID&Quality&StartTime&EndTime"
    lists = [
        line for name in ("train", "val", "test") for line in (composed / f"{name}Set.txt").read_text().splitlines()
    ]
    assert lines[1:] == lists and len(lists) == 26
    ids = [line.split("&")[1] for line in lists]
    assert len(set(ids)) == 26 and all(len(name) == 11 for name in ids) and sum(name[0] == "-" for name in ids) >= 3
    assert not ave.unread(composed)
    assert sorted(path.name for path in (composed / "AVE").iterdir()) == sorted(f"{name}.mp4" for name in ids)
    assert json.loads((composed / "composition.json").read_text())["compose"]["clips"]["train"] == 17


def test_the_official_reader_reads_it(composed):
    classes = ave.classes(composed)
    assert len(classes) == 8
    by_clip = {scene["clip"]: scene for scene in scenes_of(composed)}
    for split, count in (("train", 17), ("val", 4), ("test", 5)):
        clips = ave.clips(composed, split)
        labels = ave.targets(composed, split, segments=3, segment_seconds=0.5).arrays["labels"]
        assert labels.shape == (count, 3)
        for clip, row in zip(clips, labels, strict=True):
            scene = by_clip[clip.clip]
            assert scene["split"] == split and clip.video.is_file()
            expected = [8] * 3
            expected[slice(*scene["event"])] = [classes.index(scene["class"])] * (scene["event"][1] - scene["event"][0])
            assert row.tolist() == expected


@pytest.mark.parametrize("name", composer._MODULES)
def test_the_bytes_depend_neither_on_jobs_nor_on_interruptions(tmp_path, monkeypatch, name):
    wanted = configuration(format=name)
    compose(wanted, tmp_path / "one", 1)
    expected = digests(tmp_path / "one")
    compose(wanted, tmp_path / "two", 2)
    assert digests(tmp_path / "two") == expected

    layout = composer._Worker(wanted).layout
    write, written = layout.write_clip, []

    def fail_at_ten(out, seed, scene, *rest):
        if len(written) == 10:
            raise KeyboardInterrupt
        write(out, seed, scene, *rest)
        written.append(scene)

    monkeypatch.setattr(layout, "write_clip", fail_at_ten)
    with pytest.raises(KeyboardInterrupt):
        compose(wanted, tmp_path / "three", 1)
    assert not (tmp_path / "three").exists()
    half = tmp_path / "three.partial"
    times = {path.relative_to(half): path.stat().st_mtime_ns for path in half.rglob("*") if path.is_file()}
    assert len(times) > 10
    monkeypatch.setattr(layout, "write_clip", lambda *arguments: (written.append(arguments[2]), write(*arguments)))
    compose(wanted, tmp_path / "three", 1)
    assert digests(tmp_path / "three") == expected
    # No clip was written twice.
    assert len(written) == 26
    assert all((tmp_path / "three" / path).stat().st_mtime_ns == time for path, time in times.items())
    assert not (tmp_path / "three.partial").exists()


def test_unfinished_work_of_another_composition_is_not_taken_up(composed, tmp_path):
    shutil.copytree(composed, tmp_path / "set.partial")
    compose(configuration(seed=1, clips={"train": 2, "val": 1, "test": 1}), tmp_path / "set", 1)
    assert len(list((tmp_path / "set" / "AVE").iterdir())) == 4
    assert not digests(tmp_path / "set").items() & digests(composed / "AVE").items()
    # And an older composition gives way to a new one.
    compose(configuration(seed=2, clips={"train": 1, "val": 1, "test": 1}), tmp_path / "set", 1)
    assert len(list((tmp_path / "set" / "AVE").iterdir())) == 3


def test_labels_can_be_seen_and_heard(tmp_path):
    config = configuration(
        silent_object=0, unseen_sound=0, clips={"train": 16, "val": 1, "test": 1}, segment_seconds=1.0
    )
    compose(config, tmp_path / "set", 1)
    partly_heard = partly_seen = 0
    for scene in scenes_of(tmp_path / "set"):
        pictures, sound, rate = decode(tmp_path / "set" / "AVE" / f"{scene['clip']}.mp4")
        assert pictures.shape == (12, 32, 32, 3) and rate == 8000 and len(sound) >= 3 * rate
        heard = set(range(*scene["sounds"][0]["heard"]))
        seen = set(range(*scene["objects"][0]["seen"]))
        assert heard & seen == set(range(*scene["event"]))
        # Less 50 ms on either side, by which a compressed sound may blur.
        middle = sound[: 3 * rate].reshape(3, rate)[:, rate // 20 : -rate // 20]
        levels = np.sqrt(np.mean(np.square(middle), axis=1))
        silent = {0, 1, 2} - heard
        if silent:
            partly_heard += 1
            assert min(levels[list(heard)]) > 2 * max(levels[list(silent)])
        means = pictures.reshape(3, 4, *pictures.shape[1:]).astype(float).mean(axis=1)
        for segment in seen:
            for other in {0, 1, 2} - seen:
                partly_seen += 1
                assert np.abs(means[segment] - means[other]).mean() > 2
    assert partly_heard > 2 and partly_seen > 2


def test_sound_stays_where_it_was(tmp_path):
    """The delay of the AAC encoder does not shift the sound against the pictures."""
    sound = np.zeros(48000, np.float32)
    sound[16000:32000] = tone(1.0)
    frames = np.zeros((12, 32, 32, 3), np.uint8)
    frames[4:8] = 255
    write_video(tmp_path / "-clip.mp4", frames, 4, sound, 16000)
    pictures, decoded, _ = decode(tmp_path / "-clip.mp4")
    loud = np.flatnonzero(np.abs(decoded) > 0.1)
    assert abs(loud[0] / 16000 - 1) < 0.01 and abs(loud[-1] / 16000 - 2) < 0.01
    assert pictures.mean(axis=(1, 2, 3)).round().tolist() == [0] * 4 + [255] * 4 + [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ["-clip.mp4"]


def test_splits_share_no_instance(composed):
    """Instances are numbered within a split; what they look and sound like is tested with the assets."""
    counts = {"train": 5, "val": 3, "test": 3}
    for scene in scenes_of(composed):
        for item in (*scene["objects"], *scene["sounds"]):
            assert 0 <= item["instance"] < counts[scene["split"]]


def test_folder_of_assets(tmp_path):
    root = tmp_path / "assets"
    for name in ("bird", "cow", "dog"):
        write_class(root, name)
    small = {"train": 3, "val": 1, "test": 1}
    config = configuration(assets={"kind": "folder", "root": str(root)}, clips=small)
    compose(config, tmp_path / "set", 1)
    assert ave.classes(tmp_path / "set") == ["bird", "cow", "dog"]
    described = json.loads((tmp_path / "set" / "composition.json").read_text())["compose"]["assets"]
    assert described == {"kind": "folder", "sha256": fingerprint(root, asset_files(root))}
    # Where the folder lies does not matter, what is in it does.
    root.rename(tmp_path / "moved")
    moved = {"kind": "folder", "root": str(tmp_path / "moved"), "sha256": described["sha256"]}
    compose(configuration(assets=moved, clips=small), tmp_path / "again", 1)
    assert digests(tmp_path / "again") == digests(tmp_path / "set")
    (tmp_path / "moved" / "cow" / "images" / "picture0.png").write_bytes(b"changed")
    with pytest.raises(LavishError, match=r"moved: its checksum is .*compose.assets.sha256 is"):
        compose(configuration(assets=moved, clips=small), tmp_path / "third", 1)


def test_bad_configurations_are_named(tmp_path):
    for changes, message in (
        ({"format": "avee"}, r"the composer does not support 'avee' \(did you mean 'ave'"),
        ({"picture_size": 33}, "picture_size is 33"),
        ({"sample_rate": 9000}, "sample_rate is 9000"),
        ({"seed": -1}, "compose.seed is -1"),
        ({"frame_rate": 1}, "increase compose.frame_rate"),
        ({"assets": {"kind": "folder", "root": str(tmp_path / "absent")}}, "correct compose.assets.root"),
    ):
        with pytest.raises(LavishError, match=message):
            compose(configuration(**changes), tmp_path / "set", 1)
    with pytest.raises(LavishError, match="--jobs 0"):
        compose(configuration(), tmp_path / "set", 0)
    assert list(tmp_path.iterdir()) == []


def test_class_names_that_the_layout_cannot_hold_and_too_few_classes(tmp_path):
    for name in ("rock & roll", "cow", "dog"):
        write_class(tmp_path / "three", name)
        write_class(tmp_path / "two", name.replace("rock & roll", "cow"))
    for root, message in (("three", "'rock & roll' cannot be written"), ("two", "give at least 3")):
        with pytest.raises(LavishError, match=message):
            compose(configuration(assets={"kind": "folder", "root": str(tmp_path / root)}), tmp_path / "set", 1)


def test_what_else_lies_there_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(LavishError, match="neither an empty folder nor a composition"):
        compose(configuration(), tmp_path, 1)
    with pytest.raises(LavishError, match="neither an empty folder nor a composition"):
        compose(configuration(), tmp_path / "thesis.txt", 1)
    assert (tmp_path / "thesis.txt").read_text() == "important"


def test_composed_clips_are_prepared_without_loss(composed, tmp_path):
    from lavish.data.store.preparation import prepare
    from lavish.data.store.store import SplitStore

    data = DataConfig(
        name="composed", segments=3, segment_seconds=0.5, num_classes=8, frame_size=32, compose=configuration().compose,
        spectrogram={"sample_rate": 8000, "window_seconds": 0.5, "window_margin": 0.0, "mel_bins": 32, "frames": 24},
    )  # fmt: skip
    prepare(data, composed, "val", tmp_path / "val", 1)
    store = SplitStore(tmp_path / "val")
    assert len(store) == 4 and store.frames.shape == (4, 3, 32, 32, 3)
    assert (tmp_path / "val" / "report.csv").read_text().count(",ok,") == 4


def test_real_assets_are_composed(shared, tmp_path):
    root = shared / "data" / "av_pairs"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    clips = {"train": 4, "val": 1, "test": 1}
    compose(
        configuration(assets={"kind": "folder", "root": str(root)}, clips=clips, picture_size=96), tmp_path / "set", 1
    )
    scene = scenes_of(tmp_path / "set")[0]
    pictures, sound, _ = decode(tmp_path / "set" / "AVE" / f"{scene['clip']}.mp4")
    assert pictures.shape == (6, 96, 96, 3) and np.abs(sound).max() > 0.02


def test_composed_masks_are_prepared_without_loss(tmp_path):
    from lavish.data.formats import registry
    from lavish.data.store.preparation import prepare
    from lavish.data.store.store import SplitStore

    config = configuration(format="avsbench_s4")
    compose(config, tmp_path / "set", 1)
    data = DataConfig(
        name="composed", format="avsbench_s4", segments=3, segment_seconds=0.5, num_classes=1, frame_size=32,
        compose=config.compose,
        spectrogram={"sample_rate": 8000, "window_seconds": 0.5, "window_margin": 0.0, "mel_bins": 32, "frames": 24},
    )  # fmt: skip
    for split, count in (("train", 17), ("val", 4)):
        prepare(data, tmp_path / "set", split, tmp_path / split, 1)
        assert (tmp_path / split / "report.csv").read_text().count(",ok,") == count
        frames, masks = (np.load(tmp_path / split / f"{name}.npy") for name in ("frames", "masks"))
        categories = SplitStore(tmp_path / split).categories
        assert categories is not None and len(set(categories)) > 1
        for position, clip in enumerate(registry.reader("avsbench_s4").clips(tmp_path / "set", split)):
            assert categories[position] == clip.video.parent.name
            for segment in range(3):
                with Image.open(clip.video / f"{clip.clip}_{segment + 1}.png") as picture:
                    assert (np.asarray(picture) == frames[position, segment]).all()
                if split == "train" and segment:
                    assert (masks[position, segment] == 255).all()
                    continue
                with Image.open(clip.masks[segment]) as mask:
                    assert (np.asarray(mask) // 255 == masks[position, segment]).all() and masks[
                        position, segment
                    ].any()


@pytest.mark.parametrize("layout", ["avsbench_s4", "avsbench_ms3", "music_avqa"])
def test_real_assets_are_composed_in_every_layout(shared, tmp_path, layout):
    root = shared / "data" / "av_pairs"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    assets = {"kind": "folder", "root": str(root)}
    clips = {"train": 6, "val": 1, "test": 1}
    compose(configuration(format=layout, assets=assets, clips=clips, picture_size=64), tmp_path / "set", 1)
    scenes = scenes_of(tmp_path / "set")
    seen = {item["class"] for scene in scenes for item in scene["objects"]}
    assert len(scenes) == 8 and len(seen) > 3 and seen <= {path.name for path in root.iterdir() if path.is_dir()}
