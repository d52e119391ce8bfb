"""Fast start of a step: torch without its compiler.

Importing timm imports torchvision's operators, and building an optimizer enters torch's decorators; either imports
``torch._dynamo``, and with it sympy: 2.5 s of the 6 s that a step needs to start (torch 2.11 on two cores, measured by
``benchmarks/startup.py``). A table is made of a hundred steps, and none of them compiles anything.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def without_compiler() -> None:
    """Stand in for ``torch._dynamo`` in this process with the three functions that eager code calls.

    For the commands of this package only, and on a CPU only: an importer of the library keeps torch as it is. Does
    nothing where the compiler has been imported already. ``torch.compile`` cannot be used afterwards.
    """
    if "torch._dynamo" in sys.modules:
        return
    compiler, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    compiler.__dict__.update(__path__=[], disable=_as_it_is, graph_break=_nothing, utils=utils)
    utils.__dict__.update(is_compile_supported=_never)
    sys.modules |= {compiler.__name__: compiler, utils.__name__: utils}


def _as_it_is(function: Any, *_: Any, **__: Any) -> Any:
    """What ``disable`` means to code that is never compiled."""
    return function


def _nothing() -> None:
    """What ``graph_break`` means to code that is never compiled."""


def _never(device: str) -> bool:  # noqa: ARG001
    """Whether operators may use the compiler on a device."""
    return False
