"""The official layout of the AVE data set (Tian et al., ECCV 2018).

Text files, in the root folder:
    trainSet.txt, valSet.txt, testSet.txt   one clip per line: ``class&id&quality&start&end``, seconds, `end` exclusive
    Annotations.txt                         the same for all clips, after a header line
    categories.txt                          optional: one class name per line, in the order of the class indices

Media, either as published or extracted:
    AVE/<id>.mp4
    video_frames/<id>/0001.jpg ... and raw_audio/<id>.wav

A clip is a *line*, not a video: the published lists contain 45 videos two or three times, with the same times but
different classes. Lines of one list with the same video become the clips ``<id>``, ``<id>#2``, ...; all are kept,
because published results count them. 18 of these videos are both in the training list and in the validation or test
list; the lists are used as published, unless ``data.duplicates`` says otherwise.

Without categories.txt the classes are the sorted names in Annotations.txt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lavish.data.formats.base import (
    ClipSource,
    Targets,
    is_plain_name,
    read_class_names,
    read_lines,
    unique_names,
    unread_clips,
)
from lavish.data.formats.locating import Locator
from lavish.errors import LavishError, did_you_mean

_LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
_ROW = "class&id&quality&start&end"
_REMEDY = "copy the text files of the AVE data set into the root folder"


@dataclass(frozen=True)
class _Row:
    """One line of a list: an event at `start` <= time < `end` seconds; a clip with start == end has no event."""

    where: str
    label: str
    video: str
    start: float
    end: float


def classes(root: Path) -> list[str]:
    """Return the class names; the index after the last one stands for background."""
    if (root / "categories.txt").exists():
        return read_class_names(root / "categories.txt", _REMEDY)
    annotations = root / "Annotations.txt"
    names = sorted({row.label for row in _rows(annotations, header=True)})
    if not names:
        raise LavishError(f"{annotations}: lists no class: {_REMEDY}")
    return names


def vocabulary(_root: Path) -> list[str]:
    """Return no words: this format has no questions."""
    return []


def clips(root: Path, split: str) -> list[ClipSource]:
    """Return the clips of a split in the order of its list."""
    rows = _list(root, split)
    videos, frames, audio = root / "AVE", root / "video_frames", root / "raw_audio"
    if videos.is_dir():
        paths = [(videos / f"{row.video}.mp4",) * 2 for row in rows]
    elif frames.is_dir() and audio.is_dir():
        paths = [(frames / row.video, audio / f"{row.video}.wav") for row in rows]
    else:
        raise LavishError(
            f"{root}: no media folder: put the videos into 'AVE/<id>.mp4', or the extracted frames into "
            "'video_frames/<id>/' and the audio into 'raw_audio/<id>.wav'"
        )
    names = unique_names([row.video for row in rows])
    locator = Locator(path for pair in paths for path in pair)
    return [locator.source(name, *media) for name, media in zip(names, paths, strict=True)]


def targets(root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
    """Return `labels`, (clips, segments) int64: the class of each segment, or the number of classes for background.

    A segment belongs to an event if its centre lies within it. Published events start and end at whole seconds, so for
    segments of one second this is the event that covers the segment.
    """
    indices = {name: index for index, name in enumerate(classes(root))}
    rows = _list(root, split)
    centres = (np.arange(segments) + 0.5) * segment_seconds
    labels = np.full((len(rows), segments), len(indices), dtype=np.int64)
    for clip, row in enumerate(rows):
        if row.label not in indices:
            raise LavishError(f"{row.where}: unknown class '{row.label}'{did_you_mean(row.label, indices)}")
        if row.end > segments * segment_seconds + 1e-6:
            raise LavishError(
                f"{row.where}: the event ends at {row.end:g} s, but clips are configured as {segments} segments of "
                f"{segment_seconds:g} s: correct data.segments or data.segment_seconds"
            )
        labels[clip, (centres >= row.start) & (centres < row.end)] = indices[row.label]
    return Targets({"labels": labels})


def unread(root: Path) -> dict[str, int]:
    """Return the videos and pictures that are at no place that a list could name."""
    return unread_clips(root, ["AVE"])


def _list(root: Path, split: str) -> list[_Row]:
    if split not in _LISTS:
        raise LavishError(f"unknown split '{split}'{did_you_mean(split, _LISTS)}")
    rows = _rows(root / _LISTS[split], header=False)
    if not rows:
        raise LavishError(f"{root / _LISTS[split]}: lists no clip: {_REMEDY}")
    return rows


def _rows(path: Path, *, header: bool) -> list[_Row]:
    lines = read_lines(path, _REMEDY)
    return [
        _row(line, f"{path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not (header and number == 1)
    ]


def _row(line: str, where: str) -> _Row:
    fields = [field.strip() for field in line.split("&")]
    if len(fields) != 5:
        raise LavishError(f"{where}: {len(fields)} fields instead of 5: write '{_ROW}'")
    label, video, _, start, end = fields
    # The id becomes part of a path, so an id that leads out of the media folder is refused.
    if not label or not is_plain_name(video):
        raise LavishError(f"{where}: class '{label}' or id '{video}' is not a plain name: write '{_ROW}'")
    seconds = _seconds(start), _seconds(end)
    if not 0 <= seconds[0] <= seconds[1] < math.inf:
        raise LavishError(
            f"{where}: start '{start}' and end '{end}' do not satisfy 0 <= start <= end (seconds): write '{_ROW}'"
        )
    return _Row(where, label, video, *seconds)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
