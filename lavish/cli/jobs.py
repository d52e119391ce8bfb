"""The commands that the workflow's rules call, one per job."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lavish.cli.arguments import (
    WEIGHT_KINDS,
    Subparsers,
    add_command,
    add_device_options,
    add_source_options,
    alone,
    read_config,
    read_values,
)
from lavish.config.conditions import NamedCondition
from lavish.config.schema import (
    SPLITS,
    AudioEncoderConfig,
    CompositionConfig,
    DataConfig,
    FrozenStreamConfig,
    RunConfig,
)
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning.tables.schema import EXAMPLE_CLIPS
from lavish.runtime.cpu_dispatch import require
from lavish.training.monitor import Kind

if TYPE_CHECKING:
    from lavish.training.jobs import RunInputs

# What the fork server imports, in this order. Neither pyarrow nor pandas: they start threads, which no fork inherits.
PRELOAD = (
    "lavish.training.jobs", "torch", "timm", "fvcore.nn", "lavish.training.loop", "lavish.training.evaluation",
    "lavish.training.examples", "lavish.cost.counter", "lavish.models.weights", "lavish.provenance",
    "lavish.training.features", "lavish.training.pretraining.pictures", "lavish.training.pretraining.sounds",
    "scipy.stats.qmc",
)  # fmt: skip


_ENCODERS: dict[str, type[FrozenStreamConfig] | type[AudioEncoderConfig]] = {
    "backbone": FrozenStreamConfig,
    "audio_encoder": AudioEncoderConfig,
}


def add_to(commands: Subparsers) -> None:
    """Add the commands to the parser of `lavish`."""
    _add_data(commands)
    _add_runs(commands)
    _add_tables(commands)


def _add_data(commands: Subparsers) -> None:
    compose = add_command(
        commands, "compose", alone(_compose, "."), "compose clips in a data set's official layout", config=True
    )
    compose.add_argument("--out", type=Path, required=True, help="folder to write")
    compose.add_argument("--jobs", type=int, default=1, help="processes")

    prepare = add_command(
        commands, "prepare", alone(_prepare, "store.json"), "decode one split into the prepared store", config=True
    )
    prepare.add_argument("--root", type=Path, required=True, help="folder in the official layout")
    prepare.add_argument("--split", choices=SPLITS, required=True)
    prepare.add_argument("--out", type=Path, required=True, help="folder to write")
    prepare.add_argument("--jobs", type=int, default=1, help="processes")

    pretrain = add_command(
        commands, "pretrain", alone(_pretrain, "."), "train a small frozen backbone or audio encoder", config=True
    )
    pretrain.add_argument("--kind", choices=tuple(WEIGHT_KINDS), required=True)
    pretrain.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    add_device_options(pretrain)

    summary = "compute the features of one split that a frozen backbone or a separate audio encoder gives"
    encode = add_command(commands, "encode", alone(_encode, "."), summary, config=True)
    encode.add_argument("--kind", choices=tuple(_ENCODERS), required=True)
    encode.add_argument("--weights", type=Path, required=True)
    encode.add_argument("--data", type=Path, required=True, help="prepared split")
    encode.add_argument("--out", type=Path, required=True, help="npy file to write")
    add_device_options(encode)


def _add_runs(commands: Subparsers) -> None:
    train = add_command(commands, "train", _train, "train one run with one seed", config=True)
    trial = add_command(commands, "trial", _trial, "train one trial of a run's hyperparameter search", config=True)
    evaluate = add_command(commands, "evaluate", alone(_evaluate), "evaluate a trained run on a split", config=True)
    summary = "write a trained run's predictions for some clips, to be looked at"
    examples = add_command(commands, "examples", alone(_examples), summary, config=True)
    for parser in (train, trial, evaluate, examples):
        parser.add_argument("--seed", type=int, required=True)
        parser.add_argument("--data", type=Path, required=True, help="prepared store")
        help_text = "frozen backbone (safetensors); then, if it has one of its own, that of the audio stream"
        parser.add_argument("--weights", type=Path, required=True, nargs="+", help=help_text)
        parser.add_argument("--audio-features", type=Path, help="folder of the separate audio encoder's features")
        parser.add_argument(
            "--frozen-features",
            type=_stream_folder,
            action="append",
            default=[],
            metavar="STREAM=FOLDER",
            help="features of the frozen backbone, to be read instead of the stream's images",
        )
        add_device_options(parser)
    trial.add_argument("--trial", type=int, required=True, help="counted from 0")
    for parser in (train, trial):
        parser.add_argument("--out", type=Path, required=True, help="folder to write")
    evaluate.add_argument("--condition", help="JSON text or file: a condition that the test split is put under")
    help_text = "the separate audio encoder (safetensors), which hears a sound that a condition changes"
    evaluate.add_argument("--audio-encoder-weights", type=Path, help=help_text)
    help_text = "folder to write (default: <run>/<split>, or a folder named after the condition)"
    evaluate.add_argument("--out", type=Path, help=help_text)
    help_text = "also write the course of the training for this program, to results/monitor/"
    train.add_argument("--monitor", choices=get_args(Kind), default="none", help=help_text)
    for parser in (evaluate, examples):
        parser.add_argument("--split", choices=SPLITS, required=True)
        parser.add_argument("--run", type=Path, required=True, help="folder that `lavish train` wrote")
    examples.add_argument(
        "--count",
        type=int,
        default=EXAMPLE_CLIPS,
        help=f"clips, evenly distributed over the split (default: {EXAMPLE_CLIPS})",
    )
    examples.add_argument("--overlays", type=Path, help="also write a PNG of each clip to this folder")

    cost = add_command(commands, "cost", alone(_cost), "count parameters and multiply-adds of a run", config=True)
    cost.add_argument("--out", type=Path, required=True, help="JSON file to write")
    for parser in (train, evaluate, examples, cost):
        parser.add_argument("--tuned", type=Path, help="the choice of the run's hyperparameter search")
    choose = add_command(commands, "choose", alone(_choose), "choose among the trials of a run's search", config=True)
    choose.add_argument("--trials", type=Path, required=True, help="folder of the trials")
    choose.add_argument("--out", type=Path, required=True, help="JSON file to write")
    for parser in (train, trial, choose, evaluate, examples, cost):
        add_source_options(parser, "methods", "tasks")


def _add_tables(commands: Subparsers) -> None:
    match = add_command(
        commands, "match", alone(_match), "find sizes that match the trainable parameters of another method"
    )
    match.add_argument("--requests", required=True, help="JSON text or file: for each name `config` and `target`")
    match.add_argument("--out", type=Path, required=True, help="JSON file to write")

    table = add_command(commands, "table", alone(_table), "write a table as Markdown, CSV and LaTeX")
    table.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    table.add_argument("--out", type=Path, required=True, help="path to write, without suffix")

    figure = add_command(commands, "figure", alone(_figure), "draw a figure of a table")
    figure.add_argument("--table", required=True, help="JSON text or the path of a JSON file")
    figure.add_argument("--figure", required=True, help="name of the figure in the table's file")
    figure.add_argument("--out", type=Path, required=True, help="SVG, PDF or PNG file to write")

    site = add_command(commands, "site", alone(_site, "index.html"), "write the results page of tables")
    site.add_argument("--table", required=True, nargs="+", help="JSON texts or the paths of JSON files")
    help_text = "options of Snakemake that plan the same runs, for the commands that the page shows"
    site.add_argument("--invocation", default="", help=help_text)
    site.add_argument("--out", type=Path, required=True, help="folder to write")


def _compose(options: argparse.Namespace) -> None:
    from lavish.data.synthetic.composer import compose

    compose(read_config(options.config, CompositionConfig), options.out, options.jobs)


def _prepare(options: argparse.Namespace) -> None:
    from lavish.data.store.preparation import prepare

    prepare(read_config(options.config, DataConfig), options.root, options.split, options.out, options.jobs)


def _pretrain(options: argparse.Namespace) -> None:
    from lavish.training.jobs import pretrain

    config = read_config(options.config, WEIGHT_KINDS[options.kind])
    pretrain(config, options.out, options.device, options.jobs_per_gpu)


def _encode(options: argparse.Namespace) -> None:
    from lavish.training.jobs import encode

    config = read_config(options.config, _ENCODERS[options.kind])
    if isinstance(config, FrozenStreamConfig):
        require(config.cpu_dispatch)
    encode(config, options.weights, options.data, options.out, options.device, options.jobs_per_gpu)


def _train(options: argparse.Namespace) -> None:
    from lavish.training.jobs import train

    train(_run_inputs(options), options.out)


def _trial(options: argparse.Namespace) -> None:
    from lavish.training.jobs import train_trial

    if options.trial < 0:
        raise LavishError(f"--trial {options.trial}: trials are counted from 0")
    train_trial(_run_inputs(options, tuned=False), options.trial, options.out)


def _choose(options: argparse.Namespace) -> None:
    from lavish.training.tuning import choose

    choose(read_config(options.config, RunConfig), options.trials, options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from lavish.training.jobs import evaluate

    inputs = replace(_run_inputs(options), audio_encoder_weights=options.audio_encoder_weights)
    condition = None
    if options.condition is not None:
        condition = parse(NamedCondition, read_values(options.condition, "--condition"), "--condition")
    evaluate(inputs, options.split, options.run, condition, options.out)


def _examples(options: argparse.Namespace) -> None:
    from lavish.training.jobs import predict_examples

    if options.count < 1:
        raise LavishError(f"--count {options.count}: give at least 1")
    predicted = predict_examples(_run_inputs(options), options.split, options.run, options.count)
    predicted.write(options.run / options.split / "examples.npz")
    if options.overlays is not None:
        from lavish.reporting.overlays import write_overlays

        write_overlays(predicted.clips, predicted.frames, predicted.truth, predicted.predicted, options.overlays)


def _run_inputs(options: argparse.Namespace, *, tuned: bool = True) -> RunInputs:
    from lavish.training.jobs import RunInputs

    config = _tuned(options) if tuned else read_config(options.config, RunConfig)
    require(config.training.cpu_dispatch)
    weights, *others = options.weights
    if len(options.weights) != len(config.used_backbones()):
        raise LavishError("--weights: give one file for each backbone of the configuration")
    return RunInputs(
        config,
        options.seed,
        options.data,
        weights,
        options.audio_features,
        options.device,
        options.jobs_per_gpu,
        getattr(options, "monitor", "none"),
        audio_weights=others[0] if others else None,
        frozen_features=dict(options.frozen_features),
    )


def _tuned(options: argparse.Namespace) -> RunConfig:
    """Return the run with the values that its search, if it has one, has chosen."""
    from lavish.training.tuning import tuned

    return tuned(read_config(options.config, RunConfig), options.tuned)


def _stream_folder(text: str) -> tuple[str, Path]:
    stream, _, folder = text.partition("=")
    if stream not in ("visual", "audio") or not folder:
        raise argparse.ArgumentTypeError(f"'{text}' is not visual=FOLDER or audio=FOLDER")
    return stream, Path(folder)


def _cost(options: argparse.Namespace) -> None:
    from lavish.cost.job import count_run
    from lavish.io.atomic import write_json

    write_json(options.out, count_run(_tuned(options)))


def _match(options: argparse.Namespace) -> None:
    from lavish.cost.size_search import read_requests, search
    from lavish.io.atomic import write_json

    write_json(options.out, search(read_requests(read_values(options.requests, "--requests"))))


def _table(options: argparse.Namespace) -> None:
    from lavish.reporting.tables import write_table

    write_table(read_values(options.table, "--table"), options.out)


def _figure(options: argparse.Namespace) -> None:
    from lavish.reporting.figures import write_figure

    write_figure(read_values(options.table, "--table"), options.figure, options.out)


def _site(options: argparse.Namespace) -> None:
    from lavish.reporting.site.page import write_site

    write_site([read_values(table, "--table") for table in options.table], options.out, options.invocation)
