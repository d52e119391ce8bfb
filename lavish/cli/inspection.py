"""`lavish show` and `lavish methods`: what a run was made from, and what each method costs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lavish.cli.arguments import Subparsers, add_command


def add_to(commands: Subparsers) -> None:
    """Add the commands to the parser of `lavish`."""
    show = add_command(commands, "show", _show, "print the configuration and the results of a run")
    show.add_argument("run", type=Path, metavar="RUN", help="results/runs/<run>, or one of its seed<k>")
    show.add_argument("--full", action="store_true", help="print the whole resolved configuration")

    methods = add_command(commands, "methods", _methods, "list the methods with their parameters and costs")
    methods.add_argument("method", nargs="*", metavar="METHOD", help="only these (default: all)")
    methods.add_argument("--backbone", metavar="NAME", help="a timm name, at the image size of its pretraining")
    methods.add_argument("--task", default="event_localization", help="key of the configuration (default: %(default)s)")
    for parser in (show, methods):
        parser.add_argument(
            "--configfile",
            type=Path,
            action="append",
            default=[],
            help="laid over config/config.yaml, as for the workflow",
        )


def _show(options: argparse.Namespace) -> None:
    from lavish.cli.show import show

    print(show(options.run, options.configfile, full=options.full))


def _methods(options: argparse.Namespace) -> None:
    from lavish.cli.methods import list_methods
    from lavish.planning.experiments import task_defaults

    start = task_defaults([Path("config/config.yaml"), *options.configfile], options.task)
    print(list_methods(start, options.method, options.backbone))
