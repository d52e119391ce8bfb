"""The identity of a set of files: one checksum over names and contents. Standard library only, for the workflow."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from lavish.errors import LavishError
from lavish.io.paths import status_of


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Return the sha256 over the paths relative to `root` and the contents of `files`.

    Neither the folder's place, nor times, permissions or the order of `files` matter. Links are followed. A file that
    does not exist counts as missing, because a list may name media that were never obtained; a folder or a pipe in its
    place counts as missing too.

    Raises:
        LavishError: `root` is no folder, none of the files is in it, or one of them cannot be read.
    """
    if not root.is_dir():
        raise LavishError(f"{root}: there is no such folder: correct its path in the configuration")
    whole = hashlib.sha256()
    found = 0
    try:
        # By bytes: the same order whatever the locale.
        for name, path in sorted((os.fsencode(path.relative_to(root).as_posix()), path) for path in set(files)):
            content = b""
            if (status := status_of(path)) and stat.S_ISREG(status.st_mode):
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                found += 1
            whole.update(hashlib.sha256(name).digest() + hashlib.sha256(content).digest())
    except OSError as error:
        raise LavishError(f"{error.filename or root}: {error.strerror or error}: make it readable") from None
    if not found:
        raise LavishError(f"{root}: none of the files of the data set is there: correct its path in the configuration")
    return whole.hexdigest()
