"""Training steps and inference on a GPU: eager timm's frozen backbone, and the learner with each option of training.

    python benchmarks/gpu.py                                    # on a GPU, everything in under four minutes
    python benchmarks/gpu.py --models swin_large --precisions bf16 --jobs
    python benchmarks/gpu.py --jobs 1 2                         # on a CPU: the default's own model, in a minute

A step of the learner is that of a training (forward pass, loss, backward pass, optimizer) on a batch that stays on the
device. A step of the frozen backbone is its forward pass on both streams and the gradient of its activations, which
adapters in the first block need. All variants of a model and a precision take turns. Weights and data are random.

`busy` is the time in which the GPU computes or copies within a step, `peak` what a training allocates at most, weights
included, `captured` what a GPU runs as one graph. `jobs` are processes that train side by side and read their batches
from a store.

On a CPU there are no kernels to count, no TF32, and no peak that one of several models could be given; bf16 only if
asked for. The larger models are made smaller there (ON_CPU in learners.py) and only measured if they are named.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from lavish.runtime.cpu_dispatch import limit

limit()
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the small stores of the tests

import numpy as np
import pandas
import torch
from learners import (
    MODELS,
    PRECISIONS,
    TIMM,
    VARIANTS,
    FrozenTimm,
    Learner,
    backbone_of,
    description,
    placed,
    reader_of,
    run_of,
    set_up,
)  # fmt: skip
from measuring import medians, traced, wait

from lavish.data.store.batches import SplitReader
from lavish.models.backbones.base import Backbone
from lavish.provenance import git_state, machine, versions
from lavish.training.capture import EAGER_CALLS
from lavish.training.device import gpu_facts

SHARES = {"swin_large": 4, "vit_small": 3, "default": 2}
"""Of the time for all models."""

# Model, precision, column, and the number that is to be reached on an H100 or H200.
GOALS = (
    ("swin_large", "bf16", "step, ms", "<= 80"),
    ("swin_large", "float32", "step, ms", "<= 180"),
    ("swin_large", "bf16", "inference, ms", "<= 40"),
    ("swin_large", "float32", "peak, GB", "<= 10"),
    ("vit_small", "float32", "clips/s", ">= 1000"),
    ("vit_small", "bf16", "clips/s", ">= 2000"),
)

WARM_CALLS = EAGER_CALLS + 1
"""Before anything is measured; the last one is captured."""
JOB_SECONDS = 3.0
"""For which jobs are counted side by side."""
JOBS_SECONDS = 15
"""What is kept free for jobs side by side, their start included."""
PATIENCE = 100 if torch.cuda.is_available() else 1800
"""Seconds after which a process that should have ended is killed."""
SPAWN = multiprocessing.get_context("spawn")
"""A process for each model and each job, so that one that breaks the GPU's context takes nothing along."""

Row = dict[str, Any]


def main() -> None:
    """Print a table for each model, one of the jobs, and the goals; write the same as JSON after each of them."""
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS) if gpu else ["default"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS) if gpu else ["float32"])
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS,
        default=[one for one in VARIANTS if one != "compiled" and (gpu or one != "captured")],
        help="changes to `training`; all but `compiled`, which takes minutes, if omitted",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", nargs="*", type=int, default=[1, 2, 4, 8] if gpu else [], metavar="PROCESSES",
        help="training side by side, in float32; the largest number also with MPS, where the driver has it",
    )  # fmt: skip
    parser.add_argument("--jobs-model", choices=MODELS, default="vit_small" if gpu else "default")
    parser.add_argument("--seconds", type=float, default=220 if gpu else 60, help="about how long all of it may take")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="file for the numbers")
    options = parser.parse_args()
    started = time.monotonic()
    device = torch.device("cuda" if gpu else "cpu")
    found: dict[str, Any] = {
        "arguments": sys.argv[1:],
        "gpu": (gpu_facts(device) or {}) | {"driver": driver(), "mps": mps_is_offered()} if gpu else None,
        "machine": machine(),
        "versions": versions(),
        "git": git_state(),
        "rows": [],
        "goals": [],
        "jobs": [],
    }
    say("gpu" if gpu else "CPU, with fewer columns", json.dumps(found["gpu"]) if gpu else machine()["processor"])
    say("torch", torch.__version__, "CUDA", torch.version.cuda, "Python and packages", json.dumps(found["versions"]))
    say("code", json.dumps(found["git"]))

    def keep(part: str, rows: list[Row]) -> None:
        found[part] += rows
        found["seconds"] = round(time.monotonic() - started, 1)
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    runs = [(count, False) for count in options.jobs]
    runs += [(max(options.jobs), True)] if gpu and options.jobs and mps_is_offered() else []
    end = started + options.seconds - JOBS_SECONDS * len(runs)
    with tempfile.TemporaryDirectory() as folder:
        shares = [SHARES[name] for name in options.models]
        for index, name in enumerate(options.models):
            say(f"\n{name}: {description(name, gpu)}")
            now = time.monotonic()
            until = now + (end - now) * shares[index] / sum(shares[index:])
            arguments = (name, options.precisions, options.variants, Path(folder, name), until, gpu)
            try:
                [rows] = in_processes(measure, [arguments], until)
            except Exception as error:
                rows = [{"model": name, "error": told(error)}]
                say_table(rows)
            keep("rows", rows)
        keep("goals", compared(found["rows"]))
        if found["goals"]:
            say("\ngoals on an H100 or H200, and what each variant reaches")
            say_table(found["goals"])
        if runs:
            say(f"\ntrainings of {options.jobs_model} side by side, float32, batches read from a store")
        for count, mps in runs:  # last, since of all this a service of the driver may hang the longest
            row = side_by_side(options.jobs_model, Path(folder, f"jobs-{count}-{mps}"), count, gpu, mps)
            say(row)
            keep("jobs", [row])
    say(f"\n{found['seconds']} seconds; {options.json} has all this")


