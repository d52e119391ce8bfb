"""The device of a job: choice, determinism, precision, memory."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout, UnixFileLock

from lavish.errors import LavishError

_held: list[UnixFileLock] = []
"""Shares of GPUs that this process has taken; the kernel releases them when it ends, even if it is killed."""


def choose(name: str, cpu_threads: int, jobs_per_gpu: int = 1) -> torch.device:
    """Return the device `cpu` or `cuda`, and limit torch to `cpu_threads` threads on a CPU.

    Of several GPUs a process takes a free one, or a share of one (:func:`take_gpu`); what Slurm gives to its job it
    takes as it is.

    Raises:
        LavishError: `cuda`, but torch finds no GPU.
    """
    torch.set_num_threads(cpu_threads)
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise LavishError("--device cuda, but torch finds no GPU here: run with `--config device=cpu` or --device cpu")
    index = 0
    if "SLURM_JOB_ID" not in os.environ:
        gpus = [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in range(torch.cuda.device_count())]
        # One folder for all workflows of a user on this machine.
        index = take_gpu(gpus, jobs_per_gpu, Path(tempfile.gettempdir(), f"lavish-gpus-{os.getuid()}"))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def take_gpu(gpus: Sequence[str], jobs_per_gpu: int, folder: Path) -> int:
    """Take a share of a GPU until this process ends; wait while all are taken.

    Args:
        gpus: names of the GPUs that the process sees, the same in every process.
        jobs_per_gpu: number of shares of each GPU. Second shares are only taken when every GPU is in use.
        folder: where processes lock the shares.

    Returns:
        The index of the GPU.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waited = False
    while True:
        for share in range(jobs_per_gpu):
            for index, gpu in enumerate(gpus):
                lock = UnixFileLock(folder / f"{gpu}.{share}.lock")
                with suppress(Timeout):
                    lock.acquire(blocking=False)
                    _held.append(lock)
                    return index
        if not waited:
            print(f"all shares of the {len(gpus)} GPUs are taken: waiting for one", file=sys.stderr)
            waited = True
        time.sleep(0.5)


def seed_everything(seed: int, device: torch.device, *, deterministic: bool) -> None:
    """Seed torch and, if `deterministic`, require deterministic algorithms."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # On a GPU it only warns, because the backward pass of fused attention lacks a deterministic kernel for some
        # shapes. This is `use_deterministic_algorithms` without its import of torch's compiler (runtime/fast_start.py).
        torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")
        # Nothing reads memory before it is written, and filling it takes a thousand operations a step.
        torch.utils.deterministic.fill_uninitialized_memory = False


_NOT_DETERMINISTIC = re.compile(
    r"(.+?) (?:does not have a deterministic implementation|defaults to a non-deterministic algorithm)"
)


@contextmanager
def nondeterministic_operators() -> Iterator[set[str]]:
    """Yield a set that collects the operators which torch warns of as not deterministic until the block ends."""
    found: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def collect(message: Warning | str, *arguments: Any, **options: Any) -> None:
            if match := _NOT_DETERMINISTIC.match(str(message)):
                found.add(match[1])
            else:
                show(message, *arguments, **options)

        warnings.showwarning = collect
        # Each time, since one warning is shown only once for a place in the code.
        warnings.filterwarnings("always", message=_NOT_DETERMINISTIC.pattern)
        yield found


def gpu_facts(device: torch.device) -> dict[str, Any] | None:
    """Return what the numbers of a GPU depend on: its name and capability, CUDA and cuDNN; None on a CPU."""
    if device.type != "cuda":
        return None
    return {
        "name": torch.cuda.get_device_name(device),
        "capability": list(torch.cuda.get_device_capability(device)),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the mixed-precision context of `float32`, `bf16` or `fp16`."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
