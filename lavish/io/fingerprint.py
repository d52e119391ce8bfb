"""The identity of a folder: one checksum over names and contents. Standard library only, for the workflow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lavish.errors import LavishError


def fingerprint(root: Path) -> str:
    """Return the sha256 over the relative paths and the contents of all files below `root`.

    Neither the folder's place, nor times, permissions or the order in which a file system lists names matter. Links
    are followed; hidden files and folders do not count, because no reader opens them and file managers add their own.

    Raises:
        LavishError: `root` is no folder, holds no file, or a file in it cannot be read.
    """
    if not root.is_dir():
        raise LavishError(f"{root}: there is no such folder: correct its path in the configuration")
    whole = hashlib.sha256()
    files = 0
    try:
        # By bytes: the same order whatever the locale.
        for name, path in sorted((os.fsencode(path.relative_to(root).as_posix()), path) for path in _files(root)):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            # Fixed-length parts: no other set of names and contents gives the same bytes.
            whole.update(hashlib.sha256(name).digest() + content)
            files += 1
    except OSError as error:
        raise LavishError(f"{error.filename or root}: {error.strerror or error}: make it readable") from None
    if not files:
        raise LavishError(f"{root}: the folder is empty: correct its path in the configuration")
    return whole.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, onerror=_fail, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _fail(error: OSError) -> None:
    raise error
