"""One process at a time for each output: jobs may outlive the workflow that started them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout, UnixFileLock


@contextmanager
def locked(out: Path) -> Iterator[bool]:
    """Lock the output `out`, a file or a folder, and yield whether another process held the lock before.

    The lock is a hidden file beside `out`, in a folder that is made if necessary. The kernel releases it when the
    process ends, even if it is killed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    lock = UnixFileLock(path)
    try:
        lock.acquire(blocking=False)
        had_to_wait = False
    except Timeout:
        print(f"another process is writing {out}: waiting for it to end", file=sys.stderr)
        lock.acquire()
        had_to_wait = True
    try:
        yield had_to_wait
    finally:
        # While it is held: waiting processes notice that the file is gone and create a new one.
        path.unlink(missing_ok=True)
        lock.release()
