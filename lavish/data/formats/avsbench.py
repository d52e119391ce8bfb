"""Reader shared by the two subsets of AVSBench (Zhou et al., "Audio-Visual Segmentation", ECCV 2022).

A CSV file lists one video per line after the header: the first column is the video, the column `split` is train, val or
test, and S4 has a column `category`. Frames, audio and masks are in folders beside it; `<path>` depends on the subset:

    <media>/visual_frames/<path>/<video>/<video>_1.png ...    one frame per second
    <media>/audio_wav/<path>/<video>.wav                      if this folder is missing: raw_videos/<path>/<video>.mp4
    <media>/gt_masks/<path>/<video>/<video>_1.png ...         the sounding object, white on black

Files are identified by the number at the end of their names, starting at 1, whatever precedes it (`<video>.mp4_1.png`);
of several files with one number, the one that begins with the video's name is used. The number of segments of a split
is the number of frames that most of its clips have: later frames are not read, and a segment without a frame has no
mask either, even if there is a file. Frames may also be jpg; masks may not, because compression would blur the object.
The root may also be the parent folder, into which AVSBench's archive unpacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from lavish.config.schema import SPLITS
from lavish.data.formats.base import ClipSource, Targets, is_plain_name, read_table, unique_names, unread_media
from lavish.data.formats.locating import Locator
from lavish.errors import LavishError, did_you_mean
from lavish.io.paths import kind_of

SEGMENTS = 5  # of one second, if there are no frames to count
_FRAME = re.compile(r"(?:^|_)([0-9]+)\.(?:png|jpg|jpeg)$", re.IGNORECASE)
_MASK = re.compile(r"(?:^|_)([0-9]+)\.png$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """A line of the CSV file."""

    video: str
    split: str
    category: str


@dataclass(frozen=True)
class AvsbenchSubset:
    """The folder layout of a subset, with the methods of a :class:`lavish.data.formats.base.Reader`.

    Attributes:
        title: its name in messages.
        table: the CSV file.
        subset_folder: the folder of the CSV file if the root contains all of AVSBench.
        media: the folder of frames, audio and masks beside the CSV file.
        columns: of the CSV file, as published.
        frames_path: the folder of a video's frames below `visual_frames`.
        media_path: the folder of a video's audio below `audio_wav` and of its masks below `gt_masks`.
        first_only: splits in which only the first segment of a clip is annotated.
    """

    title: str
    table: str
    subset_folder: str
    media: str
    columns: tuple[str, ...]
    frames_path: Callable[[Row], Path]
    media_path: Callable[[Row], Path]
    first_only: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """How to fix a CSV file that is missing or malformed."""
        return f"copy {self.table} of {self.title} into the root folder, with the first line '{','.join(self.columns)}'"

    def classes(self, _root: Path) -> list[str]:
        """Return the one class, the sounding object; the categories of videos are not predicted."""
        return ["sounding object"]

    def vocabulary(self, _root: Path) -> list[str]:
        """Return no words: this format has no questions."""
        return []

    def clips(self, root: Path, split: str) -> list[ClipSource]:
        """Return the clips of a split in the order of the CSV file, with a mask or None for each segment."""
        rows = self._rows(root, split)
        media = self._base(root) / self.media
        for needed in ("visual_frames", "gt_masks"):
            if not (media / needed).is_dir():
                raise LavishError(f"{media}: no folder '{needed}': copy that of {self.title} into it")
        audio, suffix = media / "audio_wav", "wav"
        if not audio.is_dir() and (media / "raw_videos").is_dir():
            audio, suffix = media / "raw_videos", "mp4"
        folders = [media / "visual_frames" / self.frames_path(row) for row in rows]
        sounds = [audio / self.media_path(row) / f"{row.video}.{suffix}" for row in rows]
        annotated = [media / "gt_masks" / self.media_path(row) / row.video for row in rows]
        locator = Locator([*folders, *sounds, *annotated])
        numbered = [_numbered(locator.find(folder), _FRAME) for folder in folders]
        segments = _count_segments(numbered)
        names = unique_names([row.video for row in rows])
        sources = []
        for name, row, folder, sound, masked, present in zip(
            names, rows, folders, sounds, annotated, numbered, strict=True
        ):
            frames = tuple(present.get(number) for number in range(1, segments + 1))
            masks = self._masks(locator.find(masked), row, segments)
            if present:
                # A missing frame is replaced by that of another segment, for which this mask would be wrong.
                masks = tuple(None if frame is None else mask for frame, mask in zip(frames, masks, strict=True))
            sources.append(replace(locator.source(name, folder, sound, frames, masks), category=row.category))
        return sources

    def targets(self, root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
        """Return no arrays, because masks are stored with the frames; only check the number of segments."""
        found = len(self.clips(root, split)[0].masks)
        if found != segments:
            raise LavishError(
                f"{self._base(root) / self.media / 'visual_frames'}: clips of {split} have {found} frames, one per "
                f"segment, but data.segments is {segments}: correct the key"
            )
        return Targets({})

    def unread(self, root: Path) -> dict[str, int]:
        """Return the videos and pictures whose names or folders are not those of frames, masks and audio."""
        media = self._base(root) / self.media
        row = Row("video", "train", "category")
        frames, masks = len(self.frames_path(row).parts) + 1, len(self.media_path(row).parts) + 2

        def is_read(path: PurePath) -> bool:
            *_, name = parts = path.relative_to(media.relative_to(root)).parts
            if parts[0] == "raw_videos":
                return len(parts) == masks and path.suffix == ".mp4"
            pattern, depth = (_FRAME, frames + 1) if parts[0] == "visual_frames" else (_MASK, masks + 1)
            return len(parts) == depth and pattern.search(name) is not None

        videos = [] if (media / "audio_wav").is_dir() else [media / "raw_videos"]
        return unread_media(root, [media / "visual_frames", media / "gt_masks", *videos], is_read)

    def _masks(self, folder: Path, row: Row, segments: int) -> tuple[Path | None, ...]:
        present = _numbered(folder, _MASK)
        masks = [present.get(number, folder / f"{row.video}_{number}.png") for number in range(1, segments + 1)]
        return (masks[0], *[None] * (segments - 1)) if row.split in self.first_only else tuple(masks)

    def _base(self, root: Path) -> Path:
        inner = root / self.subset_folder
        return inner if not (root / self.table).exists() and (inner / self.table).exists() else root

    def _rows(self, root: Path, split: str) -> list[Row]:
        if split not in SPLITS:
            raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
        path = self._base(root) / self.table
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
                    f"{where}: '{row.video}' is in the splits '{splits[row.video]}' and '{row.split}': list it in one "
                    "split only"
                )
            rows += [row] if row.split == split else []
        if not rows:
            raise LavishError(f"{path}: lists no video of split '{split}': {self.remedy}")
        return rows

    def _row(self, header: list[str], fields: list[str], where: str) -> Row:
        if len(fields) != len(header):
            raise LavishError(f"{where}: {len(fields)} fields instead of {len(header)}: write '{','.join(header)}'")
        values = dict(zip(header, fields, strict=True))
        row = Row(fields[0], values["split"], values["category"] if "category" in self.columns else "")
        if row.split not in SPLITS:
            raise LavishError(f"{where}: unknown split '{row.split}'{did_you_mean(row.split, SPLITS)}")
        # Both become parts of paths, so a name that leads out of the media folders is refused.
        for what, name in (("video", row.video), ("category", row.category)):
            if (what == "video" or "category" in self.columns) and not is_plain_name(name):
                raise LavishError(f"{where}: {what} '{name}' is not a plain name: correct the line")
        return row


def _count_segments(numbered: Sequence[Mapping[int, Path]]) -> int:
    """Return the most common highest frame number of the folders; if several are equally common, the largest."""
    last = Counter(max(frames) for frames in numbered if frames)
    return max(last, key=lambda number: (last[number], number), default=SEGMENTS)


def _numbered(folder: Path, name: re.Pattern[str]) -> dict[int, Path]:
    """Return the files of a video's folder by the number at the end of their names; empty for a missing folder."""
    if kind_of(folder) != "folder":
        return {}
    # The later of two files with one number wins. Hidden files are created by file managers.
    paths = sorted(folder.iterdir(), key=lambda path: (path.name.startswith(folder.name), path.name))
    listed = [path for path in paths if not path.name.startswith(".")]
    found = {int(match[1]): path for path in listed if (match := name.search(path.name))}
    if 0 in found:
        raise LavishError(
            f"{found[0]}: frames and masks are numbered from 1, not from 0: rename all files of the folder"
        )
    return found
