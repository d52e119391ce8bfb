"""Commands that print or check something: `lavish show`, `status`, `compare`, `submit-check`, `methods` and others."""

from __future__ import annotations

import argparse
from pathlib import Path

from lavish.cli.arguments import Subparsers, add_command, add_source_options, read_values
from lavish.config.options import add_source
from lavish.errors import LavishError


def add_to(commands: Subparsers) -> None:
    """Add the commands to the parser of `lavish`."""
    show = add_command(commands, "show", _show, "print the configuration and the results of a run")
    show.add_argument("run", type=Path, metavar="RUN", help="results/runs/<run>, or one of its seed<k>")
    show.add_argument("--full", action="store_true", help="print the whole resolved configuration")

    status = add_command(commands, "status", _status, "print what of a workflow is done, runs, and is to come")
    status.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), metavar="RESULTS", help="(default: %(default)s)"
    )

    summary = "print how many seeds or test clips a table needs to find a difference"
    power = add_command(commands, "power", _power, summary)
    power.add_argument("table", metavar="TABLE", help="name of a table, or its JSON text or file as for `lavish table`")
    help_text = "true difference to the baseline, in the unit that the table prints (percentage points)"
    power.add_argument("--difference", type=float, required=True, help=help_text)
    power.add_argument(
        "--measure", metavar="NAME", help="of this measure (default: those with a column of differences)"
    )
    power.add_argument("--task", metavar="NAME", help="on this task of the table (default: all)")

    summary = "compare the tables of two results; status 1 if any value differs by more than its interval"
    compare = add_command(commands, "compare", _compare, summary)
    for name in ("FIRST", "SECOND"):
        compare.add_argument(name.lower(), type=Path, metavar=name, help="CSV file of a table, or a folder of results")
    compare.add_argument("--strict", action="store_true", help="status 1 unless all values are identical")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write all values with their verdicts")

    summary = "copy finished runs of other machines into a folder of results; refuses two results of one run"
    merge = add_command(commands, "merge", _merge, summary)
    merge.add_argument("sources", type=Path, nargs="+", metavar="RESULTS", help="folders of results, which have runs/")
    merge.add_argument("--into", type=Path, default=Path("results"), metavar="RESULTS", help="(default: %(default)s)")

    summary = "check folders of configuration and records that are to be published; status 1 if anything is wrong"
    submit = add_command(commands, "submit-check", _submit_check, summary)
    submit.add_argument(
        "folders", type=Path, nargs="*", metavar="DIR", help="folder of a submission (docs/submitting.md)"
    )
    help_text = "published earlier: do not compare names and code with this version"
    submit.add_argument("--published", action="store_true", help=help_text)
    submit.add_argument("--seal", action="store_true", help="write SHA256SUMS first, for a new submission")

    methods = add_command(
        commands, "methods", _methods, "list the methods with their parameters and costs (a minute for all)"
    )
    methods.add_argument("method", nargs="*", metavar="METHOD", help="only these (default: all)")
    methods.add_argument("--backbone", metavar="NAME", help="a timm name, at the image size of its pretraining")
    methods.add_argument("--task", default="event_localization", help="key of the configuration (default: %(default)s)")
    add_source_options(methods, "methods", "tasks")
    summary = "check the contract of a method on small backbones; status 1 if a check fails"
    check = add_command(commands, "check-method", _check_method, summary)
    check.add_argument("method", metavar="METHOD", help="a file with a method, or the name of a method")
    check.add_argument("--options", metavar="JSON", help="options of the method (default: its own defaults)")
    add_source_options(check, "methods")
    for parser in (show, power, methods):
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


def _status(options: argparse.Namespace) -> None:
    from lavish.cli.status import status

    print(status(options.results))


def _power(options: argparse.Namespace) -> None:
    from lavish.planning.experiments import load
    from lavish.reporting.resolution import needed_text

    if options.table.lstrip().startswith("{") or options.table.endswith(".json"):
        spec = read_values(options.table, "TABLE")
        if not isinstance(spec, dict):
            raise LavishError(f"{options.table}: not the JSON object of a table: give a file of `lavish table --table`")
    else:
        # A file of the table means the table: config/tables/NAME.yaml, results/table_NAME.md.
        name = Path(options.table).stem.removeprefix("table_")
        spec = load([Path("config/config.yaml"), *options.configfile]).table(name).spec
    print(needed_text(spec, options.difference, options.measure, options.task))


def _compare(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from lavish.io.atomic import write_json
    from lavish.reporting.agreement import compare, report, worst

    cells = compare(options.first, options.second)
    print(report(cells))
    if options.json is not None:
        write_json(options.json, [asdict(cell) for cell in cells])
    return worst(cells) not in (("identical",) if options.strict else ("identical", "within"))


def _merge(options: argparse.Namespace) -> None:
    from lavish.reporting.merging import merge

    counts = merge(options.sources, options.into)
    print("\n".join(f"{count:6} {what}" for what, count in sorted(counts.items())))


def _submit_check(options: argparse.Namespace) -> int:
    from lavish.reporting.submissions import check, seal

    failed = 0
    for folder in options.folders:
        if options.seal:
            seal(folder)
        found = check(folder, published=options.published)
        failed += bool(found)
        print("\n".join(found) or f"{folder}: can be published", flush=True)
    if not options.folders:
        print("no submissions")
    return int(failed > 0)


def _check_method(options: argparse.Namespace) -> int:
    import torch

    from lavish.checks.method import BACKBONES, PAIRS, SMALL_OPTIONS, check_method

    torch.set_num_threads(1)  # the tensors are too small for more
    is_file = options.method.endswith(".py")
    name = add_source("methods", Path(options.method)) if is_file else options.method
    values = read_values(options.options, "--options") if options.options else SMALL_OPTIONS.get(name, {})
    failed, width = False, 2 + max(map(len, (*BACKBONES, *PAIRS)))
    for outcome in check_method(name, values):
        failed = failed or outcome.failure is not None
        passed = f"refused: {outcome.refusal}" if outcome.refusal else "passed"
        result = passed if outcome.failure is None else f"FAILED: {outcome.failure}"
        print(f"{outcome.backbone:<{width}}{outcome.check:<17}{result}", flush=True)
    return int(failed)


def _methods(options: argparse.Namespace) -> None:
    from lavish.cli.methods import list_methods
    from lavish.planning.experiments import task_defaults

    start = task_defaults([Path("config/config.yaml"), *options.configfile], options.task)
    print(list_methods(start, options.method, options.backbone))
