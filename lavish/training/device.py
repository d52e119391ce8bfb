"""The device of a job: choice, determinism, precision, memory."""

from __future__ import annotations

import os
import resource

import torch

from lavish.errors import LavishError


def choose(name: str, cpu_threads: int) -> torch.device:
    """Return the device `cpu` or `cuda`, and limit torch to `cpu_threads` threads on a CPU.

    Raises:
        LavishError: `cuda`, but torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise LavishError("--device cuda, but torch finds no GPU here: run with --resources gpu=0 to train on the CPU")
    torch.set_num_threads(cpu_threads)
    return torch.device(name)


def seed_everything(seed: int, device: torch.device, *, deterministic: bool) -> None:
    """Seed torch and, if `deterministic`, require deterministic algorithms."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # On a GPU it only warns, because the backward pass of fused attention lacks a deterministic kernel for some
        # shapes. This is `use_deterministic_algorithms` without its import of torch's compiler (runtime/fast_start.py).
        torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the mixed-precision context of `float32`, `bf16` or `fp16`."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