def in_processes(function: Callable[..., Any], calls: list[tuple[Any, ...]], until: float, **options: Any) -> list[Any]:
    """Return the result of each call, in a process of its own; raise an error if one fails or does not end."""
    with ProcessPoolExecutor(len(calls), mp_context=SPAWN, **options) as pool:
        jobs = [pool.submit(function, *call) for call in calls]
        try:
            return [job.result(max(0, until - time.monotonic()) + PATIENCE) for job in jobs]
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()
            raise TimeoutError("a process did not end, and was killed") from None


def measure(name: str, precisions: list[str], variants: list[str], folder: Path, until: float, gpu: bool) -> list[Row]:
    """Return and print the rows of one model."""
    device = torch.device("cuda" if gpu else "cpu")
    run = run_of(name, gpu)
    set_up(run.training)
    reader, backbone = reader_of(run, folder), backbone_of(run)
    rows: list[Row] = []
    for index, precision in enumerate(precisions):
        now = time.monotonic()
        end = now + (until - now) / (len(precisions) - index)
        try:
            found = measure_precision(name, precision, variants, backbone, reader, end, device)
        except Exception as error:
            found = [{"model": name, "precision": precision, "error": told(error)}]
        say_table(found)
        rows += found
    return rows


def measure_precision(
    name: str,
    precision: str,
    variants: list[str],
    backbone: Backbone,
    reader: SplitReader,
    until: float,
    device: torch.device,
) -> list[Row]:
    """Return the rows of one model in one precision; a variant that fails has its error in its row."""
    gpu = device.type == "cuda"
    run = run_of(name, gpu, PRECISIONS[precision])
    clips = run.training.batch_size
    batch = next(reader.batches([np.arange(clips)], device))
    shared = placed(backbone, run, device)
    models: dict[str, Learner | FrozenTimm] = {}
    rows: dict[str, Row] = {one: {"model": name, "precision": precision, "variant": one} for one in variants}

    def failed(variant: str, error: Exception) -> None:
        rows[variant]["error"] = told(error)
        models.pop(variant, None)

    for variant in variants:
        try:
            run = run_of(name, gpu, PRECISIONS[precision] | VARIANTS[variant])
            set_up(run.training)
            with peak_of(rows[variant], shared, device):
                if variant == TIMM:
                    own: Learner | FrozenTimm = FrozenTimm(run, backbone, device)
                else:
                    own = Learner(run, shared, reader, device)
                for _ in range(WARM_CALLS):
                    own.step(batch)
            models[variant] = own
        except Exception as error:
            failed(variant, error)
    for variant, model in models.items() if gpu else ():
        set_up(model.training)
        try:
            rows[variant] |= traced(partial(model.step, batch))
        except Exception as error:  # a profiler that may not look: times are known without it
            rows[variant]["error"] = told(error)

    def in_turn(kind: str, column: str, end: float) -> None:
        found = medians(
            {variant: partial(getattr(model, kind), batch) for variant, model in models.items()},
            device,
            repeats=30,
            untimed=1,
            calls=2 if gpu else 1,
            until=end,
            before=lambda variant: set_up(models[variant].training),
            failed=failed,
        )
        for variant, seconds in found.items():
            rows[variant][column] = round(1000 * seconds, 3)
            if TIMM in found:
                rows[variant][f"{column} / timm"] = round(seconds / found[TIMM], 2)
            if kind == "step":
                rows[variant]["clips/s"] = round(clips / seconds, 1)

    now = time.monotonic()
    in_turn("step", "step, ms", now + 0.7 * (until - now))
    with torch.inference_mode():
        for variant, model in list(models.items()):
            set_up(model.training)
            model.model.eval()
            try:
                for _ in range(WARM_CALLS):
                    model.infer(batch)
            except Exception as error:
                failed(variant, error)
        in_turn("infer", "inference, ms", until)
    for variant, model in models.items():
        if isinstance(model, Learner) and gpu:
            rows[variant]["captured"] = model.captured
    return list(rows.values())


