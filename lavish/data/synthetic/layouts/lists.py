"""Writing the text files that list the clips of a layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lavish.io.atomic import write_text


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines of text, each ended by a line feed."""
    write_text(path, "".join(f"{line}\n" for line in lines))
