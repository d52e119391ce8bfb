"""The official layout of the MUSIC-AVQA data set (Li et al., CVPR 2022).

Questions, in the root folder:
    avqa-train.json, avqa-val.json, avqa-test.json   a list with one record per question

A record contains `video_id`, `question_content` ("Where is the <LL> instrument?"), `templ_values` (the list of values
of the <...> placeholders, as JSON in a string), `anser` (spelt this way), `type` (group and type, as JSON in a string)
and `question_deleted`. The authors also publish each list in two parts, `avqa-<split>_real.json` for recorded and
`avqa-<split>_fake.json` for synthesised videos. If the whole list is missing, the existing parts are read.

Media, either as published or extracted:
    MUSIC-AVQA-videos-Real/<id>.mp4 and MUCIS-AVQA-videos-Synthetic/<id>.mp4 (sic), or all in videos/<id>.mp4
    video_frames/<id>/0001.jpg ... and raw_audio/<id>.wav

A unit is a question and a clip is a video. Each video of a split is one clip, in the order of its first question. The
splits divide the questions, not the videos: most videos of the published lists are in more than one split.

The vocabulary and the answers are those of the training list, in the order of their first occurrence. Questions of the
other lists with unknown words or answers are kept, because published results count all questions: an unknown word
becomes an empty slot, and a question with an unknown answer always counts as answered wrongly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavish.config.schema import SPLITS
from lavish.data.formats.base import ClipSource, Targets, is_plain_name, read_records, unread_clips
from lavish.data.formats.locating import Locator
from lavish.errors import LavishError, did_you_mean
from lavish.io.paths import kind_of

TYPES = (
    ("Audio", "Counting"),
    ("Audio", "Comparative"),
    ("Visual", "Counting"),
    ("Visual", "Location"),
    ("Audio-Visual", "Existential"),
    ("Audio-Visual", "Counting"),
    ("Audio-Visual", "Location"),
    ("Audio-Visual", "Comparative"),
    ("Audio-Visual", "Temporal"),
)
"""Group and type of the questions, by index."""
WORD_SLOTS = 14
"""Maximum number of words of a question, which is the length of the longest published ones."""

_PARTS = ("real", "fake")
_VIDEOS = ("MUSIC-AVQA-videos-Real", "MUCIS-AVQA-videos-Synthetic", "MUSIC-AVQA-videos-Synthetic", "videos")
_REMEDY = "copy the json files of the MUSIC-AVQA data set into the root folder"


@dataclass(frozen=True)
class _Question:
    """One record of a list."""

    video: str
    words: list[str]
    answer: str
    type_index: int


def classes(root: Path) -> list[str]:
    """Return the answers of the training list."""
    return _answers(_read(root, "train").questions)


def vocabulary(root: Path) -> list[str]:
    """Return the words of the training list's questions; their indices start at 1, and 0 is an empty slot."""
    return _words(_read(root, "train").questions)


def clips(root: Path, split: str) -> list[ClipSource]:
    """Return the videos of a split in the order of their first question."""
    videos = _videos(_read(root, split).questions)
    folders = [root / name for name in _VIDEOS if (root / name).is_dir()]
    frames, audio = root / "video_frames", root / "raw_audio"
    if folders:
        # A video that no folder contains is reported as missing in the first.
        files = {video: [folder / f"{video}.mp4" for folder in folders] for video in videos}
        locator = Locator(path for paths in files.values() for path in paths)
        chosen = {video: _listed_path(paths, locator) for video, paths in files.items()}
        return [locator.source(video, path, path) for video, path in chosen.items()]
    if frames.is_dir() and audio.is_dir():
        pairs = {video: (frames / video, audio / f"{video}.wav") for video in videos}
        locator = Locator(path for pair in pairs.values() for path in pair)
        return [locator.source(video, *pair) for video, pair in pairs.items()]
    raise LavishError(
        f"{root}: no media folder: put the videos into '{_VIDEOS[0]}/<id>.mp4' and '{_VIDEOS[1]}/<id>.mp4' (spelt as "
        "published) or all into 'videos/<id>.mp4', or the extracted frames into 'video_frames/<id>/' and the audio "
        "into 'raw_audio/<id>.wav'"
    )


