"""The official layout of the MUSIC-AVQA data set (Li et al., CVPR 2022).

Questions, in the root folder:
    avqa-train.json, avqa-val.json, avqa-test.json   one list of records each, a record per question

A record holds `video_id`, `question_content` ("Where is the <LL> instrument?"), `templ_values` (the list of what stands
for each <...>, as JSON in a string), `anser` (so spelt), `type` (group and type, as JSON in a string) and
`question_deleted`. Its authors also publish each list in two parts, `avqa-<split>_real.json` about recorded and
`avqa-<split>_fake.json` about synthesised videos: where the whole list is not there, the parts that are there are read.

Media, either as published or already extracted:
    MUSIC-AVQA-videos-Real/<id>.mp4 and MUCIS-AVQA-videos-Synthetic/<id>.mp4 (so spelt), or all in videos/<id>.mp4
    video_frames/<id>/0001.jpg ... and raw_audio/<id>.wav

A unit is a question and a clip is a video; each video is a clip once a split, in the order of its first question. The
splits divide the questions, not the videos: most videos of the published lists are in more than one of them.

The vocabulary and the answers are those of the training list, in the order in which they first occur there. What the
other lists say beyond that stays in, as published results count all questions: an unknown word is read as an empty
slot, and a question with an unknown answer cannot be answered rightly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lavish.config.schema import SPLITS
from lavish.data.formats.registry import ClipSource, Targets, read_lines
from lavish.errors import LavishError, did_you_mean

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
"""Words that a question may have; the longest published ones have as many."""

_PARTS = ("real", "fake")
_VIDEOS = ("MUSIC-AVQA-videos-Real", "MUCIS-AVQA-videos-Synthetic", "MUSIC-AVQA-videos-Synthetic", "videos")
_REMEDY = "copy the json files of the MUSIC-AVQA data set into the root folder"


@dataclass(frozen=True)
class _Question:
    """One record."""

    video: str
    words: list[str]
    answer: str
    type_index: int


def classes(root: Path) -> list[str]:
    """Return the answers of the training list."""
    return _answers(_read(root, "train").questions)


def vocabulary(root: Path) -> list[str]:
    """Return the words of the training list's questions; their indices begin at 1, 0 is an empty slot."""
    return _words(_read(root, "train").questions)


def clips(root: Path, split: str) -> list[ClipSource]:
    """Return the videos of a split in the order of their first question."""
    videos = _videos(_read(root, split).questions)
    folders = [root / name for name in _VIDEOS if (root / name).is_dir()]
    pictures, sounds = root / "video_frames", root / "raw_audio"
    if folders:
        # Where no folder has the video, it is missing in the first.
        files = {video: [folder / f"{video}.mp4" for folder in folders] for video in videos}
        paths = {video: next((path for path in all_ if path.exists()), all_[0]) for video, all_ in files.items()}
        return [ClipSource(video, path, path) for video, path in paths.items()]
    if pictures.is_dir() and sounds.is_dir():
        return [ClipSource(video, pictures / video, sounds / f"{video}.wav") for video in videos]
    raise LavishError(
        f"{root}: no media folder: put the videos into '{_VIDEOS[0]}/<id>.mp4' and '{_VIDEOS[1]}/<id>.mp4' (spelt as "
        "published) or all into 'videos/<id>.mp4', or extracted pictures into 'video_frames/<id>/' together with the "
        "sound in 'raw_audio/<id>.wav'"
    )


