"""Checksums of material on disk that are not computed anew each time the workflow is parsed.

A data set of gigabytes takes minutes to read. Like git's index and make, this trusts the sizes and times of change of
files: while none of them differs from when a checksum was computed, it still holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from lavish.config.hashing import digest
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.io.fingerprint import fingerprint


class Checksums:
    """Checksums of files and folders, remembered in a file (`memory`) that may be deleted at any time."""

    def __init__(self, memory: Path) -> None:
        self.memory = memory
        try:
            self.known: dict[str, list[str]] = json.loads(memory.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self.known = {}

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
            self.known[key] = [state, compute(path)]
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            partial = self.memory.with_name(f"{self.memory.name}.{os.getpid()}")
            partial.write_text(json.dumps(self.known, indent=1), encoding="utf-8")
            os.replace(partial, self.memory)
        return self.known[key][1]
