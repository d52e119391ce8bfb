"""Composed actions: a picture alone tells no motion, several do, and neither stream alone tells the action."""

from __future__ import annotations

import csv
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lavish.config import schema as config
from lavish.config.schema import CompositionConfig
from lavish.data.formats import actions
from lavish.data.formats.base import missing_media
from lavish.data.formats.registry import reader
from lavish.data.synthetic.action_scenes import MOTIONS, ActionScene, Oscillation, action_names, sound_classes
from lavish.data.synthetic.assets import ProceduralAssets
from lavish.data.synthetic.composer import compose
from lavish.data.synthetic.layouts import actions as compose_actions
from lavish.data.synthetic.rendering import RenderSettings, position, render_labelled
from lavish.errors import LavishError
from tests.asset_folders import write_class

SEGMENTS, SEGMENT_SECONDS = 3, 0.5
CENTRES = [(segment + 0.5) * SEGMENT_SECONDS for segment in range(SEGMENTS)]
CLIPS = {"train": 20, "val": 5, "test": 6}
SETTINGS = RenderSettings(SEGMENTS, SEGMENT_SECONDS, 48, 8, 8000)
FAMILIES = ["tone", "rising_chirps", "bells", "wind"]


def library() -> ProceduralAssets:
    instances = config.SplitCounts(train=5, val=3, test=3)
    return ProceduralAssets(config.ProceduralAssetsConfig(instances=instances))


def draw(count: int, *, silent_object: float = 0.0, unseen_sound: float = 0.0, seed: int = 0) -> list[ActionScene]:
    assets = library()
    return [
        compose_actions.sample_scene(
            seed, assets, "train", number, SETTINGS, silent_object=silent_object, unseen_sound=unseen_sound
        )
        for number in range(count)
    ]


def motion_of(scene: ActionScene) -> str:
    return scene.action.partition("_")[0]


@pytest.fixture(scope="module")
def scenes() -> list[ActionScene]:
    return draw(1600)


@pytest.fixture(scope="module")
def poses(scenes: list[ActionScene]) -> np.ndarray:
    """Across, down and size (scenes, segments, 3) of what moves, at the centres of the segments."""
    return np.array([[position(scene.objects[-1], time) for time in CENTRES] for scene in scenes])


def configuration(**changes) -> CompositionConfig:
    values = {
        "assets": {"kind": "procedural", "instances": {"train": 5, "val": 3, "test": 3}},
        "clips": CLIPS,
        "picture_size": 32,
        "sample_rate": 8000,
        **changes,
    }
    segments = values.pop("segments", SEGMENTS)
    return CompositionConfig(format="actions", segments=segments, segment_seconds=SEGMENT_SECONDS, compose=values)


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("composed") / "set"
    compose(configuration(), out, 1)
    return out


def test_at_any_time_every_motion_is_anywhere_alike():
    """Starts evenly on the circle of a coordinate give the same places whatever the speed, at every time."""
    starts = np.arange(0, 2, 1 / 64)
    for speed in (0.0, 0.9, -1.3):
        for time in (0.0, 0.37, 1.25):
            moved = [Oscillation((start, start, start), (speed, speed, speed)).at(time) for start in starts]
            stayed = [Oscillation((start, start, start), (0.0, 0.0, 0.0)).at(0.0) for start in starts]
            for one, other in zip(np.sort(moved, axis=0).T, np.sort(stayed, axis=0).T, strict=True):
                assert np.abs(one - other).max() <= (one.max() - one.min()) / 64 + 1e-9


@pytest.mark.parametrize("segment", range(SEGMENTS))
def test_no_single_picture_tells_the_motion(scenes, poses, segment):
    motions = np.array([motion_of(scene) for scene in scenes])
    for one, other in combinations(MOTIONS, 2):
        for coordinate in range(3):
            at_once = [poses[motions == motion, segment, coordinate] for motion in (one, other)]
            assert stats.ks_2samp(*at_once).pvalue > 1e-3
    # Nor do coordinates of one picture together: they are independent of each other, in every motion.
    for motion in MOTIONS:
        correlations = np.corrcoef(poses[motions == motion, segment].T)[np.triu_indices(3, 1)]
        assert np.abs(correlations).max() < 0.17  # 3.4 deviations of 400 scenes


def test_the_pictures_of_a_clip_tell_the_motion(scenes, poses):
    moved = np.ptp(poses, axis=1) > 0
    for scene, changed in zip(scenes, moved, strict=True):
        assert tuple(changed) == MOTIONS[motion_of(scene)]
    # And what moves moves far: never less than a ninth of the picture's side in the clip.
    assert np.ptp(poses, axis=1)[:, :2][moved[:, :2]].min() > 1 / 9


