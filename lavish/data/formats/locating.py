"""Finding listed files whose names on disk have another Unicode form or another case.

Files that pass through archives and other systems come back with decomposed accents or changed case. Such a file is
used if exactly one matches, and noted.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from lavish.data.formats.base import ClipSource
from lavish.io.paths import kind_of


class Locator:
    """Finds the files that a list names, and reads each folder once.

    Args:
        listed: the paths that the list names. A file that is listed itself is not taken for another one: the ids of
            videos often differ in case only.
    """

    def __init__(self, listed: Iterable[Path]) -> None:
        self._listed = set(listed)
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def find(self, path: Path) -> Path:
        """Return the path of a listed file or folder on disk; `path` itself if there is none, or more than one."""
        if kind_of(path) != "missing" or path.parent == path:
            return path
        folder = self.find(path.parent)
        if kind_of(folder / path.name) != "missing":
            return folder / path.name
        matches = [other for other in self._entries(folder).get(_key(path.name), []) if other not in self._listed]
        return matches[0] if len(matches) == 1 else path

    def source(
        self,
        clip: str,
        video: Path,
        audio: Path,
        segment_frames: tuple[Path | None, ...] = (),
        masks: tuple[Path | None, ...] = (),
    ) -> ClipSource:
        """Return a clip whose video and audio are found on disk, with a note if their names differ from the list."""
        found = {path: self.find(path) for path in (video, audio)}
        notes = tuple(
            f"found in another case or Unicode form: {other.parent.name}/{other.name}"
            for path, other in found.items()
            if other != path
        )
        return ClipSource(clip, found[video], found[audio], segment_frames, masks, notes)

    def _entries(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._folders:
            entries: dict[str, list[Path]] = {}
            try:
                for path in sorted(folder.iterdir()):
                    entries.setdefault(_key(path.name), []).append(path)
            except OSError:  # not a folder, or not readable: nothing can be found in it
                pass
            self._folders[folder] = entries
        return self._folders[folder]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
