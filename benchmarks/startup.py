"""Processor and wall seconds until a job can begin: with torch's compiler, without it, and forked from the fork server.

python benchmarks/startup.py    (docs/decisions/0003 and 0014; needs the command `lavish` on the path)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from lavish.runtime import fork_client

JOB = """
import lavish.cli.main, lavish.training.jobs, torch
from lavish.models.backbones.build import build_backbone
optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
"""
WITHOUT = "from lavish.runtime.fast_start import without_compiler; without_compiler()\n"

# Parsed by the process of the job, which then has everything that training imports.
FORKED = (
    "import sys; from lavish.runtime.fork_client import hand_over; sys.exit(hand_over(['lavish', 'train', '--help']))"
)


def seconds(code: str, parent: int | None = None, repeats: int = 5) -> str:
    """Return the median user plus system time and wall time over `repeats` processes that run `code`.

    Args:
        code: Python code.
        parent: another process whose ended children are counted: the fork server.
        repeats: number of processes, one after another.
    """
    used, took = [], []
    for _ in range(repeats):
        before, started = _children(os.getpid()) + _children(parent), time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        took.append(time.perf_counter() - started)
        used.append(_children(os.getpid()) + _children(parent) - before)
    return f"{median(used):.2f} s of processor time, {median(took):.2f} s"


def _children(pid: int | None) -> float:
    """Return the processor seconds of a process's ended children."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    os.environ.update({f"{which}_THREADS": "1" for which in fork_client.THREADS})
    print(f"with the compiler:      {seconds(JOB)}")
    print(f"without the compiler:   {seconds(WITHOUT + JOB)}")
    started = time.perf_counter()
    process = fork_client.start()
    if process is None:
        sys.exit("no fork server: it needs Linux and the command `lavish` on the path")
    print(f"fork server ready:      after {time.perf_counter() - started:.2f} s")
    print(f"its first job:           {seconds(FORKED, process.pid, repeats=1)} (waits for the imports)")
    print(f"forked from the server: {seconds(FORKED, process.pid, repeats=20)}")
