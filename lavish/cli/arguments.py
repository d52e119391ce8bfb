"""Shared parts of the command line: adding a command, and reading configuration from JSON text or files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from lavish.config.options import add_source
from lavish.config.schema import AudioEncoderConfig, BackboneConfig, Config
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.io.json_texts import parse_json

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What commands are added to."""

T = TypeVar("T", bound=Config)

WEIGHT_KINDS: dict[str, type[BackboneConfig] | type[AudioEncoderConfig]] = {
    "backbone": BackboneConfig,
    "audio_encoder": AudioEncoderConfig,
}


def add_command(
    commands: Subparsers,
    name: str,
    function: Callable[[argparse.Namespace], int | None],
    summary: str,
    *,
    config: bool = False,
) -> argparse.ArgumentParser:
    """Add a command to a parser; `function` runs it, and `config` gives it the option `--config`."""
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    parser.set_defaults(function=function)
    if config:
        parser.add_argument("--config", required=True, help="JSON text, or the path of a JSON or YAML file")
    return parser


def alone(function: Callable[[argparse.Namespace], None], done: str | None = None) -> Callable[..., None]:
    """Return a command's function that waits while another process writes the same output (`--out`).

    If it had to wait and the output's file `done` is there (`.` is the output itself), it does nothing: outputs of long
    jobs are named by what they are made from, so the other process has done this very work.
    """

    def run(options: argparse.Namespace) -> None:
        from lavish.io.locks import locked

        out = getattr(options, "out", None) or options.run / options.split
        with locked(out) as had_to_wait:
            if not (had_to_wait and done is not None and (out / done).exists()):
                function(options)

    return run


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options `--device` and `--jobs-per-gpu` to a command."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs-per-gpu", type=int, default=1, help="jobs that may share a GPU of this machine")


def add_source_options(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """Add the options `--method-path` and `--task-path` to a command."""
    for kind in kinds:
        parser.add_argument(
            f"--{kind[:-1]}-path",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help=f"file with a {kind[:-1]} from outside the package, which is named like the file",
        )


def use_sources(options: argparse.Namespace) -> None:
    """Make the methods and tasks available that the command line names."""
    for kind in ("methods", "tasks"):
        for path in getattr(options, f"{kind[:-1]}_path", ()):
            add_source(kind, path)


def read_values(text: str, option: str) -> Any:
    """Return what `--config` or `--table` holds: JSON text, or the content of a JSON or YAML file."""
    if text.lstrip().startswith("{"):
        try:
            return parse_json(text, option)
        except ValueError as error:
            raise LavishError(f"{option}: not valid JSON: {error}") from None
    path = Path(text)
    if not path.is_file():
        raise LavishError(f"{option}: no file '{path}' (give JSON text that begins with '{{', or a path)")
    from lavish.io.yaml_files import read_yaml

    return read_yaml(path)  # JSON is YAML


def read_config(text: str, model: type[T]) -> T:
    """Return the configuration that `--config` holds; a LavishError names file and key."""
    where = "--config" if text.lstrip().startswith("{") else text
    return parse(model, read_values(text, "--config"), where)
