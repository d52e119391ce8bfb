"""Opening pictures: every mode upright and with 8 bits per channel, for frames, masks and assets alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lavish.io.paths import kind_of


class PictureError(ValueError):
    """A picture whose values have no known range. The message is a short reason without paths."""


# What Pillow raises for files that are no pictures, or damaged ones. A wrong length asks for more memory than there is.
UNREADABLE = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)


def open_picture(path: Path, *, keep_faint: bool = False) -> Image.Image:
    """Return a picture, turned and mirrored as its EXIF orientation says, with 8 bits per channel.

    16-bit grey values are divided by 257, so that 65535 becomes 255; of 16-bit colours Pillow keeps the high byte.
    Floating-point values from 0 to 1 are multiplied by 255.

    Args:
        path: the file; its content determines the format, not its name.
        keep_faint: whether grey values that are not zero stay so, because masks may consist of 0 and 1.

    Raises:
        PictureError: floating-point values or 32-bit integers outside these ranges.
        OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError: not a regular file, or not a
            readable picture.
    """
    if kind_of(path) != "file":  # opening a named pipe would wait for ever
        raise OSError("not a regular file")
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    kind, largest = ("floating-point values", 1) if picture.mode == "F" else ("32-bit integers", 65535)
    values = np.asarray(picture, np.float64)
    if not ((values >= 0) & (values <= largest)).all():  # false for values that are no numbers, too
        raise PictureError(f"{kind} outside 0 to {largest}")
    scaled = np.rint(values * (255 / largest))
    return Image.fromarray((np.maximum(scaled, values > 0) if keep_faint else scaled).astype(np.uint8))
