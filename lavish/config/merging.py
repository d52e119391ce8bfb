"""How one configuration file is laid over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A mapping below one of these keys is one of several alternatives, and the tag says which. When an override names
# another alternative, the mapping is replaced instead of merged: the options of one adapter mean nothing to the next.
_TAGS = {
    "adapter": "method",
    "assets": "kind",
    "audio_encoder": "kind",
    "backbone": "model",
    "schedule": "kind",
    "task": "name",
    "weights": "source",
}


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `override` laid over it, mapping by mapping.

    A mapping that describes one of several alternatives (an adapter, weights) is replaced, not merged, where the
    override names another alternative.
    """
    merged = dict(base)
    for key, value in override.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _is_another(_TAGS.get(key), old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _is_another(tag: str | None, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return tag is not None and tag in new and tag in old and old[tag] != new[tag]
