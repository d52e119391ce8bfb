"""A process that stands by with everything imported, and forks itself for each step.

A table is made of a hundred steps, and importing torch and timm takes each of them two seconds of processor time. The
workflow starts one `lavish standby`, which imports once. A step that is called afterwards (`lavish train ...`) finds
its socket in the environment variable ``LAVISH_STANDBY``, hands arguments, environment, folder and open files over,
waits, and ends with the status of the process that was forked for it. A step remains a process of its own: nothing that
it does reaches another. Where there is no standby, or one that is not exactly alike, a step runs as it always does.

One connection goes like this::

    standby  listens, imports, accepts, forks; all that follows is done by the new process
    child    -> its identity: interpreter, package, environment      client goes on alone if it differs from its own
    client   -> its files 0 to 2; arguments, folder and environment  (JSON, one line)
    child    runs the command; kills itself when the client or the standby is gone
    standby  -> exit status of the child, or minus the signal that killed it

For CPUs: a CUDA context does not survive a fork. Linux only. This module is read before every step, and so uses the
standard library alone.
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
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import subprocess

VARIABLE = "LAVISH_STANDBY"

# Steps that use what the standby has imported.
STEPS = ("cost", "encode-audio", "evaluate", "examples", "pretrain", "train")

# Imported in this order. Neither pyarrow nor pandas is: they start threads, which no fork carries over.
_MODULES = (
    "lavish.steps", "torch", "timm", "fvcore.nn", "lavish.training", "lavish.evaluation", "lavish.examples",
    "lavish.cost", "lavish.weights", "lavish.provenance", "lavish.audio_encoders.features",
    "lavish.audio_encoders.pretraining", "lavish.backbones.pretraining",
)  # fmt: skip

# Set by Snakemake to a job's threads, and read by libraries while they are imported. More than one could start threads
# here, so a step that is given more (training.cpu_threads) does not find its environment, and runs by itself.
THREADS = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")

# What a shell or Snakemake sets for a single job, and nothing reads while it is imported.
_OF_ONE_JOB = {VARIABLE, "TMPDIR", "TMP", "TEMPDIR", "TEMP", "PWD", "OLDPWD", "SHLVL", "_"}


def start() -> subprocess.Popen[str] | None:
    """Start `lavish standby` and name its socket in this process's environment, for the steps it starts.

    Returns:
        The process. It ends when its ``stdin`` is closed, and so with the caller, whatever ends that. None where there
        is no standby: not on Linux, or the command `lavish` is not on the path.
    """
    import secrets
    import shutil
    import subprocess
    import tempfile

    command = shutil.which("lavish")
    if sys.platform != "linux" or command is None:
        return None
    path = Path(tempfile.gettempdir(), f"lavish-{secrets.token_hex(8)}", "standby")
    process = subprocess.Popen(
        [command, "standby", "--socket", path],
        env={**os.environ, **{f"{which}_THREADS": "1" for which in THREADS}},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # neither an interrupt from the keyboard nor a killed group keeps it from tidying up
    )
    assert process.stdout is not None
    if process.stdout.readline():
        os.environ[VARIABLE] = str(path)
    return process


# --- the step that is called ---


def hand_over(argv: list[str]) -> int | None:
    """Have a step run by the standby that the environment names, and return its exit status; None: run it here.

    Args:
        argv: of the process, the name of the command included.
    """
    path = os.environ.get(VARIABLE)
    if not path or sys.platform != "linux" or argv[1:2] == [] or argv[1] not in STEPS:
        return None
    if "cuda" in argv or "--device=cuda" in argv:
        return None
    request = {"argv": argv, "cwd": str(Path.cwd()), "environ": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(60)  # longer than imports take anywhere
            connection.connect(path)
            answers = connection.makefile("rb")
            if Path(path).stat().st_uid != os.getuid() or not _alike(argv[1], answers.readline()):
                return None
            socket.send_fds(connection, [b"\n"], [0, 1, 2])
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.settimeout(None)
        except OSError:
            return None
        try:
            status = answers.readline()
        except KeyboardInterrupt:
            print(f"lavish {argv[1]}: interrupted; call it again to go on", file=sys.stderr)
            return 130
    if not status:
        print(f"lavish {argv[1]}: the standby process that ran it has ended; call it again to go on", file=sys.stderr)
        return 1
    code = int(status)
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        print(f"lavish {argv[1]}: killed by {signal.Signals(-code).name}{hint}", file=sys.stderr)
        return 128 - code
    return code


def _identity() -> dict[str, str]:
    """Return all that must be alike for a step to be the same in either process."""
    package = Path(__file__).parent
    edited = max(file.stat().st_mtime_ns for file in package.rglob("*.py"))
    environment = {f"${name}": value for name, value in os.environ.items() if name not in _OF_ONE_JOB}
    return environment | {
        "interpreter": f"{sys.executable} {sys.version}",
        "package": f"{package} {edited}",
    }


def _alike(step: str, line: bytes) -> bool:
    """Return whether a standby's identity is this process's own; where it is not, say why: it costs two seconds."""
    theirs, ours = json.loads(line or b"{}"), _identity()
    if theirs and theirs != ours:
        other = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        print(f"lavish {step}: not run by the standby, which has other {', '.join(other)}", file=sys.stderr)
    return theirs == ours


# --- the process that stands by ---


def serve(path: Path) -> None:
    """Answer steps at the socket `path` until standard input ends; its folder is made, and removed at the end.

    Prints a line as soon as steps can connect: those that do wait until everything is imported.

    Raises:
        LavishError: the folder or the socket cannot be made.
    """
    from lavish.errors import LavishError

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
            identity = json.dumps(_identity()).encode() + b"\n"
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            print("ready", flush=True)
            _import()
            _answer(listener, identity)
    finally:
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def _import() -> None:
    import gc
    import importlib

    from lavish.startup import without_compiler

    without_compiler()
    for module in _MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of what is imported


def _answer(listener: socket.socket, identity: bytes) -> None:
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
            pid = os.fork()
            if pid == 0:
                for inherited in (listener, woken, waker, *children.values()):
                    inherited.close()
                os.close(alive[1])
                _end(_run, connection, alive[0], identity)
            children[pid] = connection


def _report(connection: socket.socket, code: int) -> None:
    with connection, contextlib.suppress(OSError):  # the client was killed, and this child with it
        connection.sendall(b"%d\n" % code)


# --- the process of one step ---


def _run(connection: socket.socket, standby: int, identity: bytes) -> int:
    """Become the process that the client would have been, and run its command."""
    import tempfile
    import threading

    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setsid()
    connection.sendall(identity)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    if not files:
        return 0  # the client is not alike, or gone
    with connection.makefile("rb") as lines:
        request = json.loads(lines.readline())
    threading.Thread(target=_end_with, args=(connection, standby), daemon=True).start()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]
    for name in _OF_ONE_JOB:  # all others are alike, but for what imports have set
        os.environ.pop(name, None)
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    tempfile.tempdir = None
    sys.argv = request["argv"]

    from lavish.cli import main

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
            status = stop.code
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
