"""The registry of data formats: from the name of an official layout (`data.format`) to its reader.

A format is a module of this package with the functions of :class:`lavish.data.formats.base.Reader`. It only reads text
files and returns paths of media files; decoding is the same for all formats (:mod:`lavish.data.decoding.media`).
"""

from __future__ import annotations

import importlib
from typing import cast

from lavish.data.formats.base import Reader
from lavish.errors import LavishError, did_you_mean

_MODULES = {
    "actions": "lavish.data.formats.actions",
    "ave": "lavish.data.formats.ave",
    "avsbench_s4": "lavish.data.formats.avsbench_s4",
    "avsbench_ms3": "lavish.data.formats.avsbench_ms3",
    "music_avqa": "lavish.data.formats.music_avqa",
}


def reader(name: str) -> Reader:
    """Return the reader of a format."""
    if name not in _MODULES:
        raise LavishError(f"data.format: unknown format '{name}'{did_you_mean(name, _MODULES)}")
    return cast(Reader, importlib.import_module(_MODULES[name]))
