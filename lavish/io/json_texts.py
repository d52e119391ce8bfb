"""Reading JSON texts that the package has not written itself."""

from __future__ import annotations

import json
import re
from typing import Any

from lavish.errors import LavishError


def parse_json(text: str, where: str) -> Any:
    """Return the content of JSON text; `where` is its name in messages.

    Raises:
        LavishError: a key is there twice, which json.loads would pass over.
        ValueError: not JSON, or nested too deeply.
    """
    repeated = False

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated = repeated or len(found) < len(pairs)
        return found

    try:
        content = json.loads(text, object_pairs_hook=mapping)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if repeated:
        raise _twice(text, where)
    return content


def _twice(text: str, where: str) -> LavishError:
    """Return the error for the first key of valid JSON text that an object has twice."""
    objects: list[set[str]] = []
    for match in re.finditer(r'[{}]|("(?:[^"\\]|\\.)*")(\s*:)?', text):
        if match[0] == "{":
            objects.append(set())
        elif match[0] == "}":
            objects.pop()
        elif match[2]:
            key = json.loads(match[1])
            if key in objects[-1]:
                break
            objects[-1].add(key)
    line = text.count("\n", 0, match.start()) + 1
    return LavishError(f"{where}, line {line}: key '{key}' is there twice: remove one")
