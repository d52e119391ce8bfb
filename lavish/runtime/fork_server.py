"""The process that stands by: imports once, then forks itself for each step (:mod:`lavish.runtime.fork_client`).

It has one thread and computes nothing, because a fork carries no other thread over.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lavish.errors import LavishError
from lavish.runtime.fork_client import OF_ONE_JOB, identity

# Imported in this order. Neither pyarrow nor pandas is: they start threads, which no fork carries over.
_MODULES = (
    "lavish.training.jobs", "torch", "timm", "fvcore.nn", "lavish.training.loop", "lavish.training.evaluation", "lavish.training.examples",
    "lavish.cost.counter", "lavish.models.weights", "lavish.provenance", "lavish.training.audio_features",
    "lavish.training.pretraining.audio_encoder", "lavish.training.pretraining.backbone",
)  # fmt: skip


def serve(path: Path) -> None:
    """Answer steps at the socket `path` until standard input ends; its folder is made, and removed at the end.

    Prints a line as soon as steps can connect: those that do wait until everything is imported.

    Raises:
        LavishError: the folder or the socket cannot be made.
    """
    try:
        path.parent.mkdir(mode=0o700)
    except OSError as error:
        raise LavishError(f"--socket {path}: {error.strerror}; name a file in a folder that is not there yet") from None
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
            _import()
            _answer(listener, line)
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _import() -> None:
    import gc
    import importlib

    from lavish.runtime.fast_start import without_compiler

    without_compiler()
    for module in _MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of what is imported


def _answer(listener: socket.socket, line: bytes) -> None:
    alive = os.pipe()  # held open by this process alone: children read its end
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
            except OSError:  # no memory, or too many processes: the step tries by itself
                connection.close()
                continue
            if pid == 0:
                for inherited in (listener, woken, waker, *children.values()):
                    inherited.close()
                os.close(alive[1])
                _end(_run, connection, alive[0], line)
            children[pid] = connection


def _report(connection: socket.socket, code: int) -> None:
    with connection, contextlib.suppress(OSError):  # the client was killed, and this child with it
        connection.sendall(b"%d\n" % code)


# --- the process of one step ---


def _run(connection: socket.socket, standby: int, line: bytes) -> int:
    """Become the process that the client would have been, and run its command."""
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
        return 0  # the client is not alike, or gone
    asked = json.loads(request)
    threading.Thread(target=_end_with, args=(connection, standby), daemon=True).start()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    for name in OF_ONE_JOB:  # all others are alike, but for what imports have set
        os.environ.pop(name, None)
    os.environ.update(asked["environ"])
    os.chdir(asked["cwd"])
    tempfile.tempdir = None
    sys.argv = asked["argv"]

    from lavish.cli.main import main

    return main()


def _end(function: Callable[..., int], *arguments: object) -> NoReturn:
    """Call a function and end with the status that it returns, as an interpreter would.

    But by ``os._exit``: taking what was imported down touches, and so copies, all of it, which takes a second.
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


def _end_with(connection: socket.socket, standby: int) -> None:
    """Kill this process and its workers once the client or the standby is gone, however it ended."""
    select.select([connection.fileno(), standby], [], [])  # neither sends anything more
    os.killpg(0, signal.SIGKILL)
