"""Atomic writing: a file is there as a whole or not at all, whatever ends the process or the machine that writes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path` that takes its place when the block ends without an error.

    The folder of `path` is made if necessary. A temporary file left by a killed process is overwritten by the next one
    that writes the same file; processes that may write one file at the same time have to lock it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file is on the disk: a name may get there before the content, and a machine may stop in between."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically, with line ends as they are in `content`."""
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="")


def write_json(path: Path, values: Any) -> None:
    """Write JSON text, indented by two spaces, atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")
