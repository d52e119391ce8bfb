"""Processor seconds until a step could begin, with and without torch's compiler (docs/decisions/0003).

python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

STEP = """
import lavish.cli, torch
from lavish.backbones.build import build_backbone
optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
"""
WITHOUT = "from lavish.startup import without_compiler; without_compiler()\n"


def seconds(code: str, repeats: int = 5) -> float:
    """Return the median of user plus system time over `repeats` processes."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(found)


if __name__ == "__main__":
    print(f"with the compiler:    {seconds(STEP):.1f} s")
    print(f"without the compiler: {seconds(WITHOUT + STEP):.1f} s")
