"""A process that reads files which may crash it, keep it busy forever or fill the memory."""

from __future__ import annotations

import functools
import multiprocessing
import re
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

SECONDS = 30
"""Limit of one example, on a machine with other work."""
MEMORY = 768 << 20
"""Limit of the memory that the examples of a process take beyond what it has at the beginning, bytes."""


_LAVISH = re.compile(r"lavish/(\S+\.py\", line \d+)")


@functools.cache
def _problem(kind: str, place: str = "") -> type[AssertionError]:
    """Return an exception of its own for each kind and place, so that hypothesis tells them apart."""
    return type(f"{kind} {place}", (AssertionError,), {})


class Child:
    """Runs `read` on a folder in another process, with limits of time and memory; a new one for each that dies."""

    def __init__(self, read: Callable[[Path, str], None], folder: Path) -> None:
        self._read, self._folder = read, folder
        self._start()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def run(self, name: str, content: bytes) -> None:
        """Read the folder with another content of one of its files; AssertionError unless all went well."""
        self._connection.send((name, content))
        try:
            answer = self._connection.recv() if self._connection.poll(SECONDS) else f"more than {SECONDS} seconds"
        except EOFError:
            self._process.join()
            answer = f"the process died with status {self._process.exitcode}"
        if answer:
            self._end()
            self._start()
            raise _problem(answer.strip().rpartition("\n")[2].partition(":")[0], *_LAVISH.findall(answer)[-1:])(answer)

    def _start(self) -> None:
        # A fork, because importing torch again takes longer than a hundred examples.
        context = multiprocessing.get_context("fork")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, self._connection, self._read, self._folder))
        self._process.start()
        other.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()


def _serve(connection: Connection, unused: Connection, read: Callable[[Path, str], None], folder: Path) -> None:
    unused.close()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            name, content = connection.recv()
        except EOFError:
            return
        path = folder / name
        valid = path.read_bytes()
        path.write_bytes(content)
        try:
            read(folder, name)
            answer = ""
        except BaseException:
            answer = traceback.format_exc()
        path.write_bytes(valid)
        connection.send(answer)
