"""Names of composed clips and categories, similar to those of real data sets."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from lavish.errors import LavishError

_DASH_EVERY = 16


def video_id(seed: int, split: str, number: int) -> str:
    """Return 11 characters like a YouTube id; as among real ids, some begin with '-'."""
    name = f"{seed}/{split}/{number}"
    characters = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()[:11]
    return f"-{characters[1:]}" if number % _DASH_EVERY == 0 else characters


def plain_names(classes: Sequence[str], *, short: bool = False) -> list[str]:
    """Return one-word class names that can be used in paths, tables and questions: ``acoustic_guitar``.

    Args:
        classes: names with any characters.
        short: drop the part after a comma, as in "striped disc, tone".

    Raises:
        LavishError: a name has no letter or digit, or two names become equal.
    """
    names: list[str] = []
    for name in classes:
        plain = re.sub(r"\W+", "_", name.partition(",")[0] if short else name).strip("_").lower()
        if not plain or plain in names:
            problem = f"is '{plain}', as for '{classes[names.index(plain)]}'" if plain else "is empty"
            raise LavishError(f"class '{name}': its name reduced to letters and digits {problem}: rename its folder")
        names.append(plain)
    return names
