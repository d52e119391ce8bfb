"""The instructions that libraries choose their kernels for on a CPU.

oneDNN, MKL, OpenBLAS and torch's own kernels look at the processor and choose: AVX-512 on one machine, AVX2 on another.
Sums are then added in another order, and trainings end with other numbers. The command `lavish` therefore limits all of
them to AVX2, which almost every x86 processor has, before any of them is loaded. ``training.cpu_dispatch: native``
lifts the limit for a run. The settings do nothing on other processors. Standard library only: called before everything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

VARIABLE = "LAVISH_CPU_DISPATCH"
"""The level of this process and of those it starts: `avx2` unless it says `native`."""

_AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
VARIABLES = tuple(_AVX2)
"""What the libraries read."""


def limit(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables for the level of this process, whatever the shell has set them to; nothing for `native`."""
    if environ.get(VARIABLE) != "native":
        environ.update(_AVX2)


def require(level: str) -> None:
    """Start this command anew with another level if the process has not the one that its run asks for.

    The libraries read their variables once, so the level of a process that has loaded them cannot be changed.
    """
    if os.environ.get(VARIABLE, "avx2") == level:
        return
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", "lavish", *sys.argv[1:]], {**environment, VARIABLE: level})  # noqa: S606
