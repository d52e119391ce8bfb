"""Looks for GPUs without importing torch here, which takes seconds: the workflow asks each time it is parsed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

# Made by NVIDIA's driver for each GPU, and what it installs in Linux on Windows.
FILES = (("/dev", "nvidia[0-9]*"), ("/usr/lib/wsl/lib", "nvidia-smi"))


def gpu_is_visible() -> bool:
    """Return whether this machine has an NVIDIA GPU that CUDA_VISIBLE_DEVICES does not hide."""
    visible = re.match(r"\s*(\d|GPU-|MIG-)", os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    return visible is not None and any(any(Path(folder).glob(name)) for folder, name in FILES)


def usable_gpus() -> int:
    """Return how many GPUs torch can use here.

    In a process of its own, so that a long-lived one keeps neither torch nor the driver; on its stderr torch says why
    it cannot use a GPU that is there.
    """
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    return int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout)
