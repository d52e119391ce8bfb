"""`lavish methods`: trainable parameters and cost of every method on one backbone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tabulate import tabulate

from lavish.config.options import budget_option, is_cross_modal, summary
from lavish.config.schema import (
    NAMED_BACKBONES,
    AdapterConfig,
    BackboneConfig,
    FusionConfig,
    RandomWeights,
    RunConfig,
)
from lavish.config.validation import parse
from lavish.cost.counter import count, example_clips
from lavish.errors import LavishError, did_you_mean
from lavish.learner.uninitialised import uninitialised_model
from lavish.methods.registry import methods
from lavish.models.backbones.build import pretrained_image_size
from lavish.planning.identities import with_options
from lavish.reporting.columns import NOTHING, significant

_HEADINGS = ["Method", "Trainable", "Adapter GMACs", "Total GMACs", "Size", "Cross-modal", "What it is"]


def list_methods(start: RunConfig, names: Sequence[str], backbone: str | None) -> str:
    """Return a table of methods at their defaults, counted without data or weights.

    Args:
        start: the run with the backbone, data and task to count on; its own method and fusion settings are ignored.
        names: the methods; empty: all.
        backbone: a timm name, instead of the run's backbone, with its pretraining image size.

    Raises:
        LavishError: for an unknown method or backbone. A method that does not fit the backbone has a line that says so.
    """
    known = methods()
    for name in names:
        if name not in known:
            raise LavishError(f"unknown method '{name}'{did_you_mean(name, known)}")
    # Settings of the configuration's own method do not apply to the others.
    bare = start.model_copy(update={"adapter": AdapterConfig(method="none"), "fusion": FusionConfig()})
    bare = bare.model_copy(update={"audio_encoder": None})
    if backbone is not None:
        bare = _on(bare, backbone)
    lines = [["none", *_counts(bare), "", "", "The frozen backbone and a head"]]
    if not names:
        print(
            f"{len(known)} methods are built and counted: about a minute; `lavish methods NAME` counts one",
            file=sys.stderr,
        )
    for name in names or known:
        print(f"counting {name}", file=sys.stderr)
        try:
            adapter = parse(AdapterConfig, {"method": name}, name)
        except LavishError as error:
            lines.append([name, *[NOTHING] * 3, "", "", f"Not readable: {error}"])
            continue
        config = with_options(bare.model_copy(update={"adapter": adapter}))
        what = summary("methods", name)
        try:
            counts = _counts(config)
        except LavishError as error:
            counts, what = [NOTHING] * 3, f"Not at its defaults: {error}"
        size = budget_option(name)
        lines.append(
            [
                name,
                *counts,
                f"{size} {config.adapter.options[size]}" if size else "",
                "yes" if is_cross_modal(name) else "",
                what,
            ]
        )
    body = tabulate(
        lines, headers=_HEADINGS, disable_numparse=True, colalign=("left", "right", "right", "right", *["left"] * 3)
    )
    return f"{_conditions(bare)}\n\n{body}"


def _on(config: RunConfig, backbone: str) -> RunConfig:
    """Return the run on a named backbone with its pretraining image size for both streams."""
    try:
        named = BackboneConfig(model=backbone, weights=RandomWeights())
    except ValueError:
        raise LavishError(
            f"--backbone: '{backbone}' is no ViT or Swin: use a timm name {', '.join(NAMED_BACKBONES)}"
        ) from None
    side = pretrained_image_size(backbone)
    sound = config.data.spectrogram.model_copy(update={"mel_bins": side, "frames": side})
    data = config.data.model_copy(update={"frame_size": side, "spectrogram": sound})
    return config.model_copy(update={"backbone": named, "data": data})


def _counts(config: RunConfig) -> list[str]:
    model, _ = uninitialised_model(config)
    counts = count(model, example_clips(model, config.data), config.data.segments)
    return [
        f"{counts['trainable_params']:,}",
        significant(counts["adapter_macs"] / 1e9),
        significant(counts["total_macs"] / 1e9),
    ]


def _conditions(config: RunConfig) -> str:
    data, sound = config.data, config.data.spectrogram
    return (
        f"Counted for {config.task.name} on {config.backbone.model}: trainable parameters (the head's are those of "
        f"'none'), and multiply-adds of one clip of {data.segments} "
        f"{'segment' if data.segments == 1 else 'segments'}, frames "
        f"{data.frame_size} x {data.frame_size}, spectrograms {sound.mel_bins} x {sound.frames}."
    )
