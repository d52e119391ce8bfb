"""Videos with one class label each: action recognition (UCF101, Kinetics-Sounds, VGGSound and similar data sets).

The root folder has one of three layouts, tried in this order:

a table
    ``clips.csv`` with the columns ``path,label,split`` in any order (others are ignored); paths relative to the root
lists, as in UCF101
    ``trainlist01.txt``, ``vallist01.txt``, ``testlist01.txt`` of a single fold: ``<class>/<video>`` per line (the class
    index in the training list is ignored); the videos in ``UCF-101/<class>/`` or ``videos/<class>/``
class folders, as in Kinetics
    ``train/<class>/<video>``, ``val/<class>/<video>``, ``test/<class>/<video>``

The classes are the sorted names in the training split or, with ``classes.txt`` (one name per line), the names in that
file, in its order. Clips of classes that it does not list are excluded from the data set; in a table they are an error.

A layout without a validation split is refused, because selecting a checkpoint on test clips invalidates the test.
Names are untrusted: none may lead out of the root.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from lavish.config.schema import SPLITS
from lavish.data.formats.base import (
    VIDEOS,
    ClipSource,
    Targets,
    read_class_names,
    read_lines,
    read_table,
    unique_names,
    unread_media,
)
from lavish.data.formats.locating import Locator
from lavish.errors import LavishError, did_you_mean

_TABLE = "clips.csv"
_CLASSES = "classes.txt"
_EXCLUDED = f"clips excluded, of a class that {_CLASSES} does not list"
_COLUMNS = ("path", "label", "split")
_VIDEO_FOLDERS = ("UCF-101", "videos")
_LAYOUTS = (
    f"give {_TABLE} with the columns {','.join(_COLUMNS)}, or class folders train/<class>/<video>, val/..., test/..., "
    "or lists trainlist01.txt, vallist01.txt, testlist01.txt of <class>/<video>"
)


@dataclass(frozen=True)
class _Clip:
    """A listed video: the line that lists it, its name there, its file and its label."""

    where: str
    name: str
    path: Path
    label: str


def classes(root: Path) -> list[str]:
    """Return the class names in the order of their indices."""
    return _data_set(root, "train")[0]


def vocabulary(root: Path) -> list[str]:
    """Return no words: this format has no questions."""
    return []


def clips(root: Path, split: str) -> list[ClipSource]:
    """Return the clips of a split in the order of the table or list; those of class folders sorted by name."""
    listed = _data_set(root, split)[1]
    names = unique_names([clip.name for clip in listed])
    locator = Locator(clip.path for clip in listed)
    return [locator.source(name, clip.path, clip.path) for name, clip in zip(names, listed, strict=True)]


def targets(root: Path, split: str, *, segments: int, segment_seconds: float) -> Targets:
    """Return `labels`, (clips,) int64: the class of each clip, regardless of the segments."""
    names, listed, excluded = _data_set(root, split)
    indices = {name: index for index, name in enumerate(names)}
    labels = np.array([indices[clip.label] for clip in listed], dtype=np.int64)
    return Targets({"labels": labels}, notes={_EXCLUDED: excluded} if excluded else {})


def unread(root: Path) -> dict[str, int]:
    """Return the videos and pictures that are neither in a class folder nor at a place that a list could name."""
    if (root / _TABLE).exists():
        return {}  # which names any file
    if any(_lists(root, name) for name in SPLITS):
        return unread_media(root, [root / name for name in _VIDEO_FOLDERS], lambda path: len(path.parts) == 3)
    return unread_media(
        root,
        [root],
        lambda path: len(path.parts) == 3 and path.parts[0] in SPLITS and path.suffix.lower() in VIDEOS,
    )


def _data_set(root: Path, split: str) -> tuple[list[str], list[_Clip], int]:
    """Return the class names, the clips of one split, and its number of clips of classes that are not used."""
    if split not in SPLITS:
        raise LavishError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    if not root.is_dir():
        raise LavishError(f"{root}: no such folder: correct data.root")
    if is_table := (root / _TABLE).exists():
        parts = _table(root)
    elif any(_lists(root, name) for name in SPLITS):
        parts = {name: _list(root, name) for name in {"train", split}}
    elif any((root / name).is_dir() for name in SPLITS):
        parts = {name: _folders(root, name) for name in {"train", split}}
    else:
        raise LavishError(f"{root}: no labelled videos in a known layout: {_LAYOUTS}")

    selected, all_listed = _selected_classes(root), len(parts[split])
    if selected is not None and not is_table:
        parts = {name: [clip for clip in listed if clip.label in selected] for name, listed in parts.items()}
    for name in ("train", split):
        if not parts[name]:
            raise LavishError(f"{root}: {_no_clips(name)}")
    trained = {clip.label for clip in parts["train"]}
    if selected is not None and not is_table and (absent := [name for name in selected if name not in trained]):
        raise LavishError(
            f"{root / _CLASSES}: no training clip of class '{absent[0]}': correct the name, or remove the class"
        )
    names = selected if selected is not None else sorted(trained)
    known = set(names)
    for clip in parts["train"] + parts[split]:
        if clip.label not in known:
            problem = f"is not in {_CLASSES}" if selected is not None else "has no training clip"
            raise LavishError(f"{clip.where}: class '{clip.label}' {problem}{did_you_mean(clip.label, names)}")
    return names, parts[split], all_listed - len(parts[split])


def _no_clips(split: str) -> str:
    if split == "val":
        return (
            "no validation clips, and checkpoints are never selected on test clips: hold out some training clips, and "
            "list them as the split 'val' or move them to its folder"
        )
    return f"no clips of the split '{split}': {_LAYOUTS}"


def _selected_classes(root: Path) -> list[str] | None:
    path = root / _CLASSES
    return read_class_names(path, "list one class per line, or remove the file") if path.exists() else None


def _table(root: Path) -> dict[str, list[_Clip]]:
    path = root / _TABLE
    remedy = f"write a table with the header {','.join(_COLUMNS)} and a line for each video"
    header, rows = read_table(path, remedy)
    found: dict[str, list[_Clip]] = {split: [] for split in SPLITS}
    splits: dict[str, str] = {}
    missing = [name for name in _COLUMNS if header.count(name) != 1]
    if missing:
        raise LavishError(f"{path}, line 1: the header needs exactly one column '{missing[0]}': {remedy}")
    for number, row in rows:
        where = f"{path}, line {number}"
        if len(row) != len(header):
            raise LavishError(f"{where}: {len(row)} fields instead of {len(header)}: quote fields that contain commas")
        fields = dict(zip(header, row, strict=True))
        name, label, split = (fields[column] for column in _COLUMNS)
        if not label:
            raise LavishError(f"{where}: no label: {remedy}")
        if split not in SPLITS:
            raise LavishError(f"{where}: unknown split '{split}'{did_you_mean(split, SPLITS)}")
        if splits.setdefault(name, split) != split:
            raise LavishError(
                f"{where}: '{name}' is in the splits '{splits[name]}' and '{split}': list it in one split only"
            )
        found[split].append(_Clip(where, name, _within(root, name, where), label))
    return found


def _lists(root: Path, split: str) -> list[Path]:
    return sorted(root.glob(f"{split}list0[1-9].txt"))


def _list(root: Path, split: str) -> list[_Clip]:
    lists = _lists(root, split)
    if not lists:
        if split == "val":
            raise LavishError(
                f"{root}: no vallist01.txt, and checkpoints are never selected on test clips: move some lines of the "
                "training list into it, by whole groups (..._g08_c01 is in group 8), because the clips of a group come "
                "from one video"
            )
        raise LavishError(f"{root}: no {split}list01.txt: copy the lists of one fold into the root folder")
    if len(lists) > 1:
        raise LavishError(f"{root}: both {lists[0].name} and {lists[1].name}: keep the lists of one fold only")
    media = next((root / name for name in _VIDEO_FOLDERS if (root / name).is_dir()), None)
    if media is None:
        raise LavishError(f"{root}: no folder {' or '.join(_VIDEO_FOLDERS)}: put the videos into videos/<class>/")
    found = []
    for number, line in enumerate(read_lines(lists[0], "copy the lists of one fold into the root folder"), start=1):
        if not line.strip():
            continue
        where = f"{lists[0]}, line {number}"
        # Training lists add the class index, which is redundant.
        first, _, last = line.strip().rpartition(" ")
        name = first.strip() if first and last.isdecimal() else line.strip()
        if name.count("/") != 1 or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise LavishError(f"{where}: '{name}' is not a class and a video: write '<class>/<video>'")
        found.append(_Clip(where, name, _within(media, name, where), name.split("/")[0]))
    return found


def _folders(root: Path, split: str) -> list[_Clip]:
    folder = root / split
    if not folder.is_dir():
        return []
    return [
        _Clip(str(path), f"{path.parent.name}/{path.name}", path, path.parent.name)
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in VIDEOS and not any(part.startswith(".") for part in path.parts[-2:])
    ]


def _within(root: Path, name: str, where: str) -> Path:
    """Return the path of a name below the root; LavishError if it is empty or leads out of the root."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(character in name for character in "\\\0"):
        raise LavishError(f"{where}: path '{name}' is not inside the folder: give it relative to {root.name}/")
    return root.joinpath(*parts)
