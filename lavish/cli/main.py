"""The `lavish` command: jobs of the workflow, and commands for users."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from pathlib import Path

from lavish.cli import data_and_weights, inspection, jobs
from lavish.cli.arguments import Subparsers, add_command, use_sources
from lavish.errors import LavishError
from lavish.runtime.fast_start import without_compiler

# Each module adds its commands to the parser.
COMMANDS = (jobs, data_and_weights, inspection)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; a :class:`LavishError` becomes one message on stderr and status 1."""
    options = _parser().parse_args(arguments)
    if getattr(options, "device", "cpu") == "cpu":
        without_compiler()
    name = " ".join(filter(None, (options.command, getattr(options, "action", None))))
    try:
        use_sources(options)
        return options.function(options) or 0
    except LavishError as error:
        print(f"lavish {name}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        print(f"lavish {name}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lavish {name}: interrupted; call it again to resume", file=sys.stderr)
        return 130


def storage_problem(error: BaseException) -> str | None:
    """Return the message for an error of the disk or its permissions; None for any other error.

    Libraries that write files by themselves raise errors of their own, with the system's number in the text.
    """
    found = re.search(r"os error (\d+)|\[errno (\d+)\]", str(error), re.IGNORECASE)
    number = int(found[1] or found[2]) if found else 0
    remedy = _STORAGE.get(number)
    if remedy is None:
        return None
    where = getattr(error, "filename", None)
    return f"{f'{where}: ' if where else ''}{os.strerror(number).lower()}: {remedy}; what was finished before is kept"


_STORAGE = {
    errno.ENOSPC: "free some room and call it again",
    errno.EDQUOT: "free some room and call it again",
    errno.EROFS: "make it writable, or give another path",
    errno.EACCES: "make it accessible, or give another path",
    errno.EPERM: "make it accessible, or give another path",
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
