"""Pictures of a clip at given times: from a video stream by its timestamps, or from a folder of extracted ones."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from lavish.data.decoding.container import Container, MediaError

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

    The numbers that their names end with tell their places, at whatever interval: a number that is missing between
    others shifts none, the picture before it stays on screen. Pictures without a number do not count. With fewer
    pictures than times, some are repeated.

    Returns:
        uint8 (len(times), size, size, 3) RGB, and for each time whether it has a picture of its own.

    Raises:
        MediaError: no picture in the folder is numbered, two are that cannot belong to one clip (names that differ in
            more than the number, or the same number twice), or one that is needed cannot be decoded.
    """
    paths = _numbered(folder)
    numbers = sorted(paths)
    interval = min((after - before for before, after in pairwise(numbers)), default=1)
    span = numbers[-1] - numbers[0] + interval
    # Of each time, the last picture whose number has been reached; the first one's has been from the start.
    places = [number - numbers[0] for number in numbers]
    shown = [numbers[bisect_right(places, time / duration * span) - 1] for time in times]
    drawn = {number: _read(paths[number], size) for number in dict.fromkeys(shown)}
    own = [number != before for number, before in zip(shown, [None, *shown], strict=False)]
    return np.stack([drawn[number] for number in shown]), own


def segment_images(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[bool]]:
    """Read the pictures of segments that each have a file of their own.

    A segment without one gets that of the nearest segment that has one, of two the earlier.

    Returns:
        uint8 (len(paths), size, size, 3) RGB, and for each segment whether it has a picture of its own.

    Raises:
        MediaError: no segment has a picture, or one cannot be decoded.
    """
    drawn = {segment: _read(path, size) for segment, path in enumerate(paths) if path is not None}
    if not drawn:
        raise MediaError("no segment has a picture")
    nearest = [min(drawn, key=lambda other: (abs(other - segment), other)) for segment in range(len(paths))]
    return np.stack([drawn[segment] for segment in nearest]), [segment in drawn for segment in range(len(paths))]


def _read(path: Path, size: int) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return _resize(ImageOps.exif_transpose(image).convert("RGB"), size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise MediaError(f"undecodable picture {path.parent.name}/{path.name}") from None


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the pictures of a clip by the numbers that their names end with; see :func:`folder_pictures`."""
    found: dict[int, Path] = {}
    series: tuple[str, Path] | None = None
    for path in sorted(folder.iterdir()):
        name = re.fullmatch(r"(.*?)([0-9]+)", path.stem)
        # What begins with a point is hidden: macOS leaves such a twin of each file on foreign disks.
        if name is None or path.name.startswith(".") or path.suffix.lower() not in _SUFFIXES:
            continue
        series = series or (name[1], path)
        other = series[1] if name[1] != series[0] else found.get(int(name[2]))
        if other is not None:
            raise MediaError(f"more than one series of pictures in {folder.name}: {other.name} and {path.name}")
        found[int(name[2])] = path
    if not found:
        raise MediaError(f"no numbered picture in {folder.name}")
    return found


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
