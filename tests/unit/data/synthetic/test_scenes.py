"""Scenes: what is drawn is what the labels say, and nothing but seeing and hearing tells what a clip is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lavish.config import schema as config
from lavish.data.synthetic.assets import ProceduralAssets
from lavish.data.synthetic.event_scenes import sample_intervals, sample_scene
from lavish.data.synthetic.rendering import RenderSettings, render_audio, render_frames, render_labelled
from lavish.data.synthetic.scene_graph import Interval, Pose, Scene, SeenObject, Sway
from lavish.data.synthetic.scenes import (
    Place,
    cluttered_background,
    labelled_scene,
    paste,
    sample_places,
    scale_cut_out,
)


@pytest.fixture(scope="module")
def library():
    return ProceduralAssets(config.ProceduralAssetsConfig(instances=config.SplitCounts(train=6, val=4, test=4)))


def scenes_of(library, count, *, segments=3, silent_object=0.8, unseen_sound=0.7, split="train", seed=0):
    return [
        sample_scene(
            seed,
            library,
            split,
            number,
            RenderSettings(segments, 0.5, 32, 4, 8000),
            silent_object=silent_object,
            unseen_sound=unseen_sound,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_places_overlap_little_and_size_does_not_tell_the_order(count):
    rng = np.random.default_rng(0)
    extents, overlaps = [], []
    for _ in range(300):
        places = sample_places(rng, count)
        extents.append([place.extent for place in places])
        for index, one in enumerate(places):
            assert 0 < one.x < 1 and 0 < one.y < 1
            for other in places[:index]:
                reach = (one.extent + other.extent) / 2
                across = max(0.0, reach - abs(one.x - other.x)) * max(0.0, reach - abs(one.y - other.y))
                overlaps.append(across / one.extent**2)
    means = np.mean(extents, axis=0)
    assert means.max() - means.min() < 0.05 * means.mean()
    assert not overlaps or np.mean(overlaps) < 0.12


def test_first_place_is_anywhere():
    rng = np.random.default_rng(0)
    corners = {(sample_places(rng, 2)[0].x > 0.5, sample_places(rng, 2)[0].y > 0.5) for _ in range(60)}
    assert len(corners) == 4


def test_cut_out_does_not_bleed_the_colour_of_transparent_pixels():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 1] = 255  # transparent green
    picture[16:48, 16:48] = (255, 0, 0, 255)
    scaled = scale_cut_out(picture, 15)
    assert scaled.shape == (15, 15, 4) and scaled[..., 3].max() == 1
    assert scaled[..., 1].max() < 3
    edge = (scaled[..., 3] > 0.1) & (scaled[..., 3] < 0.9)
    assert edge.any()
    np.testing.assert_allclose(scaled[edge, 0], 255 * scaled[edge, 3], atol=2)


def test_paste_cuts_off_what_sticks_out():
    canvas = np.zeros((10, 10, 3), np.float32)
    square = np.concatenate([np.full((4, 4, 3), 200, np.float32), np.ones((4, 4, 1), np.float32)], axis=2)
    rows, columns, alpha = paste(canvas, square, 0, 9)
    assert (canvas[..., 0] > 0).sum() == alpha.size == 6
    assert (canvas[rows, columns] == 200).all()
    rows, columns, alpha = paste(canvas, square, -20, 40)
    assert alpha.size == 0


@pytest.mark.parametrize("size", [32, 48, 96])
def test_labelled_scene_names_what_covers_each_pixel(library, size):
    rng = np.random.default_rng(0)
    background = len(library.classes)
    for objects in (1, 4):
        picture, class_map = labelled_scene(rng, library, "train", size, objects)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert class_map.shape == (size, size) and class_map.dtype == np.int64
        present = set(np.unique(class_map)) - {background}
        assert 1 <= len(present) <= objects and max(present) < background
        assert 0.02 * objects < (class_map != background).mean() < 0.3 * objects
    again = labelled_scene(np.random.default_rng(3), library, "train", size, 2)
    same = labelled_scene(np.random.default_rng(3), library, "train", size, 2)
    np.testing.assert_array_equal(again[0], same[0])


def test_labelled_scene_marks_the_object_and_not_the_background(library):
    """Without an object the same draw gives the background; where they differ, the map says so."""
    picture, class_map = labelled_scene(np.random.default_rng(5), library, "train", 48, 1)
    empty = np.clip(np.rint(cluttered_background(np.random.default_rng(5), 48)), 0, 255).astype(np.uint8)
    changed = (picture != empty).any(axis=2)
    covered = class_map != len(library.classes)
    assert covered.any() and changed[covered].mean() > 0.95
    assert changed[~covered].mean() < 0.1


@pytest.mark.parametrize("segments", [1, 2, 3, 5, 10])
def test_intervals(segments):
    rng = np.random.default_rng(0)
    lengths, only_seen, only_heard = [], 0, 0
    for _ in range(1500):
        seen, heard = sample_intervals(rng, segments)
        for interval in (seen, heard):
            assert 0 <= interval.start < interval.end <= segments
        overlap = set(range(*seen)) & set(range(*heard))
        assert overlap == set(range(max(seen.start, heard.start), min(seen.end, heard.end))) != set()
        lengths.append(len(overlap))
        only_seen += seen.end - seen.start - len(overlap)
        only_heard += heard.end - heard.start - len(overlap)
    if segments >= 3:
        assert np.mean(lengths) / segments == pytest.approx(0.58, abs=0.02)
        assert set(lengths) == set(range(1, segments + 1))
    if segments > 1:
        assert only_seen == pytest.approx(only_heard, rel=0.2)


def test_scene_is_about_the_class_that_is_seen_and_heard(library):
    for scene in scenes_of(library, 300, segments=5):
        seen, heard = (
            {item.class_index: item for item in scene.objects},
            {item.class_index: item for item in scene.sounds},
        )
        assert set(seen) & set(heard) == {scene.class_index}
        assert len(seen) == len(scene.objects) and len(heard) == len(scene.sounds)
        main_object, main_sound = seen[scene.class_index], heard[scene.class_index]
        assert set(range(*scene.event)) == set(range(*main_object.seen)) & set(range(*main_sound.heard)) != set()
        assert [item.sounding for item in seen.values()].count(True) == 1 and main_object.sounding
        assert [item.visible for item in heard.values()].count(True) == 1 and main_sound.visible


def test_nothing_but_the_class_tells_the_main_object_and_sound(library):
    scenes = [scene for scene in scenes_of(library, 3000) if len(scene.objects) == len(scene.sounds) == 2]
    assert len(scenes) == pytest.approx(0.56 * 3000, rel=0.1)
    main = [next(item for item in scene.objects if item.sounding) for scene in scenes]
    other = [next(item for item in scene.objects if not item.sounding) for scene in scenes]
    for value in (
        lambda item: item.seen.end - item.seen.start,
        lambda item: item.seen.start,
        lambda item: item.place.extent,
        lambda item: item.place.x,
        lambda item: item.motion.reach,
    ):
        one, two = [value(item) for item in main], [value(item) for item in other]
        assert abs(np.mean(one) - np.mean(two)) < 4 * np.std(one) / np.sqrt(len(scenes))
    assert np.mean([scene.objects[0].sounding for scene in scenes]) == pytest.approx(0.5, abs=0.05)
    heard = [next(item for item in scene.sounds if item.visible) for scene in scenes]
    unseen = [next(item for item in scene.sounds if not item.visible) for scene in scenes]
    for value in (lambda item: item.heard.end - item.heard.start, lambda item: item.gain_db):
        one, two = [value(item) for item in heard], [value(item) for item in unseen]
        assert abs(np.mean(one) - np.mean(two)) < 4 * np.std(one) / np.sqrt(len(scenes))
    assert np.mean([scene.sounds[0].visible for scene in scenes]) == pytest.approx(0.5, abs=0.05)


def test_classes_are_balanced_and_scenes_reproducible(library):
    scenes = scenes_of(library, 83)
    counts = np.bincount([scene.class_index for scene in scenes], minlength=8)
    assert counts.max() - counts.min() <= 1
    assert scenes_of(library, 83) == scenes
    assert scenes_of(library, 83, seed=1) != scenes
    assert [scene.class_index for scene in scenes[:8]] != [scene.class_index for scene in scenes[8:16]]
    assert [scene.event for scene in scenes_of(library, 83, split="val")] != [scene.event for scene in scenes]


def test_chances_of_distractors(library):
    assert all(
        len(scene.objects) == len(scene.sounds) == 1
        for scene in scenes_of(library, 30, silent_object=0, unseen_sound=0)
    )
    assert all(
        len(scene.objects) == len(scene.sounds) == 2
        for scene in scenes_of(library, 30, silent_object=1, unseen_sound=1)
    )


def test_rendering_shows_and_plays_the_intervals(library):
    settings = RenderSettings(segments=4, segment_seconds=0.5, picture_size=32, frame_rate=4, sample_rate=8000)
    checked = 0
    for scene in scenes_of(library, 30, segments=4, silent_object=0, unseen_sound=0):
        pictures = render_frames(0, scene, library, settings).astype(int)
        assert pictures.shape == (8, 32, 32, 3)
        sound = render_audio(0, scene, library, settings)
        assert sound.shape == (16000,) and sound.dtype == np.float32 and np.abs(sound).max() <= 1
        [seen], [heard] = [item.seen for item in scene.objects], [item.heard for item in scene.sounds]
        levels = np.sqrt(np.mean(np.square(sound.reshape(4, -1)), axis=1))
        silent = [segment for segment in range(4) if segment not in range(*heard)]
        if silent:
            checked += 1
            assert levels[list(range(*heard))].min() > 2 * levels[silent].max()
        unseen = [segment for segment in range(4) if segment not in range(*seen)]
        for segment in unseen:
            # The background alone, and it stays.
            assert (pictures[2 * segment] == pictures[2 * unseen[0] + 1]).all()
            assert np.abs(pictures[2 * seen.start] - pictures[2 * segment]).mean() > 1
    assert checked > 5


@dataclass(frozen=True)
class Growing:
    """A motion that moves to the right and doubles the size within a second."""

    def at(self, time: float) -> Pose:
        return Pose(0.25 * time, 0.0, 1 + time)


class OneSquare:
    """A library of one class: an opaque square."""

    classes = ["square"]

    def count_images(self, *_):
        return 1

    def count_sounds(self, *_):
        return 1

    def image(self, *_):
        return np.full((8, 8, 4), 255, np.uint8)


def square(x: float, extent: float, motion, seen: Interval = Interval(0, 2)) -> SeenObject:  # noqa: B008
    return SeenObject(0, 0, seen, Place(x, 0.5, extent), motion, sounding=False)


def test_objects_move_and_grow_as_their_motion_says():
    settings = RenderSettings(segments=2, segment_seconds=0.5, picture_size=32, frame_rate=4, sample_rate=8000)
    scene = Scene("train", 0, (square(0.25, 0.25, Growing()),), ())
    _, masks = render_labelled(0, scene, OneSquare(), settings, [0.0, 0.5, 0.96])
    found = [np.argwhere(mask) for mask in masks[0]]
    sides = [(points.max(axis=0) - points.min(axis=0) + 1).tolist() for points in found]
    assert sides == [[8, 8], [12, 12], [16, 16]]
    assert [points[:, 1].mean() + 0.5 for points in found] == [8.0, 12.0, pytest.approx(16.0, abs=0.5)]


def test_masks_are_what_is_seen_of_each_object():
    """A later object hides an earlier one of the same class, an object out of sight has no mask."""
    settings = RenderSettings(segments=2, segment_seconds=0.5, picture_size=32, frame_rate=4, sample_rate=8000)
    still = Sway(0.0, 0.0, 0.0, 0.0)
    below, above = square(0.5, 0.5, still), square(0.75, 0.25, still, Interval(0, 1))
    pictures, masks = render_labelled(0, Scene("train", 0, (below, above), ()), OneSquare(), settings, [0.25, 0.75])
    assert masks.shape == (2, 2, 32, 32) and not (masks[0] & masks[1]).any()
    assert masks[0].sum(axis=(1, 2)).tolist() == [16 * 16 - 4 * 8, 16 * 16]
    assert masks[1].sum(axis=(1, 2)).tolist() == [8 * 8, 0]
    empty, _ = render_labelled(0, Scene("train", 0, (), ()), OneSquare(), settings, [0.25, 0.75])
    assert ((pictures == 255).all(axis=3) == masks.any(axis=0)).all()
    assert (pictures[~masks.any(axis=0)] == empty[~masks.any(axis=0)]).all()
