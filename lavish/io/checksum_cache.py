"""A cache of checksums, so that files are not read again each time the workflow is parsed.

Reading a data set of gigabytes takes minutes. Like git's index, the cache trusts sizes and modification times: a
checksum holds as long as neither has changed for any file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lavish.config.hashing import digest
from lavish.errors import LavishError
from lavish.io.atomic import write_json
from lavish.io.checksums import sha256_of
from lavish.io.fingerprint import fingerprint


class Checksums:
    """Checksums of files and folders, cached in the file `path`, which may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known = self._read()

    def of_file(self, path: Path) -> str:
        """Return the sha256 of a file."""
        return self._checksum(path, [path], sha256_of)

    def of_folder(self, root: Path) -> str:
        """Return the sha256 over the names and contents of all files of a folder."""
        files = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
        return self._checksum(root, files, fingerprint)

    def _checksum(self, path: Path, files: list[Path], compute: Callable[[Path], str]) -> str:
        try:
            states = [(str(file), stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
        except OSError as error:
            raise LavishError(f"{error.filename}: {error.strerror}: restore it or take it out of {path}") from None
        key, state = str(path.resolve()), digest(sorted(states))
        if self.known.get(key, [""])[0] != state:
            self._remember(key, [state, compute(path)])
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
