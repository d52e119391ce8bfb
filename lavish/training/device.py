"""The device a step runs on: choice, determinism, precision, memory."""

from __future__ import annotations

import os
import resource

import torch

from lavish.errors import LavishError


def choose(name: str, cpu_threads: int) -> torch.device:
    """Return the device `cpu` or `cuda`; a CPU is held to `cpu_threads` threads."""
    if name == "cuda" and not torch.cuda.is_available():
        raise LavishError("--device cuda, but torch finds no GPU here: run with --resources gpu=0 to train on the CPU")
    torch.set_num_threads(cpu_threads)
    return torch.device(name)


def seed_everything(seed: int, device: torch.device, *, deterministic: bool) -> None:
    """Seed torch and, where asked, demand deterministic algorithms."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Fused attention's backward has no deterministic kernel for every shape on a GPU: there it may only warn. This
        # is `use_deterministic_algorithms` without its import of torch's compiler (lavish/runtime/fast_start.py says why).
        torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the mixed-precision context of `float32`, `bf16` or `fp16`."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "float32")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: of the GPU's memory, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
