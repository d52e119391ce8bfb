"""The training loop of all tasks and methods: one run with one seed, resumable after each epoch."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lavish.data.store.batches import Batch, SplitReader
from lavish.errors import LavishError
from lavish.io.atomic import replacing
from lavish.training.capture import Function, captured
from lavish.training.checkpoint import Progress, TrainingState, save_tensors
from lavish.training.device import autocast, mark, peak_memory, place, seconds_between
from lavish.training.evaluation import evaluate, forward_pass
from lavish.training.monitor import Report, silent
from lavish.training.schedule import schedule

KEPT_STEP_SECONDS = 1000
"""Steps, the latest, whose median duration the record gives; the resumable state holds them all."""
LOSSES_READ_EVERY = 100
"""Steps after which a GPU is waited for to read and check the losses; on a CPU they are read at once."""

if TYPE_CHECKING:
    from lavish.config.schema import TrainingConfig
    from lavish.learner.model import AudioVisualModel


class Diverged(LavishError):
    """The loss of a training is no longer finite."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished training, as the record stores it."""

    best_epoch: int
    best_value: float
    epochs: int
    wall_seconds: float
    step_seconds_median: float
    units_per_step: int
    """Clips, or units if batches are made of them, of an optimizer step that is not cut short."""
    peak_memory_bytes: int


