"""The `lavish` command: every step of the workflow, to be called by a rule or by hand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lavish.cli import data_and_weights as material_commands
from lavish.cli.arguments import read_config, read_values
from lavish.config.schema import SPLITS, AudioEncoderConfig, CompositionConfig, DataConfig, RunConfig
from lavish.errors import LavishError
from lavish.planning.tables.schema import EXAMPLE_CLIPS
from lavish.runtime.fast_start import without_compiler

if TYPE_CHECKING:
    from lavish.training.jobs import RunInputs


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status; a :class:`LavishError` becomes one message on stderr and status 1."""
    options = _parser().parse_args(arguments)
    if getattr(options, "device", "cpu") == "cpu":
        without_compiler()
    name = " ".join(filter(None, (options.command, getattr(options, "action", None))))
    try:
        return options.function(options) or 0
    except LavishError as error:
        print(f"lavish {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lavish {name}: interrupted; call it again to go on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lavish", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int | None], summary: str, config: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.set_defaults(function=function)
        if config:
            sub.add_argument("--config", required=True, help="JSON text, or the path of a JSON or YAML file")
        return sub

    compose = command("compose", _compose, "compose clips in a data set's official layout")
    compose.add_argument("--out", type=Path, required=True, help="folder to write")
    compose.add_argument("--jobs", type=int, default=1, help="processes")

    prepare = command("prepare", _prepare, "decode one split into the store that training reads")
    prepare.add_argument("--root", type=Path, required=True, help="folder in the official layout")
    prepare.add_argument("--split", choices=SPLITS, required=True)
    prepare.add_argument("--out", type=Path, required=True, help="folder to write")
    prepare.add_argument("--jobs", type=int, default=1, help="processes")

    pretrain = command("pretrain", _pretrain, "train a small frozen backbone or audio encoder")
    pretrain.add_argument("--kind", choices=tuple(material_commands.KINDS), required=True)
    pretrain.add_argument("--out", type=Path, required=True, help="safetensors file to write")

    encode = command("encode-audio", _encode_audio, "compute a separate audio encoder's features of one split")
    encode.add_argument("--weights", type=Path, required=True)
    encode.add_argument("--data", type=Path, required=True, help="prepared split")
    encode.add_argument("--out", type=Path, required=True, help="npy file to write")

    train = command("train", _train, "train one run with one seed")
    evaluate = command("evaluate", _evaluate, "evaluate a trained run on a split")
    examples = command("examples", _examples, "write what a trained run predicts of some clips, to be looked at")
    for sub in (train, evaluate, examples):
        sub.add_argument("--seed", type=int, required=True)
        sub.add_argument("--data", type=Path, required=True, help="prepared store")
        sub.add_argument("--weights", type=Path, required=True, help="frozen backbone (safetensors)")
        sub.add_argument("--audio-features", type=Path, help="folder of the separate audio encoder's features")
        sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--out", type=Path, required=True, help="folder to write")
    for sub in (evaluate, examples):
        sub.add_argument("--split", choices=SPLITS, required=True)
        sub.add_argument("--run", type=Path, required=True, help="folder that train wrote")
    examples.add_argument(
        "--count",
        type=int,
        default=EXAMPLE_CLIPS,
        help=f"clips, evenly spread over the split (default: {EXAMPLE_CLIPS})",
    )
    examples.add_argument("--overlays", type=Path, help="folder for a PNG of each clip as well")

    cost = command("cost", _cost, "count parameters and multiply-adds of a run")
    cost.add_argument("--out", type=Path, required=True, help="json file to write")

    match = command("match", _match, "find the sizes at which methods train as many parameters as others", config=False)
    match.add_argument("--requests", required=True, help="JSON text or file: for each name `config` and `target`")
    match.add_argument("--out", type=Path, required=True, help="json file to write")

    table = command("table", _table, "write a table as markdown, CSV and LaTeX", config=False)
    table.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    table.add_argument("--out", type=Path, required=True, help="path to write, without suffix")

    figure = command("figure", _figure, "draw a figure of a table", config=False)
    figure.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    figure.add_argument("--figure", required=True, help="name of the figure in the table's file")
    figure.add_argument("--out", type=Path, required=True, help="svg, pdf or png file to write")

    show = command("show", _show, "print what a run was made from and what came out", config=False)
    show.add_argument("run", type=Path, metavar="RUN", help="results/runs/<run>, or one of its seed<k>")
    show.add_argument("--full", action="store_true", help="print the whole resolved configuration")
    show.add_argument(
        "--configfile", type=Path, action="append", default=[], help="laid over config/config.yaml, as for the workflow"
    )

    standby = command(
        "standby",
        _standby,
        "stand by with everything imported, to be forked for steps; the workflow calls it",
        config=False,
    )
    standby.add_argument(
        "--socket", type=Path, required=True, help="file to listen at, in a folder that is made for it"
    )

    methods = command("methods", _methods, "list every method with what it trains and costs", config=False)
    methods.add_argument("method", nargs="*", metavar="METHOD", help="these alone (default: all)")
    methods.add_argument(
        "--backbone", metavar="NAME", help="a timm name, e.g. vit_base_patch16_224; its own picture size"
    )
    methods.add_argument("--task", default="event_localization", help="key of the configuration (default: %(default)s)")
    methods.add_argument(
        "--configfile", type=Path, action="append", default=[], help="laid over config/config.yaml, as for the workflow"
    )

    material_commands.add_to(commands)
    return parser


