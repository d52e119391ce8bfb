"""The `lavish` command: every step of the workflow, to be called by a rule or by hand."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lavish.config import (
    SPLITS,
    AudioEncoderConfig,
    BackboneConfig,
    CompositionConfig,
    DataConfig,
    RunConfig,
    parse,
)
from lavish.errors import LavishError
from lavish.startup import without_compiler


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a :class:`LavishError` becomes one message on stderr and exit status 1."""
    options = _parser().parse_args(arguments)
    if getattr(options, "device", "cpu") == "cpu":
        without_compiler()
    try:
        options.function(options)
    except LavishError as error:
        print(f"lavish {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"lavish {options.command}: interrupted; call it again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lavish", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, function: Any, summary: str, config: bool = True) -> argparse.ArgumentParser:
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

    for name, function, summary in (
        ("pretrain", _pretrain, "train a small frozen backbone or audio encoder"),
        ("weights", _weights, "fetch weights from the hub or check a file of weights"),
    ):
        weights = command(name, function, summary)
        weights.add_argument("--kind", choices=("backbone", "audio_encoder"), required=True)
        weights.add_argument("--out", type=Path, required=True, help="safetensors file to write")

    encode = command("encode-audio", _encode_audio, "compute a separate audio encoder's features of one split")
    encode.add_argument("--weights", type=Path, required=True)
    encode.add_argument("--data", type=Path, required=True, help="prepared split")
    encode.add_argument("--out", type=Path, required=True, help="npy file to write")

    train = command("train", _train, "train one run with one seed")
    evaluate = command("evaluate", _evaluate, "evaluate a trained run on a split")
    for sub in (train, evaluate):
        sub.add_argument("--seed", type=int, required=True)
        sub.add_argument("--data", type=Path, required=True, help="prepared store")
        sub.add_argument("--weights", type=Path, required=True, help="frozen backbone (safetensors)")
        sub.add_argument("--audio-features", type=Path, help="folder of the separate audio encoder's features")
        sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    train.add_argument("--out", type=Path, required=True, help="folder to write")
    evaluate.add_argument("--split", choices=SPLITS, required=True)
    evaluate.add_argument("--run", type=Path, required=True, help="folder that train wrote")

    cost = command("cost", _cost, "count parameters and multiply-adds of a run")
    cost.add_argument("--out", type=Path, required=True, help="json file to write")

    table = command("table", _table, "write a table as markdown, CSV and LaTeX", config=False)
    table.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    table.add_argument("--out", type=Path, required=True, help="path to write, without suffix")

    figure = command("figure", _figure, "draw a figure of a table", config=False)
    figure.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    figure.add_argument("--figure", required=True, help="name of the figure in the table's file")
    figure.add_argument("--out", type=Path, required=True, help="svg, pdf or png file to write")
    return parser


def read_values(text: str, option: str) -> Any:
    """Return what `--config` or `--table` holds: JSON text, or the content of a JSON or YAML file."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise LavishError(f"{option}: not valid JSON: {error}") from None
    path = Path(text)
    if not path.is_file():
        raise LavishError(f"{option}: no file '{path}' (give JSON text that begins with '{{', or a path)")
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise LavishError(f"{path}: not valid YAML: {error}") from None


def _config(options: argparse.Namespace, model: Any) -> Any:
    where = "--config" if options.config.lstrip().startswith("{") else options.config
    return parse(model, read_values(options.config, "--config"), where)


def _compose(options: argparse.Namespace) -> None:
    from lavish.data.composer import compose

    compose(_config(options, CompositionConfig), options.out, options.jobs)


def _prepare(options: argparse.Namespace) -> None:
    from lavish.data.preparation import prepare

    prepare(_config(options, DataConfig), options.root, options.split, options.out, options.jobs)


def _weights_config(options: argparse.Namespace) -> Any:
    return _config(options, BackboneConfig if options.kind == "backbone" else AudioEncoderConfig)


def _pretrain(options: argparse.Namespace) -> None:
    from lavish.steps import pretrain

    pretrain(_weights_config(options), options.out)


def _weights(options: argparse.Namespace) -> None:
    from lavish.steps import provide_weights

    provide_weights(_weights_config(options), options.out)


def _encode_audio(options: argparse.Namespace) -> None:
    from lavish.audio_encoders import build
    from lavish.audio_encoders.features import encode_split

    config = _config(options, AudioEncoderConfig)
    encode_split(build(config.kind, config.spec, options.weights), options.data, options.out)


def _train(options: argparse.Namespace) -> None:
    from lavish.steps import train

    config = _config(options, RunConfig)
    train(config, options.seed, options.data, options.weights, options.audio_features, options.device, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from lavish.steps import evaluate

    evaluate(
        _config(options, RunConfig),
        options.seed,
        options.data,
        options.split,
        options.weights,
        options.audio_features,
        options.device,
        options.run,
    )


def _cost(options: argparse.Namespace) -> None:
    from lavish.steps import cost

    cost(_config(options, RunConfig), options.out)


def _table(options: argparse.Namespace) -> None:
    from lavish.tables import write_table

    write_table(read_values(options.table, "--table"), options.out)


def _figure(options: argparse.Namespace) -> None:
    from lavish.figures import write_figure

    write_figure(read_values(options.table, "--table"), options.figure, options.out)
