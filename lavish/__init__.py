"""A reproducible benchmark and ablation harness for parameter-efficient audio-visual learners.

The public API is the names in `__all__`. They are imported on first use, so that importing the package is cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lavish.api import available_methods, available_tasks, build_encoder, compare, count_cost, load_results

__version__ = "0.1.0"

__all__ = ["available_methods", "available_tasks", "build_encoder", "compare", "count_cost", "load_results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lavish' has no attribute {name!r}")
    from lavish import api

    return getattr(api, name)