def targets(root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
    """Return what is asked and to be answered, int64; a question is about the whole clip, whatever its segments.

    `questions` (units, WORD_SLOTS) holds indices of words and 0 in empty slots, `answers` (units,) the index of the
    class, or -1 for an answer that the training list does not know, `types` (units,) indices into :data:`TYPES`.
    """
    found = _read(root, split)
    known = found.questions if split == "train" else _read(root, "train").questions
    words = {word: index for index, word in enumerate(_words(known), start=1)}
    answers = {answer: index for index, answer in enumerate(_answers(known))}
    positions = {video: index for index, video in enumerate(_videos(found.questions))}
    asked = np.zeros((len(found.questions), WORD_SLOTS), dtype=np.int64)
    for row, question in zip(asked, found.questions, strict=True):
        row[: len(question.words)] = [words.get(word, 0) for word in question.words]
    arrays = {
        "questions": asked,
        "answers": np.array([answers.get(question.answer, -1) for question in found.questions], dtype=np.int64),
        "types": np.array([question.type_index for question in found.questions], dtype=np.int64),
    }
    notes = found.notes | {
        "questions with a word that no training question has": sum(
            any(word not in words for word in question.words) for question in found.questions
        ),
        "questions with an answer that no training question has": int((arrays["answers"] < 0).sum()),
    }
    return Targets(
        arrays,
        np.array([positions[question.video] for question in found.questions], dtype=np.int64),
        {what: count for what, count in notes.items() if count},
    )


@dataclass(frozen=True)
class _Questions:
    """The questions of a split and what is to be said of its files."""

    questions: list[_Question]
    notes: dict[str, int]


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
        records = _records(path)
        if path != whole:
            notes[f"questions from {path.name}, in place of {whole.name}"] = len(records)
        for number, record in enumerate(records, start=1):
            if record.get("question_deleted"):
                deleted += 1
            else:
                questions.append(_question(record, f"{path}, record {number}"))
    if not questions:
        raise LavishError(f"{whole}: no question in it: {_REMEDY}")
    return _Questions(questions, notes | {"questions left out, marked as deleted": deleted})


def _records(path: Path) -> list[dict[str, Any]]:
    text = "\n".join(read_lines(path, _REMEDY))
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LavishError(f"{path}: not JSON ({error}): {_REMEDY}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise LavishError(f"{path}: not a list of records: {_REMEDY}")
    return records


def _question(record: dict[str, Any], where: str) -> _Question:
    names = ("video_id", "question_content", "templ_values", "anser", "type")
    for name in names:
        if not isinstance(record.get(name), str) or not record[name].strip():
            raise LavishError(f"{where}: '{name}' is {json.dumps(record.get(name))}: write a text that is not empty")
    video, content, values, answer, kind = (record[name] for name in names)
    # The id becomes part of a path: one that leaves the media folder is refused.
    if video in (".", "..") or any(character in video for character in "/\\\0"):
        raise LavishError(f"{where}: video_id '{video}' is no plain name: write the video's file name without '.mp4'")
    group_and_type = tuple(_texts(kind, "type", where))
    if group_and_type not in TYPES:
        raise LavishError(f"{where}: unknown type {kind}{did_you_mean(kind, [json.dumps(known) for known in TYPES])}")
    words = _filled(content, _texts(values, "templ_values", where), where)
    return _Question(video, words, answer, TYPES.index(group_and_type))


def _filled(content: str, values: list[str], where: str) -> list[str]:
    """Return the words of a question, its blanks filled and the question mark at its end (of any width) removed."""
    text = content.strip()
    words = (text[:-1] if text[-1] in "?？" else text).split()
    blanks = [position for position, word in enumerate(words) if "<" in word]
    if len(blanks) > len(values):
        raise LavishError(
            f"{where}: '{content}' has {len(blanks)} blanks, but templ_values only {len(values)}: add the missing ones"
        )
    for position, value in zip(blanks, values, strict=False):
        words[position] = value
    if not 0 < len(words) <= WORD_SLOTS:
        raise LavishError(
            f"{where}: '{content}' has {len(words)} words; there are slots for 1 to {WORD_SLOTS}: rephrase the question"
        )
    return words


def _texts(encoded: str, name: str, where: str) -> list[str]:
    try:
        texts = json.loads(encoded)
    except (ValueError, RecursionError):
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise LavishError(f"{where}: '{name}' is {encoded}: write a list of texts as JSON, such as [\"piano\"]")
    return texts
