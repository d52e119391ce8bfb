"""The device of a job: choice, determinism, precision, memory."""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import Timeout, UnixFileLock

from lavish.errors import LavishError

if TYPE_CHECKING:
    from lavish.config.schema import TrainingConfig
    from lavish.learner.model import EncoderModel

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STATUS = Path("/proc/self/status")
_held: dict[int, UnixFileLock] = {}
"""The GPU of this process, and its share of it; the kernel releases it when the process ends, even if it is killed."""


def choose(name: str, cpu_threads: int, jobs_per_gpu: int = 1, *, tf32: bool = False) -> torch.device:
    """Return the device `cpu` or `cuda`, limit torch to `cpu_threads` threads on a CPU, and allow or forbid TF32.

    Of several GPUs a process takes a free one, or a share of one (:func:`take_gpu`); what Slurm gives to its job it
    takes as it is.

    Raises:
        LavishError: `cuda`, but torch finds no GPU.
    """
    torch.set_num_threads(cpu_threads)
    backends: Any = torch.backends  # torch's stubs lack these
    for products in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        products.fp32_precision = "tf32" if tf32 else "ieee"
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
    """Take a share of a GPU until this process ends, or return the one that it has; wait while all are taken.

    Args:
        gpus: names of the GPUs that the process sees, the same in every process.
        jobs_per_gpu: number of shares of each GPU. Second shares are only taken when every GPU is in use.
        folder: where processes lock the shares.

    Returns:
        The index of the GPU.
    """
    if _held:
        return next(iter(_held))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    waited = False
    while True:
        for share in range(jobs_per_gpu):
            for index, gpu in enumerate(gpus):
                lock = UnixFileLock(folder / f"{gpu}.{share}.lock")
                with suppress(Timeout):
                    lock.acquire(blocking=False)
                    _held[index] = lock
                    return index
        if not waited:
            print(f"all shares of the {len(gpus)} GPUs are taken: waiting for one", file=sys.stderr)
            waited = True
        time.sleep(0.5)


def seed_everything(seed: int, *, deterministic: bool) -> None:
    """Seed torch and, if `deterministic`, allow deterministic algorithms only, on a GPU as well."""
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # This is `use_deterministic_algorithms` without its import of torch's compiler (runtime/fast_start.py). It only
        # refuses what has no deterministic kernel; a mere warning would also choose fused attention's other backward.
        torch.set_deterministic_debug_mode("error")
        # Nothing reads memory before it is written, and filling it takes a thousand operations a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def refused_operators_named() -> Iterator[None]:
    """Turn torch's error about an operator without a deterministic form into one that says what to set."""
    try:
        yield
    except RuntimeError as error:
        if not (found := _NOT_DETERMINISTIC.match(str(error))):
            raise
        raise LavishError(
            f"training.deterministic is true, but torch has no deterministic form of {found[1]} here: set it to false, "
            "and repeats may differ, or use another operator"
        ) from error


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
    return torch.autocast(device.type, dtype=_DTYPES[precision], enabled=precision != "float32")


def check_device(device: torch.device, options: TrainingConfig) -> None:
    """Raise LavishError for settings that are not for the device; say so if it has no fast kernels for a precision."""
    if device.type != "cpu":
        return
    if options.compile:
        raise LavishError("training.compile is for GPUs, and this is a CPU: set it to false")
    if options.precision == "fp16":
        raise LavishError("training.precision: fp16 is for GPUs, and this is a CPU: use bf16 or float32")
    if options.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        print(
            "training.precision: bf16 is slower than float32 here, because the processor has no bf16 instructions "
            "(avx512_bf16 or amx_bf16 in /proc/cpuinfo), or training.cpu_dispatch is 'avx2': set it to 'native', or "
            "use float32",
            file=sys.stderr,
        )


def place(model: EncoderModel, device: torch.device, precision: str) -> None:
    """Move a model to its device and, for mixed precision, store the frozen weights of matrix products in it."""
    model.to(device)
    if device.type == "cuda":  # as the frames are, so that the patch embedding copies neither
        for backbone in set(model.encoder.backbones.values()):
            backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    if precision != "float32":
        for backbone in set(model.encoder.backbones.values()):
            backbone.cast_products(_DTYPES[precision])


@contextmanager
def memory_errors_explained(options: TrainingConfig, jobs_per_gpu: int, *, backward: bool) -> Iterator[None]:
    """Turn torch's error that the memory of the GPU is used up into one that says what would need less.

    Args:
        options: those of the run.
        jobs_per_gpu: jobs that may share the GPU.
        backward: whether the block trains, and does not only evaluate.

    Raises:
        LavishError: with the peak, the limit, and the settings that are left to change.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info()
        limit = total * torch.cuda.get_per_process_memory_fraction()
        others = max(0, total - free - torch.cuda.memory_reserved())
        asked = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        remedies = _memory_savings(options, backward=backward)
        if jobs_per_gpu > 1:
            remedies.insert(0, f"a smaller jobs_per_gpu than {jobs_per_gpu} (the same numbers)")
        peak = _gib(torch.cuda.max_memory_allocated())
        raise LavishError(
            f"a batch of {options.batch_size} does not fit on the GPU: at most {peak} were allocated"
            f"{f' and {asked[1]} more asked for' if asked else ''}, of {_gib(limit)}; other processes and CUDA itself "
            f"hold {_gib(others)}. "
            + (f"What needs less: {'; '.join(remedies)}" if remedies else "No setting needs less: take a larger GPU")
        ) from None


def _memory_savings(options: TrainingConfig, *, backward: bool) -> list[str]:
    """Return the changes to a run that save memory and are not made yet, those that change its numbers last."""
    found = []
    recompute = {"none": "adapters` or `blocks", "adapters": "blocks"}.get(options.recompute)
    if backward and recompute is not None:
        found.append(f"`training.recompute: {recompute}` (the same numbers, longer steps)")
    if options.batch_size > 1:
        parts = options.batch_size if options.batch_size % 2 else 2  # equal ones, so that each weighs the same
        smaller = f"`training.batch_size: {options.batch_size // parts}`"
        found.append(
            f"{smaller} with `accumulate: {options.accumulate * parts}` (the same gradient, except through batch norms)"
        )
    if options.precision == "float32":
        found.append("`training.precision: bf16` (other numbers)")
    return found


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def mark(device: torch.device) -> Any:
    """Return the time: of a GPU as an event in its queue, so that nothing waits for it."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Return the seconds between two results of :func:`mark`; a GPU must have reached the second one."""
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: allocated on the GPU, or resident on a CPU.

    On Linux it is that of this process's own memory. `ru_maxrss` would begin at that of the process that started it,
    which may be larger.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    # Bytes on macOS, KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
