"""The client of the fork server: starts it for a workflow, and hands commands over to it.

A table takes about a hundred jobs, and importing torch and timm takes each of them two seconds of processor time. The
workflow therefore starts one ``lavish fork-server``, which imports everything once. A command that is called afterwards
(``lavish train ...``) finds the server's socket in the environment variable ``LAVISH_FORK_SERVER``, sends its
arguments, environment, working directory and standard files, waits, and exits with the status of the process that was
forked for it. Each command still runs in a process of its own. Without a server, or with one whose interpreter, package
or environment differs, a command runs in its own process as usual.

The protocol of one connection::

    server  accepts and forks; the forked child does everything that follows
    child   -> its identity: interpreter, package, environment     the client runs the command itself if its own differs
    client  -> file descriptors 0 to 2; arguments, working directory and environment (one line of JSON)
    child   runs the command; kills itself if the client or the server disappears
    server  -> exit status of the child, or minus the signal that killed it

Only on Linux. Commands on a GPU are forked as well: the server never touches CUDA, which does not survive a fork. This
module is imported before every command, so it uses the standard library alone. The server is in
:mod:`lavish.runtime.fork_server`.
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

VARIABLE = "LAVISH_FORK_SERVER"

# The commands that benefit from what the server has imported.
FORKED_COMMANDS = ("cost", "encode", "evaluate", "examples", "pretrain", "train")

# Snakemake sets these to a job's threads, and libraries read them on import. The server has one thread, so a job with
# more (training.cpu_threads) has another environment and runs in its own process.
THREADS = ("OMP_NUM", "GOTO_NUM", "OPENBLAS_NUM", "MKL_NUM", "VECLIB_MAXIMUM", "NUMEXPR_NUM")

# Variables that a shell or Snakemake sets for a single job, or removes, and that no library reads on import.
PER_JOB_VARIABLES = {VARIABLE, "TMPDIR", "TMP", "TEMPDIR", "TEMP", "PWD", "OLDPWD", "SHLVL", "_", "PS1", "PS2"}


def start() -> subprocess.Popen[str] | None:
    """Start the fork server and put its socket into the environment of this process and its children.

    Returns:
        The server process, which ends when its ``stdin`` is closed and therefore with its caller. None where there is
        no fork server: not on Linux, or the command `lavish` is not on the path.
    """
    import secrets
    import shutil
    import subprocess
    import tempfile

    command = shutil.which("lavish")
    if sys.platform != "linux" or command is None:
        return None
    path = Path(tempfile.gettempdir(), f"lavish-{secrets.token_hex(8)}", "socket")
    process = subprocess.Popen(
        [command, "fork-server", "--socket", path],
        env={**os.environ, **{f"{which}_THREADS": "1" for which in THREADS}},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # an interrupt from the keyboard or a killed group must not prevent its clean-up
    )
    assert process.stdout is not None
    if process.stdout.readline():
        os.environ[VARIABLE] = str(path)
    return process


def hand_over(argv: list[str]) -> int | None:
    """Run a command on the fork server that the environment names.

    A command is run once more, by this process, if the server ends before it reports a status.

    Args:
        argv: of the process, including the name of the command.

    Returns:
        The exit status, or None if this process has to run the command.
    """
    path = os.environ.get(VARIABLE)
    if not path or sys.platform != "linux" or argv[1:2] == [] or argv[1] not in FORKED_COMMANDS:
        return None
    if any('"cpu_dispatch":"native"' in argument for argument in argv):
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(60)  # longer than the imports take
            connection.connect(path)
            answers = connection.makefile("rb")
            if Path(path).stat().st_uid != os.getuid() or not _matches(argv[1], answers.readline()):
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
            print(f"lavish {argv[1]}: interrupted; call it again to resume", file=sys.stderr)
            return 130
    if not status:
        # The forked child holds this connection too: its end is only seen after both the server and the child are gone.
        print(f"lavish {argv[1]}: failed because the fork server ended; running it again without it", file=sys.stderr)
        return None
    code = int(status)
    if code < 0:
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        print(f"lavish {argv[1]}: killed by {signal.Signals(-code).name}{hint}", file=sys.stderr)
        return 128 - code
    return code


def identity() -> dict[str, str]:
    """Return what has to be equal for a command to do the same in either process."""
    package = Path(__file__).parents[1]
    edited = max(file.stat().st_mtime_ns for file in package.rglob("*.py"))
    environment = {f"${name}": value for name, value in os.environ.items() if name not in PER_JOB_VARIABLES}
    return environment | {
        "interpreter": f"{sys.executable} {sys.version}",
        "package": f"{package} {edited}",
    }


def _matches(command: str, line: bytes) -> bool:
    """Return whether the server's identity is that of this process; print the difference, which costs two seconds."""
    theirs, ours = json.loads(line or b"{}"), identity()
    if theirs and theirs != ours:
        different = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        print(f"lavish {command}: not run by the fork server, which differs in {', '.join(different)}", file=sys.stderr)
    return theirs == ours
