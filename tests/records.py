"""What records say that differs between two equal runs."""

from __future__ import annotations

from typing import Any

# Keys that say when, and how fast, something was made.
VOLATILE = {"finished", "job_seconds", "wall_seconds", "step_seconds_median", "peak_memory_bytes"}


def steady(value: Any) -> Any:
    """Return JSON values without the volatile keys, however deep."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if key not in VOLATILE}
    return value
