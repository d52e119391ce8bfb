"""A cache of checksums, so that files are not read again each time the workflow is parsed.

Reading a data set of gigabytes takes minutes. Like git's index, the cache trusts sizes and modification times: a
checksum holds as long as neither has changed for any file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock

from lavish.config.hashing import digest
from lavish.errors import LavishError
from lavish.io.atomic import write_json
from lavish.io.checksums import sha256_of
from lavish.io.fingerprint import fingerprint
from lavish.io.paths import status_of


class Checksums:
    """Checksums of files and folders, cached in the file `path`, which may be deleted at any time.

    Args:
        path: the file of the cache.
        trusted: return what the cache holds without looking at the files. For the jobs of a workflow on other machines:
            the workflow has just looked, and each of hundreds of jobs would ask a shared file system about every file.
    """

    def __init__(self, path: Path, *, trusted: bool = False) -> None:
        self.path, self.trusted = path, trusted
        self.known = self._read()

    def of_file(self, path: Path) -> str:
        """Return the sha256 of a file."""
        return self._checksum(str(path.resolve()), path, lambda: [path], lambda _: sha256_of(path))

    def of_files(self, root: Path, what: str, files: Callable[[], Iterable[Path]]) -> str:
        """Return the :func:`lavish.io.fingerprint.fingerprint` of the files below a folder that `files` lists.

        Args:
            root: the folder.
            what: which of its files are listed; one folder may hold several data sets.
            files: called unless the cache is trusted and knows the folder.
        """
        return self._checksum(f"{root.resolve()} ({what})", root, files, lambda listed: fingerprint(root, listed))

    def _checksum(
        self, key: str, path: Path, files: Callable[[], Iterable[Path]], compute: Callable[[list[Path]], str]
    ) -> str:
        if self.trusted and key in self.known:
            return self.known[key][1]
        listed = sorted(set(files()))
        try:
            state = digest([_state(file) for file in listed])
        except OSError as error:
            raise LavishError(f"{error.filename}: {error.strerror}: restore it or take it out of {path}") from None
        if self.known.get(key, [""])[0] != state:
            self._remember(key, [state, compute(listed)])
        return self.known[key][1]

    def _read(self) -> dict[str, list[str]]:
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def _remember(self, key: str, entry: list[str]) -> None:
        """Add an entry to the file and keep those that other processes have added meanwhile."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            self.known = self.known | self._read() | {key: entry}
            write_json(self.path, self.known)


def _state(file: Path) -> list[str | int | None]:
    found = status_of(file)
    if found is None:
        return [str(file), None, None]
    return [str(file), found.st_size, found.st_mtime_ns]
