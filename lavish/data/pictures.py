"""Pictures of a clip at given times: from a video stream by its timestamps, or from a folder of extracted ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lavish.data.container import Container, MediaError

_SUFFIXES = {".jpg", ".jpeg", ".png"}


class _Picture(NamedTuple):
    packet: int  # number of the packet after which the decoder returned it
    time: float  # seconds from the start of the container
    frame: Any


def video_pictures(
    container: Container, stream: Any, times: Sequence[float], size: int
) -> tuple[np.ndarray, list[bool]]:
    """Decode the picture on screen at each of `times` (ascending, seconds).

    Before the first picture and after the last one, that picture is used. Only groups of pictures that hold one of the
    times are decoded, so a long video costs little more than a short one.

    Returns:
        uint8 (len(times), size, size, 3) RGB, and for each time whether the video is there.

    Raises:
        MediaError: nothing in the stream can be decoded.
    """
    packets = container.packets(stream)
    interval = float(1 / stream.average_rate) if stream.average_rate else 0.0
    keys: list[tuple[float, int]] = []
    end = -math.inf
    if all(packet.pts is not None for packet in packets):
        # From a key packet on, every picture that is shown later can be decoded without what lies before.
        keys = [(container.seconds(packet.pts, packet), n) for n, packet in enumerate(packets) if packet.is_keyframe]
        end = max(
            (container.seconds(packet.pts, packet) + _length(packet, interval) for packet in packets), default=end
        )

    pictures = _decoded(container, stream, 0, interval)
    shown: _Picture | None = None
    ahead = next(pictures, None)
    drawn: list[np.ndarray] = []
    covered = []
    for time in times:
        # The last key packet will do, unless it is damaged and gives no picture in time.
        fed = math.inf if ahead is None else ahead.packet
        for key in [number for start, number in reversed(keys) if start <= time and number > fed]:
            pictures = _decoded(container, stream, key, interval)
            ahead = next(pictures, None)
            if ahead is not None and ahead.time <= time:
                break
        before = shown
        while ahead is not None and (shown is None or ahead.time <= time):
            shown, ahead = ahead, next(pictures, None)
        if shown is None:
            raise MediaError(f"no decodable picture in {container.name}")
        drawn.append(drawn[-1] if shown is before else _draw(container, stream, shown.frame, size))
        last = end if keys else shown.time + interval
        covered.append(shown.time <= time and (ahead is not None or time < last))
    return np.stack(drawn), covered


def folder_pictures(folder: Path, times: Sequence[float], duration: float, size: int) -> tuple[np.ndarray, list[bool]]:
    """Read the pictures on screen at `times` from a folder of pictures that are evenly spaced over `duration` seconds.

    The pictures are in the order of the numbers that their names end with. With fewer pictures than times, some are
    repeated.

    Returns:
        uint8 (len(times), size, size, 3) RGB, and for each time whether it has a picture of its own.

    Raises:
        MediaError: no picture in the folder, or one that is needed cannot be decoded.
    """
    paths = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    paths.sort(key=lambda path: (_number(path.stem), path.name))
    if not paths:
        raise MediaError(f"no picture in {folder.name}")
    numbers = [min(len(paths) - 1, int(time / duration * len(paths))) for time in times]
    drawn = {number: _read(paths[number], size) for number in dict.fromkeys(numbers)}
    own = [number != before for number, before in zip(numbers, [-1, *numbers], strict=False)]
    return np.stack([drawn[number] for number in numbers]), own


def step_pictures(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[bool]]:
    """Read the pictures of steps that each have a file of their own.

    A step without one gets that of the nearest step that has one, of two the earlier.

    Returns:
        uint8 (len(paths), size, size, 3) RGB, and for each step whether it has a picture of its own.

    Raises:
        MediaError: no step has a picture, or one cannot be decoded.
    """
    drawn = {step: _read(path, size) for step, path in enumerate(paths) if path is not None}
    if not drawn:
        raise MediaError("no step has a picture")
    nearest = [min(drawn, key=lambda other: (abs(other - step), other)) for step in range(len(paths))]
    return np.stack([drawn[step] for step in nearest]), [step in drawn for step in range(len(paths))]


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _resize(ImageOps.exif_transpose(image).convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise MediaError(f"undecodable picture {path.parent.name}/{path.name}") from None


def _number(stem: str) -> float:
    """Return the number that a picture's name ends with; those without one come last."""
    digits = re.search(r"[0-9]+$", stem)
    return int(digits[0]) if digits else math.inf


def _decoded(container: Container, stream: Any, first: int, interval: float) -> Iterator[_Picture]:
    for count, (packet, frame) in enumerate(container.decode(stream, first)):
        if frame.pts is not None:
            yield _Picture(packet, container.seconds(frame.pts, stream), frame)
        elif interval > 0:
            yield _Picture(packet, count * interval, frame)
        else:
            raise MediaError(f"no timestamps in {container.name}")


def _length(packet: Any, interval: float) -> float:
    return float(packet.duration * packet.time_base) if packet.duration else interval


def _draw(container: Container, stream: Any, frame: Any, size: int) -> np.ndarray:
    if frame.is_corrupt:
        container.damaged.add(stream.index)
    picture = frame.to_ndarray(format="rgb24", threads=1)
    # The display matrix turns counterclockwise; anything but a multiple of 90 degrees is not a camera's rotation.
    picture = np.rot90(picture, k=round(frame.rotation / 90) % 4)
    return _resize(Image.fromarray(np.ascontiguousarray(picture)), size)


def _resize(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
