"""Composed AVSBench: official files, masks of what sounds and of nothing else, and no way around hearing it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavish.config import schema as config
from lavish.config.schema import CompositionConfig
from lavish.data.formats import registry
from lavish.data.formats.base import missing_media
from lavish.data.synthetic.assets import ProceduralAssets
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.composer import compose
from lavish.data.synthetic.layouts import avsbench_ms3 as compose_avsbench_ms3
from lavish.data.synthetic.layouts import avsbench_s4 as compose_avsbench_s4
from lavish.data.synthetic.rendering import RenderSettings, render_labelled
from lavish.errors import LavishError
from tests.asset_folders import write_class

SEED = 3
CLIPS = {"train": 16, "val": 6, "test": 5}
INSTANCES = {"train": 5, "val": 3, "test": 3}
LAYOUTS = {"avsbench_s4": compose_avsbench_s4, "avsbench_ms3": compose_avsbench_ms3}
SEGMENTS = {"avsbench_s4": 3, "avsbench_ms3": 4}


def configuration(layout: str, **changes) -> CompositionConfig:
    values = {
        "assets": {"kind": "procedural", "instances": INSTANCES},
        "clips": CLIPS,
        "picture_size": 48,
        "sample_rate": 8000,
        "seed": SEED,
        **changes,
    }
    segments = values.pop("segments", SEGMENTS.get(layout, 3))
    return CompositionConfig(format=layout, segments=segments, segment_seconds=0.5, compose=values)


def procedural() -> ProceduralAssets:
    return ProceduralAssets(config.ProceduralAssetsConfig(instances=INSTANCES))


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def scenes_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> dict[str, Path]:
    outs = {layout: tmp_path_factory.mktemp("composed") / layout for layout in LAYOUTS}
    for layout, out in outs.items():
        compose(configuration(layout), out, 1)
    return outs


def files(out: Path, layout: str, scene: dict) -> tuple[list[Path], list[Path], Path]:
    """Return the pictures, masks and sound of a clip as the data sets' own code names them."""
    name, split = scene["clip"], scene["split"]
    segments = range(1, SEGMENTS[layout] + 1)
    if layout == "avsbench_s4":
        data = out / "Single-source" / "s4_data"
        place = Path(split) / plain_names([scene["sounds"][0]["class"]])[0]
        pictures = [data / "visual_frames" / place / name / f"{name}_{segment}.png" for segment in segments]
        masks = [data / "gt_masks" / place / name / f"{name}_{segment}.png" for segment in segments]
        return pictures, masks[: 1 if split == "train" else None], data / "audio_wav" / place / f"{name}.wav"
    data = out / "Multi-sources" / "ms3_data"
    pictures = [data / "visual_frames" / name / f"{name}.mp4_{segment}.png" for segment in segments]
    masks = [data / "gt_masks" / split / name / f"{name}_{segment}.png" for segment in segments]
    return pictures, masks, data / "audio_wav" / split / f"{name}.wav"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        return np.asarray(file)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_the_official_one(composed, layout):
    out, expected = composed[layout], {"scenes.jsonl", "composition.json"}
    for scene in scenes_of(out):
        pictures, masks, sound = files(out, layout, scene)
        expected |= {path.relative_to(out).as_posix() for path in (*pictures, *masks, sound)}
        for path in pictures:
            assert pixels(path).shape == (48, 48, 3)
        for path in masks:
            assert pixels(path).shape == (48, 48) and set(np.unique(pixels(path))) <= {0, 255}
        with wave.open(str(sound)) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
            assert file.getnframes() == SEGMENTS[layout] * 4000
    table = "Single-source/s4_meta_data.csv" if layout == "avsbench_s4" else "Multi-sources/ms3_meta_data.csv"
    assert set(digests(out)) == expected | {table}
    header, *rows = (out / table).read_text().splitlines()
    assert len(rows) == sum(CLIPS.values()) and len({row.split(",")[0] for row in rows}) == len(rows)
    if layout == "avsbench_s4":
        assert header == "name,start,category,split"
        assert rows == [
            f"{scene['clip']},0,{plain_names([scene['sounds'][0]['class']])[0]},{scene['split']}"
            for scene in scenes_of(out)
        ]
    else:
        assert header == "video_id,split"
        assert rows == [f"{scene['clip']},{scene['split']}" for scene in scenes_of(out)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_official_reader_reads_it(composed, layout):
    reader = registry.reader(layout)
    for split, count in CLIPS.items():
        clips = reader.clips(composed[layout], split)
        assert [clip.clip for clip in clips] == [
            scene["clip"] for scene in scenes_of(composed[layout]) if scene["split"] == split
        ]
        assert len(clips) == count
        for clip in clips:
            assert missing_media(clip) is None and len(clip.masks) == SEGMENTS[layout]
            annotated = [mask is not None for mask in clip.masks]
            assert all(annotated) or (layout, split) == ("avsbench_s4", "train")
            assert annotated[0] and (any(annotated[1:]) != ((layout, split) == ("avsbench_s4", "train")))
            assert all(mask is None or mask.is_file() for mask in clip.masks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_are_exactly_where_sounding_objects_are_drawn(composed, layout):
    """Drawn once more without the sounding ones, a picture changes in their masks and, but for soft edges, nowhere."""
    library, module, segments = procedural(), LAYOUTS[layout], SEGMENTS[layout]
    settings = RenderSettings(segments, 0.5, 48, 4, 8000)
    changed_inside, changed_outside, masks_seen = [], [], 0
    for split in CLIPS:
        for number in range(5):
            scene = module.sample_scene(SEED, library, split, number, settings, objects=3)
            listed = next(
                item for item in scenes_of(composed[layout]) if (item["split"], item["number"]) == (split, number)
            )
            pictures, masks, _ = files(composed[layout], layout, listed)
            for segment, path in enumerate(masks):
                heard = {sound["class"] for sound in listed["sounds"] if segment in range(*sound["heard"])}
                mask = pixels(path) == 255
                silent = tuple(item for item in scene.objects if library.classes[item.class_index] not in heard)
                left, _ = render_labelled(
                    SEED, dataclasses.replace(scene, objects=silent), library, settings, [(segment + 0.5) * 0.5]
                )
                difference = np.abs(pixels(pictures[segment]).astype(int) - left[0]).max(axis=2)
                # An object below another one gives way to it: its place is no place of the sounding one.
                assert mask.any() == bool(heard)
                masks_seen += mask.any()
                changed_inside.append((difference[mask] > 3).mean() if mask.any() else 1.0)
                changed_outside.append((difference[~mask] > 3).mean())
    assert masks_seen > 20
    assert np.mean(changed_inside) > 0.97 and np.max(changed_outside) < 0.12 and np.mean(changed_outside) < 0.05


def test_one_object_sounds_throughout_s4():
    library = procedural()
    settings = RenderSettings(5, 1.0, 48, 4, 8000)
    scenes = [
        compose_avsbench_s4.sample_scene(0, library, "train", number, settings, objects=4) for number in range(200)
    ]
    for scene in scenes:
        assert len(scene.objects) == len({item.class_index for item in scene.objects}) == 4
        [sound], [sounding] = scene.sounds, [item for item in scene.objects if item.sounding]
        assert sound.class_index == sounding.class_index and sound.heard == (0, 5) and sound.visible
        assert all(item.seen == (0, 5) for item in scene.objects)
    counts = np.bincount([scene.sounds[0].class_index for scene in scenes], minlength=8)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("segments", "objects"), [(1, 3), (3, 3), (5, 3), (5, 1), (5, 5)])
def test_objects_of_ms3_take_turns(segments, objects):
    library = procedural()
    settings = RenderSettings(segments, 1.0, 48, 4, 8000)
    numbers = []
    for number in range(300):
        scene = compose_avsbench_ms3.sample_scene(0, library, "train", number, settings, objects=objects)
        heard = {sound.class_index: sound.heard for sound in scene.sounds}
        assert len(heard) == len(scene.sounds) >= 1
        assert len({item.class_index for item in scene.objects}) == len(scene.objects) == objects
        assert {item.class_index for item in scene.objects if item.sounding} == set(heard)
        numbers += [sum(segment in range(*interval) for interval in heard.values()) for segment in range(segments)]
    share = np.bincount(numbers, minlength=3) / len(numbers)
    assert len(share) == 3 and share[1] > 0.4
    assert (share[2] > 0.2) == (objects > 1)
    assert (share[0] > 0.03) == (segments > 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_alone_do_not_tell_what_sounds(layout):
    """Whatever object one picks by its looks, the largest or one in a place or order, sounds as often as any other."""
    library = procedural()
    settings = RenderSettings(1, 1.0, 32, 4, 8000)
    picks: dict[str, list[bool]] = {}
    iou = []
    for number in range(500):
        scene = LAYOUTS[layout].sample_scene(0, library, "train", number, settings, objects=3)
        masks = render_labelled(0, scene, library, settings, [0.5])[1][:, 0]
        areas = masks.sum(axis=(1, 2))
        guesses = {
            "largest": np.argmax(areas),
            "smallest": np.argmin(areas),
            "widest": np.argmax([item.place.extent for item in scene.objects]),
            "leftmost": np.argmin([item.place.x for item in scene.objects]),
            "on top": 2,
            "lowest": 0,
            "restless": np.argmax([item.motion.reach for item in scene.objects]),
        }
        for name, index in guesses.items():
            picks.setdefault(name, []).append(scene.objects[index].sounding)
        truth = masks[[item.sounding for item in scene.objects]].any(axis=0)
        largest = masks[guesses["largest"]]
        iou.append((truth & largest).sum() / (truth | largest).sum())
    expected = np.mean([item for found in picks.values() for item in found])
    for name, found in picks.items():
        assert np.mean(found) == pytest.approx(expected, abs=0.075), name
    if layout == "avsbench_s4":
        assert expected == pytest.approx(1 / 3, abs=0.04) and np.mean(iou) < 0.42


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_said_to_sound_is_heard(composed, layout):
    checked = 0
    for scene in scenes_of(composed[layout]):
        with wave.open(str(files(composed[layout], layout, scene)[2])) as file:
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(SEGMENTS[layout], -1) / 32767
        levels = np.sqrt(np.mean(np.square(sound), axis=1))
        heard = {segment for item in scene["sounds"] for segment in range(*item["heard"])}
        silent = set(range(SEGMENTS[layout])) - heard
        assert levels[list(heard)].min() > 0.02
        if silent:
            checked += 1
            assert levels[list(heard)].min() > 2 * levels[list(silent)].max()
    assert (checked > 3) == (layout == "avsbench_ms3")


def test_a_clip_without_its_sound_is_not_finished(composed, tmp_path):
    for layout, module in LAYOUTS.items():
        settings = RenderSettings(SEGMENTS[layout], 0.5, 48, 4, 8000)
        scene = module.sample_scene(SEED, procedural(), "val", 0, settings, objects=3)
        assert module.is_finished(composed[layout], SEED, scene)
        other = module.sample_scene(SEED + 1, procedural(), "val", 0, settings, objects=3)
        assert not module.is_finished(composed[layout], SEED + 1, other)
        assert not module.is_finished(tmp_path, SEED, scene)


def test_folder_of_assets(tmp_path):
    for name in ("a bird, singing", "cow", "dog"):
        write_class(tmp_path / "assets", name)
    assets = {"kind": "folder", "root": str(tmp_path / "assets")}
    clips = {"train": 3, "val": 1, "test": 1}
    compose(configuration("avsbench_s4", assets=assets, clips=clips), tmp_path / "set", 1)
    categories = {
        row.split(",")[2] for row in (tmp_path / "set/Single-source/s4_meta_data.csv").read_text().split()[1:]
    }
    assert categories == {"a_bird_singing", "cow", "dog"}


def test_bad_configurations_are_named(tmp_path):
    for layout, changes, message in (
        ("avsbench_s4", {"objects": 9}, r"compose.objects is 9, but there are only 8 classes"),
        ("avsbench_ms3", {"objects": 9}, r"compose.objects is 9, but there are only 8 classes"),
        ("avsbench_s4", {"silent_object": 0.5}, r"compose.silent_object: the layout 'avsbench_s4' does not read it"),
        ("avsbench_ms3", {"frame_rate": 5}, r"compose.frame_rate: the layout 'avsbench_ms3' does not read it"),
        ("ave", {"objects": 4}, r"compose.objects: the layout 'ave' does not read it: remove the key"),
        ("avsbench_s5", {}, r"the composer does not support 'avsbench_s5' \(did you mean 'avsbench_s4'"),
    ):
        with pytest.raises(LavishError, match=message):
            compose(configuration(layout, **changes), tmp_path / "set", 1)
    for name in ("drum_kit", "drum kit", "cow"):
        write_class(tmp_path / "assets", name)
    with pytest.raises(LavishError, match=r"class 'drum_kit': .* 'drum_kit', as for 'drum kit': rename"):
        compose(
            configuration("avsbench_s4", assets={"kind": "folder", "root": str(tmp_path / "assets")}),
            tmp_path / "set",
            1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["assets"]


def test_what_the_layout_does_not_read_is_no_part_of_the_composition(composed):
    described = json.loads((composed["avsbench_s4"] / "composition.json").read_text())["compose"]
    assert described["objects"] == 3
    assert not {"silent_object", "unseen_sound", "frame_rate"} & set(described)
