"""Names of composed clips and categories, as real data sets have them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from lavish.errors import LavishError

_DASH_EVERY = 16


def video_id(seed: int, split: str, number: int) -> str:
    """Return 11 characters like those of a YouTube id, of which some begin with '-' as theirs do."""
    name = f"{seed}/{split}/{number}"
    characters = base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode()[:11]
    return f"-{characters[1:]}" if number % _DASH_EVERY == 0 else characters


def plain_names(classes: Sequence[str], *, short: bool = False) -> list[str]:
    """Return a name of each class that is one word, fit for paths, tables and questions: ``acoustic_guitar``.

    Args:
        classes: names of any characters.
        short: leave out what follows a comma, as in "striped disc, tone".

    Raises:
        LavishError: a name has no letter, or two have the same ones.
    """
    names: list[str] = []
    for name in classes:
        plain = re.sub(r"\W+", "_", name.partition(",")[0] if short else name).strip("_").lower()
        if not plain or plain in names:
            same = f"is '{plain}' like '{classes[names.index(plain)]}'" if plain else "is empty"
            raise LavishError(f"class '{name}': its name in letters and digits alone {same}: rename its folder")
        names.append(plain)
    return names
