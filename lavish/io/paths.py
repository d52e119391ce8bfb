"""What a path from a list leads to. Standard library only, for the workflow."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Literal

# A name that cannot exist, because it is too long or a part of it is a file, is not there, either.
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of what a path leads to, or None if nothing is there; OSError if that cannot be told."""
    try:
        return path.stat()
    except ValueError:  # a null character
        return None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def kind_of(path: Path) -> Literal["file", "folder", "other", "missing", "unreadable"]:
    """Return what a path leads to; "other" is a named pipe, a socket or a device, which must never be opened."""
    try:
        status = status_of(path)
    except OSError:
        return "unreadable"
    if status is None:
        return "missing"
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "folder" if stat.S_ISDIR(status.st_mode) else "other"
