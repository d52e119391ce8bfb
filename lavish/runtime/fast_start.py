"""Fast start of a job: torch without its compiler.

Importing timm imports torchvision's operators, and building an optimizer enters torch's decorators; either imports
``torch._dynamo``, and with it sympy: 2.5 s of the 6 s that a job needs to start (torch 2.11 on two cores, measured by
``benchmarks/startup.py``). A table is made of a hundred jobs, and none of them compiles anything.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def without_compiler() -> None:
    """Replace ``torch._dynamo`` in this process by the three functions that eager code calls.

    Only for the commands of this package and only on a CPU: a program that imports the library keeps torch unchanged.
    Does nothing if the compiler has been imported already. ``torch.compile`` cannot be used before
    :func:`with_compiler`.
    """
    if "torch._dynamo" in sys.modules:
        return
    compiler, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    compiler.__dict__.update(__path__=[], disable=_as_it_is, graph_break=_nothing, utils=utils)
    utils.__dict__.update(is_compile_supported=_never)
    sys.modules |= {compiler.__name__: compiler, utils.__name__: utils}


def with_compiler() -> None:
    """Take :func:`without_compiler` back: for a job on a GPU that was forked from a process without the compiler."""
    for name in ("torch._dynamo", "torch._dynamo.utils"):
        if name in sys.modules and sys.modules[name].__spec__ is None:  # the real ones were found by the importer
            del sys.modules[name]


def _as_it_is(function: Any, *_: Any, **__: Any) -> Any:
    """``disable`` for code that is never compiled."""
    return function


def _nothing() -> None:
    """``graph_break`` for code that is never compiled."""


def _never(device: str) -> bool:  # noqa: ARG001
    """Whether operators may use the compiler on a device."""
    return False
