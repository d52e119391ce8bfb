"""The `lavish` command: jobs of the workflow, and commands for users."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import re
import select
import shlex
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from lavish.cli import data_and_weights, inspection, jobs
from lavish.cli.arguments import Subparsers, add_command, use_sources
from lavish.errors import LavishError
from lavish.runtime.fast_start import with_compiler, without_compiler

# Each module adds its commands to the parser.
COMMANDS = (jobs, data_and_weights, inspection)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    A :class:`LavishError` becomes one message on stderr and status 1, and so does any other error, with its traceback
    in a file (on a terminal) or before the message (in the log of a job). The status is 130 after an interrupt and 141
    if nobody reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):
        # What the terminal cannot show must not stop a command. In a forked process, the server has done it.
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
    command = "lavish"
    try:
        try:
            options = _parser().parse_args(arguments)
            command = " ".join(filter(None, ("lavish", options.command, getattr(options, "action", None))))
            if getattr(options, "device", "cpu") == "cpu":
                without_compiler()
            else:
                with_compiler()
            use_sources(options)
            return options.function(options) or 0
        finally:
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()  # at the interpreter's exit, an error could not be handled any more
    except LavishError as error:
        message = str(error)
    except KeyboardInterrupt:
        print(f"{command}: interrupted; call it again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _discard_output()
            return 128 + signal.SIGPIPE
        message = storage_problem(error) or _unexpected(error)
    print(f"{command}: {message}", file=sys.stderr)
    return 1


def _discard_output() -> None:
    """Send what is left of standard output nowhere, so that the interpreter's exit does not fail at it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe that has lost its reader (`lavish ... | head`)."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _unexpected(error: Exception) -> str:
    """Return the message for an error that nothing has foreseen, and keep its traceback."""
    where = "the traceback above"
    if sys.stderr.isatty():
        with (
            contextlib.suppress(OSError),
            tempfile.NamedTemporaryFile(
                "w", prefix="lavish-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
            ) as file,
        ):
            file.write(f"{shlex.join(sys.argv)}\n\n{traceback.format_exc()}")
            where = file.name
    if where == "the traceback above":
        traceback.print_exc()
    summary = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {summary}; please report it with the command and {where}"


def storage_problem(error: BaseException) -> str | None:
    """Return the message for an error of the disk or its permissions; None for any other error.

    Libraries that write files by themselves raise errors of their own, with the system's number in the text.
    """
    found = re.search(r"os error (\d+)|\[errno (\d+)\]", str(error), re.IGNORECASE)
    number = int(found[1] or found[2]) if found else 0
    remedy = _STORAGE.get(number)
    if remedy is None:
        return None
    where = getattr(error, "filename2", None) or getattr(error, "filename", None)  # a copy's error names both
    return f"{f'{where}: ' if where else ''}{os.strerror(number).lower()}: {remedy}; what was finished before is kept"


_STORAGE = {
    errno.ENOSPC: "free some room and call it again",
    errno.EDQUOT: "free some room and call it again",
    errno.EROFS: "make it writable, or give another path",
    errno.EACCES: "make it accessible, or give another path",
    errno.EPERM: "make it accessible, or give another path",
    errno.EEXIST: "remove it, or give another path",
    errno.ENOTDIR: "give another path",
    errno.EISDIR: "give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EIO: "check the disk or the connection to it, and call it again",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lavish", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_to(commands)
    _add_fork_server(commands)
    return parser


def _add_fork_server(commands: Subparsers) -> None:
    summary = "import all libraries once and fork a process for each command; started by the workflow"
    parser = add_command(commands, "fork-server", _fork_server, summary)
    parser.add_argument("--socket", type=Path, required=True, help="socket to create, in a folder that is created too")


def _fork_server(options: argparse.Namespace) -> None:
    from lavish.runtime.fork_server import serve

    without_compiler()
    serve(options.socket, run=main, preload=jobs.PRELOAD)
