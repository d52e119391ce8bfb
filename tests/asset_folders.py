"""Writes the folders of images and sounds from which tests compose data sets."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.media_files import tone, write_media

RATE = 8000


def write_image(path: Path, colour: tuple[int, int, int, int] = (200, 30, 30, 255), mode: str = "RGBA") -> None:
    """Write an ellipse on a transparent background."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (40, 30))
    ImageDraw.Draw(image).ellipse((8, 5, 31, 24), fill=colour)
    image.convert(mode).save(path)


def write_class(root: Path, name: str, files: int = 3) -> None:
    """Write the folder of a class with as many images and sounds."""
    for index in range(files):
        write_image(root / name / "images" / f"picture{index}.png", (60 * index, 30, 200, 255))
        (root / name / "sounds").mkdir(parents=True, exist_ok=True)
        write_media(
            root / name / "sounds" / f"sound{index}.wav",
            times=None,
            audio=tone(0.3, RATE, 300.0 * (index + 1)),
            rate=RATE,
            audio_codec="pcm_s16le",
            audio_format="s16",
        )
