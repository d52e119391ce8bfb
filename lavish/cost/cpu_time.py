"""How long trainings would take on a CPU: rough arithmetic, for the message that there is no GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lavish.config.hashing import digest
from lavish.config.schema import RunConfig
from lavish.data.formats.registry import reader
from lavish.learner.build import frozen_backbones, streams_of
from lavish.learner.uninitialised import skip_initialisation

GMACS_PER_SECOND = 30
"""Of one core, in steps of Swin-V2-B (docs/performance.md)."""


def describe(trainings: Sequence[RunConfig]) -> str:
    """Return a sentence on the time of one core that the backbones' arithmetic takes; empty without a training."""
    if not trainings:
        return ""
    hours = training_macs(trainings) / (GMACS_PER_SECOND * 1e9) / 3600
    amount, unit = (hours / 24, "days") if hours >= 48 else (hours, "hours") if hours >= 2 else (60 * hours, "minutes")
    number = "the training" if len(trainings) == 1 else f"the {len(trainings)} trainings"
    return (
        f"On a CPU {number} would take up to {max(amount, 1):,.0f} {unit} of one core: the multiply-adds of "
        f"the backbones in all epochs, at {GMACS_PER_SECOND} billion a second; adapters, heads and evaluations come on "
        "top, stopping early saves some. "
    )


def training_macs(trainings: Iterable[RunConfig]) -> float:
    """Return the multiply-adds of the frozen backbones, forward and for the gradient of their activations."""
    of_clip: dict[str, int] = {}
    of_split: dict[str, int] = {}
    total = 0.0
    for config in trainings:
        data, training = config.data, config.training
        backbones = [(used.model, used.spec) for used in config.used_backbones()]
        clip = digest(backbones, config.modalities, data.image_sizes(), data.segments)
        split = digest(data, training.batch_of)
        if clip not in of_clip:
            of_clip[clip] = _clip_macs(config)
        if split not in of_split:
            of_split[split] = _training_clips(config)
        passes = training.passes * (1 if config.frozen else 2)
        total += training.epochs * data.fraction * of_split[split] * passes * of_clip[clip]
    return total


def _training_clips(config: RunConfig) -> int:
    """Return how many clips pass through the backbone in an epoch: one for each unit, if batches are made of them."""
    data = config.data
    if data.compose is not None:
        return data.compose.clips.train
    assert data.root is not None
    layout, units = reader(data.format), None
    if config.training.batch_of == "units":
        options: Any = {"segments": data.segments, "segment_seconds": data.segment_seconds}
        units = layout.targets(data.root, "train", **options).clips
    return len(layout.clips(data.root, "train") if units is None else units)


def _clip_macs(config: RunConfig) -> int:
    """Return the multiply-adds of the backbones for a clip, counted on the meta device, which computes nothing."""
    streams, sizes = streams_of(config.modalities), config.data.image_sizes()
    with torch.device("meta"), skip_initialisation(), FlopCounterMode(display=False) as counter, torch.no_grad():
        shared, audio = frozen_backbones(config, None, None)
        for stream in streams:
            backbone = audio if stream == "audio" and audio is not None else shared
            backbone(torch.zeros(1, backbone.in_channels, *sizes[stream]))
    return config.data.segments * counter.get_total_flops() // 2