def targets(root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
    """Return questions, answers and question types, int64. A question is about the whole clip, not its segments.

    `questions` (units, WORD_SLOTS) contains word indices, 0 in empty slots; `answers` (units,) the class index, or -1
    for an answer that does not occur in the training list; `types` (units,) indices into :data:`TYPES`.
    """
    found = _read(root, split)
    known = found.questions if split == "train" else _read(root, "train").questions
    words = {word: index for index, word in enumerate(_words(known), start=1)}
    answers = {answer: index for index, answer in enumerate(_answers(known))}
    positions = {video: index for index, video in enumerate(_videos(found.questions))}
    word_indices = np.zeros((len(found.questions), WORD_SLOTS), dtype=np.int64)
    for row, question in zip(word_indices, found.questions, strict=True):
        row[: len(question.words)] = [words.get(word, 0) for word in question.words]
    arrays = {
        "questions": word_indices,
        "answers": np.array([answers.get(question.answer, -1) for question in found.questions], dtype=np.int64),
        "types": np.array([question.type_index for question in found.questions], dtype=np.int64),
    }
    notes = found.notes | {
        "questions with a word that occurs in no training question": sum(
            any(word not in words for word in question.words) for question in found.questions
        ),
        "questions with an answer that occurs in no training question": int((arrays["answers"] < 0).sum()),
    }
    return Targets(
        arrays,
        np.array([positions[question.video] for question in found.questions], dtype=np.int64),
        {description: count for description, count in notes.items() if count},
    )


def unread(root: Path) -> dict[str, int]:
    """Return the videos and pictures that are at no place that a list could name."""
    return unread_clips(root, _VIDEOS)


@dataclass(frozen=True)
class _Questions:
    """The questions of a split and notes on its files."""

    questions: list[_Question]
    notes: dict[str, int]


def _listed_path(paths: list[Path], locator: Locator) -> Path:
    """Return the first path that exists, or that is found in another spelling; otherwise the first of all."""
    existing = (path for path in paths if kind_of(path) != "missing")
    spelled = (path for path in paths if locator.find(path) != path)
    return next(existing, None) or next(spelled, paths[0])


def _videos(questions: list[_Question]) -> list[str]:
    return list(dict.fromkeys(question.video for question in questions))


def _words(questions: list[_Question]) -> list[str]:
    return list(dict.fromkeys(word for question in questions for word in question.words))


def _answers(questions: list[_Question]) -> list[str]:
    return list(dict.fromkeys(question.answer for question in questions))


def _read(root: Path, split: str) -> _Questions:
    if split not in SPLITS:
        raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    whole = root / f"avqa-{split}.json"
    parts = [path for part in _PARTS if (path := root / f"avqa-{split}_{part}.json").is_file()]
    notes: dict[str, int] = {}
    questions: list[_Question] = []
    deleted = 0
    for path in [whole] if whole.is_file() or not parts else parts:
        records = read_records(path, _REMEDY)
        if path != whole:
            notes[f"questions from {path.name}, in place of {whole.name}"] = len(records)
        for number, record in enumerate(records, start=1):
            if record.get("question_deleted"):
                deleted += 1
            else:
                questions.append(_question(record, f"{path}, record {number}"))
    if not questions:
        raise LavishError(f"{whole}: contains no question: {_REMEDY}")
    return _Questions(questions, notes | {"questions excluded, marked as deleted": deleted})


def _question(record: dict[str, Any], where: str) -> _Question:
    names = ("video_id", "question_content", "templ_values", "anser", "type")
    for name in names:
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise LavishError(f"{where}: '{name}' is {json.dumps(record.get(name))}: write a non-empty string")
    video, content, values, answer, kind = (record[name] for name in names)
    # The id becomes part of a path, so an id that leads out of the media folder is refused.
    if not is_plain_name(video):
        raise LavishError(
            f"{where}: video_id '{video}' is not a plain name: write the video's file name without '.mp4'"
        )
    group_and_type = tuple(_texts(kind, "type", where))
    if group_and_type not in TYPES:
        raise LavishError(f"{where}: unknown type {kind}{did_you_mean(kind, [json.dumps(known) for known in TYPES])}")
    words = _filled(content, _texts(values, "templ_values", where), where)
    return _Question(video, words, answer, TYPES.index(group_and_type))


def _filled(content: str, values: list[str], where: str) -> list[str]:
    """Return the words of a question with its placeholders filled, without the final (ASCII or full-width) '?'."""
    text = content.strip()
    words = (text[:-1] if text[-1] in "?？" else text).split()
    placeholders = [position for position, word in enumerate(words) if "<" in word]
    if len(placeholders) > len(values):
        raise LavishError(
            f"{where}: '{content}' has {len(placeholders)} placeholders, but templ_values only {len(values)}: add the "
            "missing values"
        )
    for position, value in zip(placeholders, values, strict=False):
        words[position] = value
    if not 0 < len(words) <= WORD_SLOTS:
        raise LavishError(
            f"{where}: '{content}' has {len(words)} words instead of 1 to {WORD_SLOTS}: rephrase the question"
        )
    return words


def _texts(encoded: str, name: str, where: str) -> list[str]:
    try:
        texts = json.loads(encoded)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise LavishError(f"{where}: '{name}' is {encoded}: write a list of strings as JSON, such as [\"piano\"]")
    return texts