def test_neither_stream_tells_the_other_and_looks_tell_nothing(scenes):
    names = action_names(library().classes)
    assert names == [f"{motion}_{family}" for motion in MOTIONS for family in FAMILIES]
    counts = {name: sum(scene.action == name for scene in scenes) for name in names}
    assert set(counts.values()) == {100}  # every motion with every sound, and balanced
    looks = np.zeros((len(names), 8), int)
    for scene in scenes:
        looks[names.index(scene.action), scene.objects[-1].class_index] += 1
        [sound] = [item.class_index for item in scene.sounds if item.visible]
        assert FAMILIES[sound_classes(library().classes).index(sound)] == scene.action.partition("_")[2]
    assert stats.chi2_contingency(looks).pvalue > 1e-3


def test_bystanders_stay_and_other_sounds_belong_to_no_action():
    scenes = draw(200, silent_object=1.0, unseen_sound=1.0)
    assert draw(200, silent_object=1.0, unseen_sound=1.0) == scenes
    assert draw(200, silent_object=1.0, unseen_sound=1.0, seed=1) != scenes
    for scene in scenes:
        bystander, actor = scene.objects
        assert actor.sounding and not bystander.sounding
        assert len({bystander.motion.at(time) for time in CENTRES}) == 1
        [other] = [item for item in scene.sounds if not item.visible]
        [own] = [item for item in scene.sounds if item.visible]
        assert own.heard == (0, SEGMENTS) and 0 <= other.heard.start < other.heard.end <= SEGMENTS
        assert other.class_index not in sound_classes(library().classes)
    places = [
        np.array([position(scene.objects[index], CENTRES[0]) for scene in scenes]).T for index in (0, 1)
    ]  # of what stays and what moves
    for stays, moves in zip(*places, strict=True):
        assert stats.ks_2samp(stays, moves).pvalue > 1e-3
    assert len({scene.sounds[0].visible for scene in scenes}) == 2


def test_pictures_change_where_something_moves_and_nowhere_else():
    assets = library()
    for scene in draw(32, silent_object=1.0):
        pictures, masks = render_labelled(0, scene, assets, SETTINGS, CENTRES)
        changed = (np.ptp(pictures.astype(int), axis=0) > 0).any(axis=-1)
        moving = masks[1].any(axis=0)
        assert changed[moving].mean() > 0.1
        # Soft edges reach a little beyond the mask.
        far = ~np.array([np.roll(moving, shift, axis) for axis in (0, 1) for shift in (-2, -1, 0, 1, 2)]).any(axis=0)
        assert changed[far].mean() < 0.02


def test_files_are_those_of_a_table_of_labelled_videos(composed):
    scenes = [json.loads(line) for line in (composed / "scenes.jsonl").read_text().splitlines()]
    with (composed / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["label"], row["split"]) for row in rows] == [
        (scene["clip"], scene["action"], scene["split"]) for scene in scenes
    ]
    videos = {f"videos/{scene['action']}/{Path(scene['clip']).name}" for scene in scenes}
    assert {path.relative_to(composed).as_posix() for path in composed.rglob("*.mp4")} == videos
    assert any(Path(video).name.startswith("-") for video in videos)
    assert reader("actions") is actions
    # Six test clips cannot show all sixteen classes: they are listed.
    names = action_names(library().classes)
    assert actions.classes(composed) == names
    for split, count in CLIPS.items():
        sources = actions.clips(composed, split)
        assert [source.clip for source in sources] == [scene["clip"] for scene in scenes if scene["split"] == split]
        assert not any(missing_media(source) for source in sources)
        labels = actions.targets(composed, split, segments=SEGMENTS, segment_seconds=SEGMENT_SECONDS).arrays["labels"]
        assert [names[label] for label in labels] == [scene["action"] for scene in scenes if scene["split"] == split]
        assert len(labels) == count


def test_a_folder_of_pictures_and_recordings_gives_its_own_sounds(tmp_path):
    for name in ("Dog", "acoustic guitar", "cow, large"):
        write_class(tmp_path / "assets", name)
    out = tmp_path / "set"
    compose(configuration(assets={"kind": "folder", "root": str(tmp_path / "assets")}), out, 1)
    heard = ["dog", "acoustic_guitar", "large"]  # capital letters sort first
    assert actions.classes(out) == [f"{motion}_{name}" for motion in MOTIONS for name in heard]
    assert len(actions.clips(out, "train")) == CLIPS["train"]
    # All three sounds belong to actions: none is left that is heard and not seen.
    scenes = [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]
    assert all(len(scene["sounds"]) == 1 for scene in scenes)


def test_what_the_layout_cannot_hold(tmp_path):
    with pytest.raises(LavishError, match="segments is 2, too few frames to show a motion: give at least 3"):
        compose(configuration(segments=2), tmp_path / "set", 1)
    with pytest.raises(LavishError, match=r"compose\.picture_size is 33: H\.264 video needs an even number"):
        compose(configuration(picture_size=33), tmp_path / "set", 1)
    for name in ("a, dog", "b, dog", "b dog"):
        write_class(tmp_path / "assets", name)
    with pytest.raises(LavishError, match=r"class 'b, dog': .* 'b_dog', as for 'b dog': rename its folder"):
        compose(configuration(assets={"kind": "folder", "root": str(tmp_path / "assets")}), tmp_path / "set", 1)
