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

For CPUs: a CUDA context does not survive a fork. Linux only. Here is what the workflow and the command need; it is read
before every step, and so uses the standard library alone. The process itself is in :mod:`lavish.runtime.fork_server`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess

VARIABLE = "LAVISH_STANDBY"

# Steps that use what the standby has imported.
STEPS = ("cost", "encode-audio", "evaluate", "examples", "pretrain", "train")

# Set by Snakemake to a job's threads, and read by libraries while they are imported. More than one could start threads
# here, so a step that is given more (training.cpu_threads) does not find its environment, and runs by itself.
THREADS = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")

# What a shell or Snakemake sets for a single job, and nothing reads while it is imported.
OF_ONE_JOB = {VARIABLE, "TMPDIR", "TMP", "TEMPDIR", "TEMP", "PWD", "OLDPWD", "SHLVL", "_"}


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
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(60)  # longer than imports take anywhere
            connection.connect(path)
            answers = connection.makefile("rb")
            if Path(path).stat().st_uid != os.getuid() or not _alike(argv[1], answers.readline()):
                return None
            request = {"argv": argv, "cwd": str(Path.cwd()), "environ": dict(os.environ)}
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


def identity() -> dict[str, str]:
    """Return all that must be alike for a step to be the same in either process."""
    package = Path(__file__).parent
    edited = max(file.stat().st_mtime_ns for file in package.rglob("*.py"))
    environment = {f"${name}": value for name, value in os.environ.items() if name not in OF_ONE_JOB}
    return environment | {
        "interpreter": f"{sys.executable} {sys.version}",
        "package": f"{package} {edited}",
    }


def _alike(step: str, line: bytes) -> bool:
    """Return whether a standby's identity is this process's own; where it is not, say why: it costs two seconds."""
    theirs, ours = json.loads(line or b"{}"), identity()
    if theirs and theirs != ours:
        other = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        print(f"lavish {step}: not run by the standby, which has other {', '.join(other)}", file=sys.stderr)
    return theirs == ours
