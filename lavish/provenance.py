"""The origin of a number: versions of packages, state of the code, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lavish.runtime.cpu_dispatch import VARIABLES

_PACKAGES = (
    "lavish", "torch", "torchaudio", "torchvision", "timm", "safetensors", "numpy", "av", "pillow", "fvcore", "scipy",
    "pandas", "pyarrow", "snakemake",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path = Path(__file__).parent) -> dict[str, Any] | None:
    """Return commit and dirty flag of the code's repository, or None outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def machine() -> dict[str, Any]:
    """Return the facts that a measured time and, on a CPU, the last digits of a number depend on."""
    return {
        "platform": platform.platform(),
        "processor": _cpuinfo("model name") or platform.processor(),
        "cpu_flags": _cpuinfo("flags"),
        "caches": _caches(),
        "cpu_dispatch": cpu_dispatch(),
        "argv": sys.argv,
    }


def cpu_dispatch() -> dict[str, Any]:
    """Return what limits the choice of kernels on a CPU, and the level that torch, if it is loaded, has chosen."""
    limits: dict[str, Any] = {name: os.environ.get(name) for name in VARIABLES}
    torch = sys.modules.get("torch")
    return {**limits, "torch": torch and torch.backends.cpu.get_cpu_capability()}


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def _caches() -> dict[str, str]:
    """Return the sizes of the first processor's caches, by which libraries divide their work; empty if unknown."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        with suppress(OSError):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            found[f"L{level} {kind.lower()}"] = size
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


RECIPE_VERSION = 4
"""Part of every identity: raise it with a change of code that may change numbers, so that everything is made again."""
