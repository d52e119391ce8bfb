"""The files that a data set on disk consists of: what its lists name, and the lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lavish.config.schema import SPLITS
from lavish.data.formats.base import ClipSource, recorded_texts
from lavish.data.formats.registry import reader
from lavish.io.paths import kind_of


def listed_files(format_name: str, root: Path) -> list[Path]:
    """Return the lists and the media of all splits of a data set in an official layout; media may be missing.

    Other files below `root` are not part of the data set: the archive that it came from, notes, another data set.

    Raises:
        LavishError: the layout is malformed.
    """
    layout = reader(format_name)
    with recorded_texts() as texts:
        layout.classes(root)
        layout.vocabulary(root)
        sources = [source for split in SPLITS for source in layout.clips(root, split)]
    return [*texts, *(path for source in sources for path in _media(source))]


def _media(source: ClipSource) -> Iterator[Path]:
    if source.segment_frames:
        yield from filter(None, source.segment_frames)
    elif kind_of(source.video) == "folder":
        yield from (path for path in source.video.iterdir() if not path.name.startswith("."))
    else:
        yield source.video
    yield source.audio
    yield from filter(None, source.masks)
