"""What the two subsets of AVSBench have in common (Zhou et al., "Audio-Visual Segmentation", ECCV 2022).

A csv lists the videos, one a line after the header: the first column is the video, the column `split` is train, val or
test, and S4 has a column `category`. Pictures, sound and masks are in folders beside it, `<place>` being what the
subset says:

    <media>/visual_frames/<place>/<video>/<video>_1.png ...    one picture a second
    <media>/audio_wav/<place>/<video>.wav                      without this folder: raw_videos/<place>/<video>.mp4
    <media>/gt_masks/<place>/<video>/<video>_1.png ...         the sounding object: pixels that are not zero

Files are known by the number at the end of their names, from 1 on, whatever stands before it (`<video>.mp4_1.png`); of
several with one number that count which begin with the video's name. The segments of a split are the pictures that most of
its clips have: later pictures are not read, and a segment without its picture has no mask either, whatever the files say.
Pictures may be jpg, too; masks may not, since compression would smear the object. The root folder may also be the one
above, as AVSBench's archive unpacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lavish.config.schema import SPLITS
from lavish.data.formats.registry import ClipSource, Targets, read_table, unique_names
from lavish.errors import LavishError, did_you_mean

SEGMENTS = 5  # seconds of a clip, where no picture says otherwise
_PICTURE = re.compile(r"(?:^|_)([0-9]+)\.(?:png|jpg|jpeg)$", re.IGNORECASE)
_MASK = re.compile(r"(?:^|_)([0-9]+)\.png$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A line of the csv."""

    video: str
    split: str
    category: str


@dataclass(frozen=True)
class AvsbenchSubset:
    """How a subset lies on disk; its methods are those of a :class:`lavish.data.formats.registry.Reader`.

    Attributes:
        title: its name in messages.
        table: the csv.
        above: the folder that holds it where the root is the whole of AVSBench.
        media: the folder of pictures, sound and masks beside the csv.
        columns: of the csv, as published.
        pictures: the folder of a video below `visual_frames`.
        place: the folder that holds a video's sound and its folder of masks.
        first_only: splits whose clips have a mask for the first segment alone.
    """

    title: str
    table: str
    above: str
    media: str
    columns: tuple[str, ...]
    pictures: Callable[[Row], Path]
    place: Callable[[Row], Path]
    first_only: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do about a csv that is missing or malformed."""
        return f"copy {self.table} of {self.title} into the root folder, its first line '{','.join(self.columns)}'"

    def classes(self, _root: Path) -> list[str]:
        """Return the one thing that is looked for; categories of videos are no targets."""
        return ["sounding object"]

    def vocabulary(self, _root: Path) -> list[str]:
        """Return no words: nothing is asked."""
        return []

    def clips(self, root: Path, split: str) -> list[ClipSource]:
        """Return the clips of a split in the order of the csv, with a mask, or None, for each segment."""
        rows = self._rows(root, split)
        media = self._home(root) / self.media
        for needed in ("visual_frames", "gt_masks"):
            if not (media / needed).is_dir():
                raise LavishError(f"{media}: no folder '{needed}': copy that of {self.title} there")
        sounds, ending = media / "audio_wav", "wav"
        if not sounds.is_dir() and (media / "raw_videos").is_dir():
            sounds, ending = media / "raw_videos", "mp4"
        folders = [media / "visual_frames" / self.pictures(row) for row in rows]
        pictures = [_numbered(folder, _PICTURE) for folder in folders]
        segments = _segments(pictures)
        names = unique_names([row.video for row in rows])
        sources = []
        for name, row, folder, there in zip(names, rows, folders, pictures, strict=True):
            frames = tuple(there.get(number) for number in range(1, segments + 1))
            masks = self._masks(media / "gt_masks" / self.place(row) / row.video, row, segments)
            if there:
                # A mask says nothing of the picture of another segment, which stands in for one that is missing.
                masks = tuple(None if frame is None else mask for frame, mask in zip(frames, masks, strict=True))
            sources.append(ClipSource(name, folder, sounds / self.place(row) / f"{row.video}.{ending}", frames, masks))
        return sources

    def targets(self, root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
        """Return no arrays, for masks lie beside the pictures; only check that a clip has as many segments."""
        found = len(self.clips(root, split)[0].masks)
        if found != segments:
            raise LavishError(
                f"{self._home(root) / self.media / 'visual_frames'}: clips of {split} have {found} pictures, one a "
                f"segment, but data.segments is {segments}: correct the key"
            )
        return Targets({})

    def _masks(self, folder: Path, row: Row, segments: int) -> tuple[Path | None, ...]:
        there = _numbered(folder, _MASK)
        masks = [there.get(number, folder / f"{row.video}_{number}.png") for number in range(1, segments + 1)]
        return (masks[0], *[None] * (segments - 1)) if row.split in self.first_only else tuple(masks)

    def _home(self, root: Path) -> Path:
        inner = root / self.above
        return inner if not (root / self.table).exists() and (inner / self.table).exists() else root

    def _rows(self, root: Path, split: str) -> list[Row]:
        if split not in SPLITS:
            raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
        path = self._home(root) / self.table
        header, lines = read_table(path, self.remedy)
        for column in self.columns[1:]:
            if column in ("split", "category") and column not in header[1:]:
                raise LavishError(f"{path}, line 1: no column '{column}': {self.remedy}")
        rows = []
        splits: dict[str, str] = {}
        for number, fields in lines:
            where = f"{path}, line {number}"
            row = self._row(header, fields, where)
            if splits.setdefault(row.video, row.split) != row.split:
                raise LavishError(
                    f"{where}: '{row.video}' is in the splits '{splits[row.video]}' and '{row.split}': leave it in one "
                    "of them"
                )
            rows += [row] if row.split == split else []
        if not rows:
            raise LavishError(f"{path}: no video of split '{split}' in it: {self.remedy}")
        return rows

    def _row(self, header: list[str], fields: list[str], where: str) -> Row:
        if len(fields) != len(header):
            raise LavishError(f"{where}: {len(fields)} fields instead of {len(header)}: write '{','.join(header)}'")
        values = dict(zip(header, fields, strict=True))
        row = Row(fields[0], values["split"], values["category"] if "category" in self.columns else "")
        if row.split not in SPLITS:
            raise LavishError(f"{where}: unknown split '{row.split}'{did_you_mean(row.split, SPLITS)}")
        # Both become parts of paths: what leaves the media folders is refused.
        for what, name in (("video", row.video), ("category", row.category)):
            needed = what == "video" or "category" in self.columns
            if (needed and not name) or name in (".", "..") or any(character in name for character in "/\\\0"):
                raise LavishError(f"{where}: {what} '{name}' is no plain name: correct the line")
        return row


def _segments(pictures: Sequence[Mapping[int, Path]]) -> int:
    """Return the highest number of a picture in most folders, of several the highest, so that no single one decides."""
    last = Counter(max(there) for there in pictures if there)
    return max(last, key=lambda number: (last[number], number), default=SEGMENTS)


def _numbered(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    """Return the files of a video's folder by the number at the end of their names; none of a folder that is absent."""
    if not folder.is_dir():
        return {}
    # Where two have a number, the later one stays. Hidden files are what file managers add.
    paths = sorted(folder.iterdir(), key=lambda path: (path.name.startswith(folder.name), path.name))
    listed = [path for path in paths if not path.name.startswith(".")]
    found = {int(match[1]): path for path in listed if (match := name.search(path.name))}
    if 0 in found:
        raise LavishError(
            f"{found[0]}: pictures and masks are numbered from 1 on, not from 0: rename all of the folder"
        )
    return found