@contextmanager
def peak_of(row: Row, shared: Backbone, device: torch.device) -> Iterator[None]:
    """Note the most memory that is allocated within the block, and of learners with that of the backbone they share."""
    if device.type != "cuda":
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    wait(device)
    allocated = torch.cuda.max_memory_allocated() - before
    if row["variant"] != TIMM:
        allocated += sum(tensor.nbytes for tensor in (*shared.parameters(), *shared.buffers()))
    row["peak, GB"] = round(allocated / 1e9, 2)


def side_by_side(name: str, folder: Path, count: int, gpu: bool, mps: bool) -> Row:
    """Return the clips per second that several processes train together."""
    row: Row = {"processes": count, "MPS": mps}
    folder.mkdir()
    barrier = SPAWN.Barrier(count)
    calls = [(name, folder / str(index), gpu) for index in range(count)]
    try:
        with server(folder) if mps else nullcontext():
            rates = in_processes(train_for_a_while, calls, time.monotonic(), initializer=meet_at, initargs=(barrier,))
        return row | {"clips/s": round(sum(rates), 1), "of the slowest": round(min(rates), 1)}
    except Exception as error:
        return row | {"error": told(error)}


_barrier: Any = None


def meet_at(barrier: Any) -> None:
    """Keep, in a process of the pool, the barrier at which all of them meet."""
    global _barrier
    _barrier = barrier


def train_for_a_while(name: str, folder: Path, gpu: bool) -> float:
    """Train, when all processes are ready, for JOB_SECONDS; return the clips per second."""
    device = torch.device("cuda" if gpu else "cpu")
    run = run_of(name, gpu)
    rng = np.random.default_rng(0)
    try:
        set_up(run.training)
        reader = reader_of(run, folder)
        learner = Learner(run, backbone_of(run), reader, device)

        def epoch() -> Iterator[int]:
            for batch in reader.batches(reader.shuffled(run.training.batch_size, rng), device):
                learner.step(batch)
                yield len(batch)

        for _ in epoch():
            wait(device)
        _barrier.wait(timeout=90)
        started, clips = time.perf_counter(), 0
        while time.perf_counter() < started + JOB_SECONDS:
            clips += sum(epoch())
            wait(device)
        return clips / (time.perf_counter() - started)
    except BaseException:
        _barrier.abort()  # nobody needs to wait for this one
        raise


def mps_is_offered() -> bool:
    """Return whether the driver came with the multi-process service, and no one runs one already."""
    return shutil.which("nvidia-cuda-mps-control") is not None and "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Run the multi-process service for the processes that are started in the block."""
    names = {"CUDA_MPS_PIPE_DIRECTORY": str(folder), "CUDA_MPS_LOG_DIRECTORY": str(folder)}
    os.environ.update(names)
    try:
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True, timeout=20, capture_output=True)
        try:
            yield
        finally:
            subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", timeout=20, capture_output=True, check=False)
    finally:
        for name in names:
            del os.environ[name]


def driver() -> str | None:
    """Return what the driver says of itself and the card; None if it says nothing."""
    keys = "name,driver_version,memory.total,clocks.max.sm,power.limit,mig.mode.current,compute_mode"
    try:
        run = subprocess.run(
            ["nvidia-smi", f"--query-gpu={keys}", "--format=csv"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def told(error: BaseException) -> str:
    """Return an error in one line, and print where it came from."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def compared(rows: list[Row]) -> list[Row]:
    """Return each goal whose model and precision were measured, with what the variants reach."""
    goals = []
    for model, precision, column, goal in GOALS:
        measured = [row for row in rows if (row["model"], row.get("precision")) == (model, precision) and column in row]
        if measured:
            goals.append(
                {"model": model, "precision": precision, "of": column, "goal": goal}
                | {row["variant"]: row[column] for row in measured}
            )
    return goals


def say(*words: Any) -> None:
    """Print at once, so that what was measured is known even if the rest never is."""
    print(*words, flush=True)


def say_table(rows: list[Row]) -> None:
    """Print rows; a column that only some of them have is empty in the others."""
    say(f"\n{pandas.DataFrame(rows).astype(object).fillna('').to_markdown(index=False)}")


if __name__ == "__main__":
    main()