def _compose(options: argparse.Namespace) -> None:
    from lavish.data.synthetic.composer import compose

    compose(read_config(options.config, CompositionConfig), options.out, options.jobs)


def _prepare(options: argparse.Namespace) -> None:
    from lavish.data.store.preparation import prepare

    prepare(read_config(options.config, DataConfig), options.root, options.split, options.out, options.jobs)


def _pretrain(options: argparse.Namespace) -> None:
    from lavish.training.jobs import pretrain

    pretrain(read_config(options.config, material_commands.KINDS[options.kind]), options.out)


def _encode_audio(options: argparse.Namespace) -> None:
    from lavish.models.audio_encoders.build import build
    from lavish.training.audio_features import encode_split

    config = read_config(options.config, AudioEncoderConfig)
    encode_split(build(config.kind, config.spec, options.weights), options.data, options.out)


def _train(options: argparse.Namespace) -> None:
    from lavish.training.jobs import train

    train(_run_inputs(options), options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from lavish.training.jobs import evaluate

    evaluate(_run_inputs(options), options.split, options.run)


def _examples(options: argparse.Namespace) -> None:
    from lavish.training.jobs import examples

    if options.count < 1:
        raise LavishError(f"--count {options.count}: give at least 1")
    examples(_run_inputs(options), options.split, options.run, options.count, options.overlays)


def _run_inputs(options: argparse.Namespace) -> RunInputs:
    from lavish.training.jobs import RunInputs

    config = read_config(options.config, RunConfig)
    return RunInputs(config, options.seed, options.data, options.weights, options.audio_features, options.device)


def _cost(options: argparse.Namespace) -> None:
    from lavish.training.jobs import cost

    cost(read_config(options.config, RunConfig), options.out)


def _match(options: argparse.Namespace) -> None:
    import json

    from lavish.cost.size_search import read_requests, search

    found = search(read_requests(read_values(options.requests, "--requests")))
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _methods(options: argparse.Namespace) -> None:
    from lavish.cli.methods import list_methods
    from lavish.planning.experiments import task_defaults

    start = task_defaults([Path("config/config.yaml"), *options.configfile], options.task)
    print(list_methods(start, options.method, options.backbone))


def _table(options: argparse.Namespace) -> None:
    from lavish.reporting.tables import write_table

    write_table(read_values(options.table, "--table"), options.out)


def _figure(options: argparse.Namespace) -> None:
    from lavish.reporting.figures import write_figure

    write_figure(read_values(options.table, "--table"), options.figure, options.out)


def _show(options: argparse.Namespace) -> None:
    from lavish.cli.show import show

    print(show(options.run, options.configfile, full=options.full))


def _standby(options: argparse.Namespace) -> None:
    from lavish.runtime.fork_server import serve

    serve(options.socket)
