"""What a data set in an official layout has to tell: its classes, its clips and their targets.

A format is a module of this package with the functions of :class:`Reader`, named once in `_MODULES`. It only
reads text files and names media; decoding is the same for all of them (:mod:`lavish.data.decoding.media`).
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from lavish.errors import LavishError, did_you_mean

_MODULES = {
    "actions": "lavish.data.formats.actions",
    "ave": "lavish.data.formats.ave",
    "avsbench_s4": "lavish.data.formats.avsbench_s4",
    "avsbench_ms3": "lavish.data.formats.avsbench_ms3",
    "music_avqa": "lavish.data.formats.music_avqa",
}


@dataclass(frozen=True)
class ClipSource:
    """Where the pictures and the sound of one clip are.

    Attributes:
        clip: name, unique within the split. It names no file: it may begin with '-' and may carry a suffix.
        pictures: a video file, or a folder of numbered pictures, evenly spaced over the clip by their numbers.
        sound: a media file with a sound stream; the same file as `pictures` for a video with sound.
        frames: of each segment, its picture in the folder `pictures`, or None where that lacks it; empty for a format
            whose pictures are not numbered by segment.
        masks: of each segment, a picture whose non-zero pixels are the object, or None where nobody has annotated it;
            empty for a format without masks.
    """

    clip: str
    pictures: Path
    sound: Path
    frames: tuple[Path | None, ...] = ()
    masks: tuple[Path | None, ...] = ()


@dataclass(frozen=True)
class Targets:
    """What is to be predicted.

    Attributes:
        arrays: by name, with one entry per unit along the first axis.
        clips: (units,) int64, the position of each unit's clip in the list of clips, where several units (questions)
            share one; None: the units are the clips.
        notes: what was found and dealt with while reading, for the store's manifest: how often, by what it was.
    """

    arrays: dict[str, np.ndarray]
    clips: np.ndarray | None = None
    notes: dict[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """The functions of a format's module; each raises LavishError naming the file, the line and the remedy."""

    def classes(self, root: Path) -> list[str]:
        """Return the class names in the order of their indices."""

    def vocabulary(self, root: Path) -> list[str]:
        """Return the words that questions are made of, in the order of their indices from 1 on; none without any."""

    def clips(self, root: Path, split: str) -> list[ClipSource]:
        """Return the clips of the official list of `split`, in its order, whether or not their media exist."""

    def targets(self, root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
        """Return what is to be predicted of the listed clips."""


def reader(name: str) -> Reader:
    """Return the reader of a format."""
    if name not in _MODULES:
        raise LavishError(f"data.format: unknown format '{name}'{did_you_mean(name, _MODULES)}")
    return cast(Reader, importlib.import_module(_MODULES[name]))


def missing_media(source: ClipSource) -> str | None:
    """Return the reason why a clip cannot be read at all (a path that is not there), or None."""
    for path in dict.fromkeys((source.pictures, source.sound)):
        if not path.exists():
            return f"missing {_short(path)}"
    return None


def read_lines(path: Path, remedy: str) -> list[str]:
    """Return the lines of a text file of an official layout; a LavishError says `remedy` when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LavishError(f"{path}: not UTF-8 text (byte {error.start}): {remedy}") from None
    except OSError as error:
        raise LavishError(f"{path}: {error.strerror or error}: {remedy}") from None


def read_table(path: Path, remedy: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the first line's fields and (line number, fields) of each later line of a csv that is not empty.

    Fields have no spaces around them. Errors are those of :func:`read_lines`, and one for what is not a csv.
    """
    rows = csv.reader(read_lines(path, remedy), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        table = [(rows.line_num, [field.strip() for field in fields]) for fields in rows]
    except csv.Error as error:
        raise LavishError(f"{path}, line {rows.line_num}: not a table ({error}): {remedy}") from None
    return header, [(number, fields) for number, fields in table if any(fields)]


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with '#2', '#3', ... appended to the second, third, ... occurrence of one."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def _short(path: Path) -> str:
    # Reports travel with a prepared store: they name a file within the data set, not a place on one machine.
    return f"{path.parent.name}/{path.name}"


NOT_ANNOTATED = 255
"""In masks, all pixels of a segment that nobody has annotated."""
