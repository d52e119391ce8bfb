"""The exception that is printed as a message instead of a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LavishError(Exception):
    """Bad input from outside: the message names the file or key, what is wrong with it and the remedy."""


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest candidate, or the list of all if none is close."""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (one of: {', '.join(names)})" if names else ""
