"""Merging of configuration files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A mapping below one of these keys describes one of several alternatives, selected by its tag. If an override selects
# another alternative, it replaces the mapping, because the options of one method do not apply to another.
_TAGS = {
    "adapter": "method",
    "assets": "kind",
    "audio": "model",
    "audio_encoder": "kind",
    "backbone": "model",
    "schedule": "kind",
    "task": "name",
    "visual": "model",
    "weights": "source",
}


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` merged with `override`, mapping by mapping; values of `override` take precedence.

    A mapping that describes one of several alternatives (a method, weights) is replaced instead of merged if the
    override selects another alternative.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _is_another(_TAGS.get(key), old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def with_values(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with other values, by their keys, such as ``training.lr_adapter``."""
    merged = dict(base)
    for key, value in values.items():
        first, _, rest = key.partition(".")
        merged[first] = with_values(merged.get(first, {}), {rest: value}) if rest else value
    return merged


def _is_another(tag: str | None, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return tag is not None and tag in new and tag in old and old[tag] != new[tag]