def train(
    model: AudioVisualModel,
    training: SplitReader,
    selection: SplitReader,
    options: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    out: Path,
    identity: str,
    report: Report = silent,
) -> TrainingResult:
    """Train `model`, keep the epoch that is best on `selection`, and write ``best.safetensors`` and ``history.csv``.

    After every epoch the state is saved in ``resume.safetensors``. A later call resumes from it, with the same result
    as without the interruption. Random numbers depend only on seed and epoch.

    Args:
        model: the model; moved to `device`.
        training, selection: the training split, and the split whose metric selects the epoch.
        options: settings of the optimisation.
        seed: random seed of all that happens in training; the model is initialised already.
        device: device to train on.
        out: folder to write.
        identity: hash of configuration and seed; the saved state of another run is ignored.
        report: called after each epoch with its row of the history and the clips (or units) per second.

    Raises:
        Diverged: the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    place(model, device, options.precision)
    optimizer = _optimizer(model, options, device)
    whole_clips = options.batch_of == "clips"
    rows = len(training.clips) if whole_clips else len(training)
    steps_per_epoch = math.ceil(options.passes * math.ceil(rows / options.batch_size) / options.accumulate)
    factor = schedule(options.schedule, steps_per_epoch, options.epochs)
    scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "fp16" and device.type == "cuda")

    def own_step(group: list[Batch]) -> Tensor:
        return _step(model, group, optimizer, scaler, options, device)

    step = captured(own_step, device, options, reset=optimizer.zero_grad)
    forward = forward_pass(model, device, options)
    state = TrainingState(out / "resume.safetensors", identity, model, optimizer, scaler)
    metric = model.task.metric
    progress = state.load(device) or Progress(best_value=-math.inf if metric.higher_is_better else math.inf)
    units_per_step = min(options.batch_size * options.accumulate, rows)
    bar = tqdm(total=options.epochs, initial=progress.epoch, desc="epochs", unit="epoch", mininterval=1.0)
    while progress.epoch < options.epochs and progress.epoch - progress.best_epoch <= options.patience:
        started = time.perf_counter()
        torch.manual_seed(_mix(seed, progress.epoch))
        rng = np.random.default_rng([seed, progress.epoch])
        sample = training.by_clip if whole_clips else training.shuffled
        groups = [group for _ in range(options.passes) for group in sample(options.batch_size, rng)]
        batches = training.batches(groups, device, rng if model.task.negatives else None)
        loss = _epoch(model, batches, step, optimizer, factor, progress, options, device)
        value = evaluate(model, forward, selection, options.batch_size, device, calibrate=True).value
        progress.history.append({"epoch": progress.epoch, "train_loss": loss, f"selection_{metric.name}": value})
        if metric.better(value, progress.best_value):
            progress.best_epoch, progress.best_value = progress.epoch, value
            save_tensors(out / "best_so_far.safetensors", model.trainable_state())
        rate = units_per_step / median(progress.step_seconds)
        report(progress.epoch, {**progress.history[-1], f"{options.batch_of}_per_second": rate})
        progress.epoch += 1
        progress.seconds += time.perf_counter() - started
        state.save(progress)
        bar.set_postfix(
            {
                "loss": f"{loss:.4f}",
                metric.name: f"{value:.4f}",
                "best": f"{progress.best_value:.4f}",
                f"{options.batch_of}/s": f"{rate:.1f}",
            }
        )
        bar.update()
    bar.close()
    if progress.best_epoch < 0:
        raise LavishError(
            f"{selection.store.path}: {metric.name} was not a number after any epoch, so none can be selected: "
            "no unit of the split has a score; correct its labels or masks"
        )
    # Declared outputs are written last, because Snakemake deletes those of an interrupted job. The best epoch is
    # copied, because the job may still be interrupted before its record is written.
    with replacing(out / "best.safetensors") as temporary:
        shutil.copyfile(out / "best_so_far.safetensors", temporary)
    _write_history(out / "history.csv", progress.history)
    return TrainingResult(
        best_epoch=progress.best_epoch,
        best_value=progress.best_value,
        epochs=progress.epoch,
        wall_seconds=progress.seconds,
        step_seconds_median=median(progress.step_seconds),
        units_per_step=units_per_step,
        peak_memory_bytes=peak_memory(device),
    )


def _optimizer(model: AudioVisualModel, options: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """Return the optimizer of the method's parameters and of the head's; each epoch sets their rates."""
    rates = [(model.adapter_parameters(), options.lr_adapter), (list(model.task.parameters()), options.lr_head)]
    on_gpu = device.type == "cuda"
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(
        [
            {"params": parameters, "base_lr": rate, "lr": torch.zeros((), device=device) if on_gpu else 0.0}
            for parameters, rate in rates
            if parameters
        ],
        weight_decay=options.weight_decay,
        fused=True,  # updating hundreds of small tensors separately takes longer than a block's forward pass
        capturable=on_gpu,
    )


def _epoch(
    model: AudioVisualModel,
    batches: Iterator[Batch],
    step: Function,
    optimizer: torch.optim.Optimizer,
    factor: Callable[[int], float],
    progress: Progress,
    options: TrainingConfig,
    device: torch.device,
) -> float:
    """Run one epoch; return the mean loss over units."""
    model.train()
    every = 1 if device.type == "cpu" else LOSSES_READ_EVERY
    total, units = 0.0, 0
    steps: list[tuple[Tensor, int, Any, Any]] = []

    def read() -> None:
        """Wait for the steps, add their losses and note their durations."""
        nonlocal total, units
        losses = torch.stack([loss for loss, *_ in steps]).tolist() if steps else []
        for mean, (_, in_group, start, end) in zip(losses, steps, strict=True):
            if not math.isfinite(mean):
                raise Diverged(
                    f"the loss became {mean} in epoch {progress.epoch}: lower training.lr_adapter or "
                    "training.lr_head, or use training.precision: float32"
                )
            total, units = total + mean * in_group, units + in_group
            progress.step_seconds.append(seconds_between(start, end))
        del progress.step_seconds[:-KEPT_STEP_SECONDS]
        steps.clear()

    for group in _grouped(batches, options.accumulate):
        start = mark(device)
        for parameters in optimizer.param_groups:
            rate = parameters["base_lr"] * factor(progress.step)
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(rate)  # at its place in memory, where a captured step reads it
            else:
                parameters["lr"] = rate
        loss = step(group)
        steps.append((loss, sum(map(len, group)), start, mark(device)))
        progress.step += 1
        if len(steps) == every:
            read()
    read()
    return total / units


def _step(
    model: AudioVisualModel,
    group: list[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    options: TrainingConfig,
    device: torch.device,
) -> Tensor:
    """Take an optimizer step; return the mean loss over units as a scalar on the device, for which nothing waits."""
    in_group = sum(map(len, group))
    losses = []
    for batch in group:
        with autocast(device, options.precision):
            output = model(batch)
        # Weighted by units: the gradient equals that of the whole group as one batch.
        loss = model.loss(output, batch) * (len(batch) / in_group)
        scaler.scale(loss).backward()
        losses.append(loss.detach())
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return torch.stack(losses).sum()


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _mix(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
