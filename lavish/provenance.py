"""The origin of a number: versions of packages, state of the code, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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
    """Return the facts that a measured time depends on."""
    return {"platform": platform.platform(), "processor": _processor(), "argv": sys.argv}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


RECIPE_VERSION = 2
"""Part of every identity: raise it with a change of code that may change numbers, so that everything is made again."""
