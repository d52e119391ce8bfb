"""Compiling a method's modules with ``torch.compile``: fewer, larger kernels on a GPU."""

from __future__ import annotations

from torch import nn

from lavish.errors import LavishError
from lavish.learner.recompute import called_modules

_VARIANTS = 64
"""Shapes of a module that are compiled: widths of a backbone, positions, streams."""


def compile_modules(method: nn.Module) -> None:
    """Compile each module that a method's hooks call, when it is called first. Equal modules are compiled once.

    Raises:
        LavishError: torch has no compiler for GPUs here.
    """
    from torch.utils._triton import has_triton

    if not has_triton():
        raise LavishError(
            "training.compile is true, but Triton, torch's compiler for GPUs, is not installed or finds no GPU: set it "
            "to false, or install a build of torch that has it"
        )
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = _VARIANTS
    torch._inductor.config.fallback_random = True  # the random numbers of modules that are not compiled
    for module in called_modules(method):
        module.forward = torch.compile(module.forward, dynamic=False)
