"""Checksums of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lavish.errors import LavishError


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str | None, key: str, measured: str | None = None) -> str:
    """Return the file's sha256 (computed unless given); an error when one was expected and differs."""
    measured = measured or sha256_of(path)
    if expected and measured != expected.lower():
        raise LavishError(
            f"{path}: sha256 is {measured}, but {key} says {expected}; the file is not the one the configuration pins: "
            "fetch it again, or correct the key if the new file is meant"
        )
    return measured
