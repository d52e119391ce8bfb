"""`lavish data` and `lavish weights`: checking data sets, unpacking archives, fetching weights."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lavish.cli.arguments import WEIGHT_KINDS, Subparsers, add_command, alone, read_config
from lavish.config.schema import BackboneConfig, HubWeights
from lavish.config.validation import parse
from lavish.data.formats.official import OFFICIAL
from lavish.errors import LavishError


def add_to(commands: Subparsers) -> None:
    """Add the commands to the parser of `lavish`."""
    _add_data(_actions(commands, "data", "check a data set on disk, unpack an archive"))
    _add_weights(_actions(commands, "weights", "fetch weights, pin those of the hub, check a file of weights"))


def _actions(commands: Subparsers, name: str, summary: str) -> Subparsers:
    parser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    return parser.add_subparsers(dest="action", required=True, metavar="ACTION")


def _add_data(actions: Subparsers) -> None:
    check = add_command(
        actions,
        "check",
        _check_data,
        "report what a data set contains, what is missing and where to get it; status 1 for any problem",
    )
    check.add_argument("--task", "--format", dest="format", choices=tuple(OFFICIAL), required=True, help="the data set")
    check.add_argument("--root", type=Path, required=True, help="its folder, in the official layout")
    how_many = check.add_mutually_exclusive_group()
    how_many.add_argument("--sample", type=int, default=20, help="media to decode, spread over all (default: 20)")
    how_many.add_argument("--all", action="store_true", help="decode all media")
    check.add_argument("--segments", type=int, help="segments of a clip (default: the official number)")
    check.add_argument("--segment-seconds", type=float, help="length of a segment (default: the official one)")
    check.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all processors)")

    unpack = add_command(actions, "unpack", _unpack, "unpack a zip or tar archive safely, completely or not at all")
    unpack.add_argument("archive", type=Path, metavar="ARCHIVE")
    unpack.add_argument("--out", type=Path, required=True, help="folder to write")
    unpack.add_argument("--max-gigabytes", type=float, default=500.0, help="maximum unpacked size (default: 500)")


def _add_weights(actions: Subparsers) -> None:
    fetch = add_command(
        actions,
        "fetch",
        alone(_fetch_weights),
        "fetch weights from the model hub, or as a configuration says, and check their sha256",
    )
    what = fetch.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="timm name of a backbone with its weights tag, to be fetched from the hub")
    what.add_argument("--config", help="configuration of a backbone or audio encoder: JSON text, or a file's path")
    fetch.add_argument("--kind", choices=tuple(WEIGHT_KINDS), default="backbone", help="what --config describes")
    fetch.add_argument("--revision", help="with --model: commit of the hub repository (default: its newest)")
    fetch.add_argument("--sha256", help="with --model: checksum that the file must have")
    fetch.add_argument("--repository", help="with --model: hub repository (default: timm's own for the model)")
    fetch.add_argument("--filename", help="with --model: file of the repository (default: model.safetensors)")
    fetch.add_argument(
        "--frozen", action="store_true", help="only what is in config/weights.lock.yaml, or pinned by commit and sha256"
    )
    fetch.add_argument("--out", type=Path, required=True, help="safetensors file to write")

    lock = add_command(
        actions,
        "lock",
        _lock_weights,
        "write the commits and checksums of a configuration's hub weights to config/weights.lock.yaml",
    )
    lock.add_argument(
        "--configfile", type=Path, action="append", default=[], help="merged into config/config.yaml; may be repeated"
    )
    lock.add_argument("--update", action="store_true", help="take the newest state of all, not only of new files")

    check = add_command(
        actions, "check", _check_weights, "describe a weights file, and check whether it is the expected one"
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--sha256", help="checksum that it must have")
    check.add_argument("--model", help="timm name of the backbone that it must fit")


def _check_data(options: argparse.Namespace) -> int:
    from lavish.data.checking import check_data_set, report

    found = check_data_set(
        options.format,
        options.root,
        sample=None if options.all else options.sample,
        jobs=options.jobs,
        segments=options.segments,
        segment_seconds=options.segment_seconds,
    )
    print(report(options.format, options.root, found))
    return 1 if found.problems else 0


def _unpack(options: argparse.Namespace) -> None:
    from lavish.io.archives import unpack

    done = unpack(options.archive, options.out, max_bytes=int(options.max_gigabytes * 1e9))
    state = "already unpacked, nothing to do" if done.earlier else "unpacked"
    print(f"{options.out}: {done.files} files, {done.size / 1e6:.1f} MB, {state}")
    for remark in done.remarks:
        print(f"remark: {remark}")


def _fetch_weights(options: argparse.Namespace) -> None:
    from lavish.planning.weights_lock import WeightsLock
    from lavish.training.jobs import provide_weights

    pins = {key: getattr(options, key) for key in ("revision", "sha256", "repository", "filename")}
    pins = {key: value for key, value in pins.items() if value is not None}
    if options.config is not None:
        if pins:
            raise LavishError(f"--{next(iter(pins))} goes with --model; with --config it is a key of `weights`")
        config = read_config(options.config, WEIGHT_KINDS[options.kind])
    else:
        config = parse(BackboneConfig, {"model": options.model, "weights": {"source": "hub", **pins}}, "--model")
    if isinstance(config.weights, HubWeights):
        pinned = WeightsLock(ask_hub=True, frozen=options.frozen).pinned(config.weights, config.model)
        config = config.model_copy(update={"weights": pinned})
    provide_weights(config, options.out)


def _lock_weights(options: argparse.Namespace) -> None:
    from lavish.planning.experiments import weights_on_hub
    from lavish.planning.weights_lock import WeightsLock

    lock = WeightsLock(ask_hub=True, update=options.update)
    known = set(lock.entries)
    for weights, model in weights_on_hub([Path("config/config.yaml"), *options.configfile]):
        lock.pinned(weights, model)
    for name, entry in lock.entries.items():
        what = "kept" if name not in lock.written else "updated" if name in known else "added"
        print(f"{what:8}{name}  commit {entry.revision[:8]}  sha256 {entry.sha256[:8]}")


def _check_weights(options: argparse.Namespace) -> None:
    from lavish.io.checksums import check_sha256
    from lavish.models.backbones.build import check_fit
    from lavish.models.weights import inspect_weights

    facts = inspect_weights(options.file)
    check_sha256(options.file, options.sha256, "--sha256", measured=facts["sha256"])
    if options.model is not None:
        check_fit(options.file, options.model)
        facts["fits"] = options.model
    width = max(map(len, facts))
    print("\n".join(f"{key:<{width}}  {value}" for key, value in facts.items()))
