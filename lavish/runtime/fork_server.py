"""The fork server: imports libraries once, then forks itself for each command (:mod:`lavish.runtime.fork_client`).

It has a single thread and computes nothing, because a forked process inherits no other threads. Nor does it touch CUDA,
not even to ask for GPUs: a forked process could not use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lavish.errors import LavishError
from lavish.runtime.fork_client import PER_JOB_VARIABLES, identity


def serve(path: Path, run: Callable[[], int], preload: Sequence[str]) -> None:
    """Run commands for clients of the socket `path` until standard input ends.

    Prints a line as soon as clients can connect; they wait until everything is imported.

    Args:
        path: of the socket, in a folder that does not exist yet; the folder is removed at the end.
        run: runs the command in ``sys.argv`` and returns its exit status.
        preload: modules to import beforehand, in this order. None of them may start a thread.

    Raises:
        LavishError: the folder or the socket cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700)
    except OSError as error:
        raise LavishError(f"--socket {path}: {error.strerror}; name a file in a folder that does not exist") from None
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            try:
                listener.bind(str(path))
            except OSError as error:  # longer than the 107 bytes that the system allows
                raise LavishError(f"--socket {path}: {error}") from None
            listener.listen(64)
            line = json.dumps(identity()).encode() + b"\n"
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            print("ready", flush=True)
            _import(preload)
            _accept(listener, line, run)
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _import(modules: Sequence[str]) -> None:
    import gc
    import importlib

    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of the imported modules


def _accept(listener: socket.socket, line: bytes, run: Callable[[], int]) -> None:
    alive = os.pipe()  # only the server holds the writing end open: children see when it is closed
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    children: dict[int, socket.socket] = {}
    while True:
        ready = select.select([listener, woken, sys.stdin], [], [])[0]
        if sys.stdin in ready and not os.read(sys.stdin.fileno(), 1024):
            return
        if woken in ready:
            woken.recv(1024)
            for pid in list(children):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    _report(children.pop(pid), os.waitstatus_to_exitcode(status))
        if listener in ready:
            connection = listener.accept()[0]
            try:
                pid = os.fork()
            except OSError:  # no memory, or too many processes: the client runs the command itself
                connection.close()
                continue
            if pid == 0:
                for inherited in (listener, woken, waker, *children.values()):
                    inherited.close()
                os.close(alive[1])
                _exit_with(_run, connection, alive[0], line, run)
            children[pid] = connection


def _report(connection: socket.socket, code: int) -> None:
    with connection, contextlib.suppress(OSError):  # the client was killed, and this child with it
        connection.sendall(b"%d\n" % code)


# --- the forked process of one command ---


def _run(connection: socket.socket, server: int, line: bytes, run: Callable[[], int]) -> int:
    """Take over the client's arguments, environment, working directory and standard files, and run its command."""
    import tempfile
    import threading

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    try:
        connection.sendall(line)
        files = socket.recv_fds(connection, 1, 3)[1]
        with connection.makefile("rb") as lines:
            request = lines.readline()
    except OSError:
        return 0
    if not request:
        return 0  # the client's identity differs, or it is gone
    asked = json.loads(request)
    threading.Thread(target=_kill_group_without, args=(connection, server), daemon=True).start()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    for name in PER_JOB_VARIABLES:  # all others are equal, apart from those that imports have set
        os.environ.pop(name, None)
    os.environ.update(asked["environ"])
    os.chdir(asked["cwd"])
    tempfile.tempdir = None
    sys.argv = asked["argv"]
    return run()


def _exit_with(function: Callable[..., int], *arguments: object) -> NoReturn:
    """Call a function and exit with the status that it returns, as an interpreter would.

    Uses ``os._exit``: tearing down the imported modules would touch, and so copy, all of their pages, which takes a
    second.
    """
    import atexit
    import threading

    status: object = 1
    try:
        try:
            status = function(*arguments)
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 1)


def _kill_group_without(connection: socket.socket, server: int) -> None:
    """Kill this process and its workers as soon as the client or the server is gone."""
    select.select([connection.fileno(), server], [], [])  # neither sends anything more
    os.killpg(0, signal.SIGKILL)
