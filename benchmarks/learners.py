"""The models that benchmarks/gpu.py measures: their runs, random clips that fit them, and how they are trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import frozen_timm
from torch import nn

from lavish.config.merging import merge
from lavish.config.schema import RunConfig, TrainingConfig
from lavish.config.validation import parse
from lavish.data.store.batches import Batch, SplitReader
from lavish.learner.build import build_model, frozen_backbones
from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.base import Backbone
from lavish.planning.experiments import task_defaults
from lavish.training import loop
from lavish.training.capture import Captured, captured
from lavish.training.device import autocast, choose, place, seed_everything
from lavish.training.evaluation import forward_pass
from tests.stores import write_store

ROOT = Path(__file__).resolve().parents[1]
# Configuration files, task, and changes to the run.
MODELS: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
    # LAVISH's published setting for AVE: Swin-V2-L at 192 pixels, 2 clips of 10 pairs.
    "swin_large": (("config.yaml", "paper.yaml"), "event_localization", {}),
    # DINOv2's ViT-S/14 at 112 pixels, segmentation of 16 clips of one frame.
    "vit_small": (
        ("config.yaml", "real.yaml"),
        "segmentation_s4",
        {
            "data": {"frame_size": 112, "spectrogram": {"mel_bins": 112, "frames": 112}},
            "training": {"batch_size": 16},
        },
    ),
    # The embedded default's own: 16 clips of 3 pairs at 48 pixels.
    "default": (("config.yaml",), "event_localization", {}),
}
ON_CPU: dict[str, dict[str, Any]] = {
    "swin_large": {"data": {"segments": 1}, "training": {"batch_size": 1}},
    "vit_small": {"training": {"batch_size": 4}},
    "default": {},
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "bf16": {"precision": "bf16"},
}
TIMM = "timm, frozen"
# Changes to `training`, besides those of the precision. A step is captured, unless it says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    TIMM: {"deterministic": False, "capture": "none"},
    "eager": {"capture": "none"},
    "captured": {},
    "adapters recomputed": {"recompute": "adapters"},
    "blocks recomputed": {"recompute": "blocks"},
    "not deterministic": {"deterministic": False},
    "compiled": {"compile": True},
}
STORED_CLIPS = 128


def run_of(name: str, gpu: bool, training: dict[str, Any] | None = None) -> RunConfig:
    """Return the resolved run of a model, with changes to its training."""
    files, task, own = MODELS[name]
    values = task_defaults([ROOT / "config" / file for file in files], task).model_dump(mode="json")
    for one in (own, {} if gpu else ON_CPU[name], {"training": training or {}}):
        values = merge(values, one)
    return parse(RunConfig, values, name)


def backbone_of(run: RunConfig) -> Backbone:
    """Return the frozen backbone of a run with random weights."""
    torch.manual_seed(0)
    return frozen_backbones(run, None, None)[0].eval()


def description(name: str, gpu: bool) -> str:
    """Return what a model is and sees."""
    run = run_of(name, gpu)
    side, size, segments = run.data.frame_size, run.training.batch_size, run.data.segments
    return f"{run.backbone.model}, {run.task.name}, {size} clips of {segments} pairs at {side} pixels"


def reader_of(run: RunConfig, folder: Path) -> SplitReader:
    """Return a reader of a split with random clips that fit a run."""
    size, segments = run.data.frame_size, run.data.segments
    masks = None
    if run.task.name == "segmentation":
        masks = np.random.default_rng(0).integers(0, 2, (STORED_CLIPS, segments, size, size), np.uint8)
    write_store(folder, clips=STORED_CLIPS, segments=segments, size=size, masks=masks)
    return SplitReader(folder, ("visual", "audio"))


def placed(backbone: Backbone, run: RunConfig, device: torch.device) -> Backbone:
    """Return a copy of a backbone as a training of the run has it on the device."""
    holder: Any = nn.Module()
    holder.encoder = TwoStreamEncoder(copy.deepcopy(backbone), method="none")
    place(holder, device, run.training.precision)
    return holder.encoder.backbone


class Learner:
    """A model with its optimizer, as a training has them, on a backbone that it may share."""

    def __init__(self, run: RunConfig, backbone: Backbone, reader: SplitReader, device: torch.device) -> None:
        self.training, self.device = run.training, device
        torch.manual_seed(0)
        self.model = build_model(
            run,
            classes=[f"class {index}" for index in range(run.data.num_classes)],
            vocabulary=run.data.vocabulary,
            statistics=reader.store.statistics,
            weights=None,
            backbones=(backbone, None),
            compiled=run.training.compile,
        )
        place(self.model, device, run.training.precision)
        # With rates of zero, as they are before a schedule sets them: random weights stay finite.
        optimizer = loop._optimizer(self.model, self.training, device)
        scaler = torch.amp.GradScaler(device.type, enabled=False)
        self._step = captured(
            lambda group: loop._step(self.model, group, optimizer, scaler, self.training, device), device, self.training
        )
        self._forward = forward_pass(self.model, device, self.training)

    def step(self, batch: Batch) -> None:
        """Take a step of a training."""
        self._step([batch])

    def infer(self, batch: Batch) -> None:
        """Run the forward pass of an evaluation."""
        self._forward([batch])

    @property
    def captured(self) -> str:
        """Which of both a GPU runs as a graph."""
        both = {"step": self._step, "inference": self._forward}
        return ", ".join(name for name, one in both.items() if isinstance(one, Captured) and one._graphs)


class FrozenTimm:
    """timm's frozen backbone alone, which sees as many images."""

    def __init__(self, run: RunConfig, backbone: Backbone, device: torch.device) -> None:
        self.training, self.device = run.training, device
        self.model = copy.deepcopy(backbone.model).to(device)  # whose weights stay in float32
        size = run.data.frame_size
        self.images = torch.randn(2 * run.training.batch_size * run.data.segments, 3, size, size, device=device)

    def step(self, _: Batch) -> None:
        """Run it forward and backward."""
        with autocast(self.device, self.training.precision):
            frozen_timm(self.model, self.images)

    def infer(self, _: Batch) -> None:
        """Run it forward."""
        with autocast(self.device, self.training.precision):
            self.model.forward_features(self.images)


def set_up(training: TrainingConfig) -> None:
    """Set what a training sets for its process."""
    choose("cpu", training.cpu_threads, tf32=training.tf32)  # for its settings: this process has its GPU already
    torch.set_deterministic_debug_mode("default")
    seed_everything(0, deterministic=training.deterministic)
