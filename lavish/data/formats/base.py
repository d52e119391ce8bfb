"""Types and text-file helpers that all readers share: clip sources, targets, the reader protocol."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np

from lavish.errors import LavishError
from lavish.io.json_texts import parse_json
from lavish.io.paths import kind_of

NOT_ANNOTATED = 255
"""Value of all mask pixels of a segment without annotation."""

VIDEOS = frozenset(
    (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv")
)
"""Endings of the videos that formats with any kind of video read, in lower case."""

PICTURES = frozenset((".jpg", ".jpeg", ".png"))
"""Endings of the pictures that are read as frames, in lower case."""

# Endings by which files that are not read are recognised as media.
_ALL_VIDEOS = VIDEOS | {
    ".264", ".265", ".3g2", ".amv", ".asf", ".divx", ".dv", ".f4v", ".h264", ".h265", ".hevc", ".ivf", ".m1v", ".m2t",
    ".m2ts", ".m2v", ".mjpeg", ".mjpg", ".mod", ".mp4v", ".mpe", ".mpv", ".mxf", ".nut", ".ogm", ".qt", ".rm",
    ".rmvb", ".tod", ".trp", ".vob", ".wtv", ".xvid", ".y4m",
}  # fmt: skip
_ALL_PICTURES = PICTURES | {
    ".avif", ".bmp", ".dib", ".exr", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pgm",
    ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
_NAMED = 5


@dataclass(frozen=True)
class ClipSource:
    """The media files of one clip.

    Attributes:
        clip: name, unique within the split. It is not a file name: it may begin with '-' and may contain a suffix.
        video: a video file, or a folder of numbered images, evenly spaced over the clip by their numbers.
        audio: a media file with an audio stream; the same file as `video` for a video with audio.
        segment_frames: the image of each segment in the folder `video`, None where it is missing; empty for a format
            whose images are not numbered by segment.
        masks: the mask image of each segment (see :mod:`lavish.data.decoding.masks`), None where the segment is not
            annotated; empty for a format without masks.
        notes: what was repaired when the files were looked for.
        category: what the list says the clip is of, where that is nothing to predict (AVSBench's S4); else empty.
    """

    clip: str
    video: Path
    audio: Path
    segment_frames: tuple[Path | None, ...] = ()
    masks: tuple[Path | None, ...] = ()
    notes: tuple[str, ...] = ()
    category: str = ""


@dataclass(frozen=True)
class Targets:
    """The values to predict.

    Attributes:
        arrays: by name, with one entry per unit along the first axis.
        clips: (units,) int64, the position of each unit's clip in the list of clips, where several units (questions)
            share a clip; None if the units are the clips.
        notes: irregularities handled while reading, for the store's manifest: description -> count.
    """

    arrays: dict[str, np.ndarray]
    clips: np.ndarray | None = None
    notes: dict[str, int] = field(default_factory=dict)


class Reader(Protocol):
    """The functions of a format's module. Each raises a LavishError that names the file, the line and the remedy."""

    def classes(self, root: Path) -> list[str]:
        """Return the class names in the order of their indices."""

    def vocabulary(self, root: Path) -> list[str]:
        """Return the words of questions in the order of their indices, which start at 1; empty without questions."""

    def clips(self, root: Path, split: str) -> list[ClipSource]:
        """Return the clips of the official list of `split`, in its order, whether or not their media exist."""

    def targets(self, root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
        """Return the targets of the listed clips."""

    def unread(self, root: Path) -> dict[str, int]:
        """Return what :func:`unread_media` says of the folders of this format, whatever the lists name."""


def missing_media(source: ClipSource) -> str | None:
    """Return the reason why a clip cannot be read at all (no file, or something else in its place), or None."""
    for path in dict.fromkeys((source.video, source.audio)):
        # Reports are copied along with a prepared store, so they name files relative to the data set.
        name = f"{path.parent.name}/{path.name}"
        kind = kind_of(path)
        if kind == "missing":
            return f"missing {name}"
        if kind in ("other", "unreadable"):
            return f"{name} is not a regular file" if kind == "other" else f"no permission to read {name}"
        if kind == "folder" and path == source.audio:
            return f"{name} is a folder, which has no sound"
    return None


def unread_media(root: Path, folders: Iterable[Path], is_read: Callable[[PurePath], bool]) -> dict[str, int]:
    """Count the videos and pictures that a format cannot read for their place or ending.

    Folders are only listed: no file is opened and no link followed. Hidden files and folders are left out.

    Args:
        root: the folder of the data set.
        folders: those below it that hold media; they may be missing.
        is_read: whether the format reads a file, or a folder that is called like one, given its path below the root.

    Returns:
        A description with the first names -> count, as in :attr:`Targets.notes`; empty if everything can be read.
    """
    found: dict[str, list[str]] = {"videos": [], "pictures": []}
    for folder in folders:
        for place, inner, names in os.walk(folder):
            here = PurePath(place).relative_to(root)
            inner[:] = [name for name in inner if not (name.startswith(".") or (_kind(name) and is_read(here / name)))]
            for name in names:
                if (kind := _kind(name)) and not name.startswith(".") and not is_read(here / name):
                    found[kind].append((here / name).as_posix())
    notes = {}
    for kind, paths in found.items():
        # A name need not be text, and the description goes into a JSON file.
        examples = [os.fsencode(path).decode(errors="backslashreplace") for path in sorted(paths)[:_NAMED]]
        if examples:
            more = ", ..." if len(paths) > _NAMED else ""
            notes[f"{kind} not read, because of their folder or ending: {', '.join(examples)}{more}"] = len(paths)
    return notes


def _kind(name: str) -> str | None:
    suffix = PurePath(name).suffix.lower()
    return "videos" if suffix in _ALL_VIDEOS else "pictures" if suffix in _ALL_PICTURES else None


def unread_clips(root: Path, videos: Sequence[str]) -> dict[str, int]:
    """Return :func:`unread_media` of a format with ``<videos>/<id>.mp4``, or without such a folder extracted frames."""
    if folders := [root / name for name in videos if (root / name).is_dir()]:
        return unread_media(root, folders, lambda path: len(path.parts) == 2 and path.suffix == ".mp4")
    return unread_media(
        root, [root / "video_frames"], lambda path: len(path.parts) == 3 and path.suffix.lower() in PICTURES
    )


_texts: ContextVar[set[Path] | None] = ContextVar("texts", default=None)


@contextmanager
def recorded_texts() -> Iterator[set[Path]]:
    """Yield a set that collects the text files which readers read until the block ends."""
    found: set[Path] = set()
    token = _texts.set(found)
    try:
        yield found
    finally:
        _texts.reset(token)


def read_lines(path: Path, remedy: str) -> list[str]:
    """Return the lines of a text file of an official layout; the LavishError for an unreadable file gives `remedy`."""
    if (recorded := _texts.get()) is not None:
        recorded.add(path)
    if kind_of(path) == "other":
        raise LavishError(f"{path}: not a regular file: {remedy}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LavishError(f"{path}: not UTF-8 text (byte {error.start}): {remedy}") from None
    except OSError as error:
        raise LavishError(f"{path}: {error.strerror or error}: {remedy}") from None
    # Not str.splitlines, for which a name would end at U+2028, too.
    return text.removesuffix("\n").split("\n")


def read_records(path: Path, remedy: str) -> list[dict[str, Any]]:
    """Return the records of a JSON file; raises like :func:`read_lines`, also for other content."""
    try:
        records = parse_json("\n".join(read_lines(path, remedy)), str(path))
    except ValueError as error:
        raise LavishError(f"{path}: not JSON ({error}): {remedy}") from None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise LavishError(f"{path}: not a list of records: {remedy}")
    return records


def read_class_names(path: Path, remedy: str) -> list[str]:
    """Return the class names of a file that lists one per line; LavishError if there are none or one occurs twice."""
    names = [line.strip() for line in read_lines(path, remedy) if line.strip()]
    if not names:
        raise LavishError(f"{path}: lists no class: {remedy}")
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise LavishError(f"{path}: class '{repeated}' occurs twice: list each class once")
    return names


def read_table(path: Path, remedy: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header fields of a CSV file and (line number, fields) of each later line that is not empty.

    White space around fields is removed. Raises the errors of :func:`read_lines`, and a LavishError for malformed CSV.
    """
    rows = csv.reader((f"{line}\n" for line in read_lines(path, remedy)), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        table = [(rows.line_num, [field.strip() for field in fields]) for fields in rows]
    except csv.Error as error:
        raise LavishError(f"{path}, line {rows.line_num}: malformed CSV ({error}): {remedy}") from None
    return header, [(number, fields) for number, fields in table if any(fields)]


def printable(text: str) -> str:
    r"""Return text that can be written as UTF-8: bytes of file names that are not UTF-8 become ``\udc..``."""
    return text.encode("utf-8", "backslashreplace").decode()


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with '#2', '#3', ... appended to the second, third, ... occurrence of a name."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique


def is_plain_name(name: str) -> bool:
    """Return whether a name from a list can safely become part of a path: not empty, and not leading elsewhere."""
    return bool(name) and name not in (".", "..") and not any(character in name for character in "/\\\0")
