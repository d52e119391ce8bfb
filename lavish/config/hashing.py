"""The canonical JSON text of configuration values, and hashes of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical_json(values: Any) -> str:
    """Return `values` as JSON with sorted keys and without spaces."""
    if isinstance(values, BaseModel):
        values = values.model_dump(mode="json")
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(*parts: Any) -> str:
    """Return the first 8 hexadecimal digits of the sha256 over the canonical JSON of `parts`."""
    return hashlib.sha256(canonical_json([json.loads(canonical_json(part)) for part in parts]).encode()).hexdigest()[:8]
