"""Writer of composed clips in the official layout of MUSIC-AVQA, which :mod:`lavish.data.formats.music_avqa` reads.

The scenes are those of :mod:`lavish.data.synthetic.question_scenes`, the questions those of
:mod:`lavish.data.synthetic.questions`. Each split has its own videos. (In the data set, splits divide the questions of
the same videos.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lavish.config.schema import SPLITS
from lavish.data.synthetic.assets import AssetLibrary
from lavish.data.synthetic.clip_names import plain_names
from lavish.data.synthetic.question_scenes import MAX_OBJECTS, sample_scene
from lavish.data.synthetic.question_selection import complete, select, tokens
from lavish.data.synthetic.questions import RESERVED, TEMPLATES, Candidate, candidates
from lavish.data.synthetic.rendering import RenderSettings
from lavish.data.synthetic.scene_graph import Scene
from lavish.data.synthetic.scene_videos import check_video, write_scene_video
from lavish.errors import LavishError
from lavish.io.atomic import write_text

__all__ = ["OPTIONS", "check", "clip_id", "is_finished", "sample_scene", "write_clip", "write_lists"]

OPTIONS = ("frame_rate",)
_VIDEOS = "MUSIC-AVQA-videos-Real"
_QUESTIONS_PER_CLIP = 6
_PART = 6  # of the seed; scenes use other parts


def check(classes: Sequence[str], settings: RenderSettings) -> None:
    """Raise LavishError for classes or settings that this layout does not support."""
    if len(classes) <= MAX_OBJECTS:
        raise LavishError(
            f"compose.assets: {len(classes)} classes, but up to {MAX_OBJECTS} are seen and another is heard: give at "
            f"least {MAX_OBJECTS + 1}"
        )
    for plain, name in zip(plain_names(classes, short=True), classes, strict=True):
        if plain in RESERVED:
            raise LavishError(f"class '{name}': '{plain}' is also an answer of another type: rename its folder")
    if settings.segments < 2:
        raise LavishError(f"segments is {settings.segments}, but questions ask for the temporal order: give at least 2")
    check_video(settings)


def clip_id(seed: int, scene: Scene) -> str:
    """Return the clip's id, eight digits like those of recorded videos."""
    return f"{SPLITS.index(scene.split)}{scene.number:07d}"


def is_finished(out: Path, seed: int, scene: Scene) -> bool:
    """Return whether the clip has been written."""
    return _path(out, seed, scene).exists()


def write_clip(out: Path, seed: int, scene: Scene, library: AssetLibrary, settings: RenderSettings) -> None:
    """Render and write the media of one clip."""
    write_scene_video(_path(out, seed, scene), seed, scene, library, settings)


def write_lists(
    out: Path,
    seed: int,
    scenes: Mapping[str, Sequence[Scene]],
    classes: Sequence[str],
    settings: RenderSettings,
) -> None:
    """Write the questions of each split; the training questions contain all words and answers of the other splits."""
    names = plain_names(classes, short=True)
    known: set[tuple[str, str]] = set()
    count = 0
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([seed, number, 0, _PART])
        possible = [list(candidates(scene, names)) for scene in scenes[split]]
        if split == "train":
            asked = complete(rng, possible, select(rng, possible, _QUESTIONS_PER_CLIP))
            known = {token for _, candidate in asked for token in tokens(candidate)}
        else:
            familiar = [[question for question in found if known.issuperset(tokens(question))] for found in possible]
            asked = select(rng, familiar, _QUESTIONS_PER_CLIP)
        records = [
            _record(clip_id(seed, scenes[split][clip]), count + place, candidate)
            for place, (clip, candidate) in enumerate(asked)
        ]
        count += len(records)
        write_text(out / f"avqa-{split}.json", f"{json.dumps(records, indent=1)}\n")


def _record(video: str, number: int, question: Candidate) -> dict[str, str | int]:
    template = TEMPLATES[question.template]
    return {
        "video_id": video,
        "question_id": number,
        "type": json.dumps([template.group, template.type]),
        "question_content": template.text,
        "templ_values": json.dumps(question.values),
        "question_deleted": 0,
        "anser": question.answer,
    }


def _path(out: Path, seed: int, scene: Scene) -> Path:
    return out / _VIDEOS / f"{clip_id(seed, scene)}.mp4"
