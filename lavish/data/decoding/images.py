"""Frames of a clip at given times: from a video stream by its timestamps, or from a folder of extracted images."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from PIL import Image

from lavish.data.decoding.container import Container, MediaError
from lavish.data.decoding.pictures import UNREADABLE, PictureError, open_picture
from lavish.data.formats.base import PICTURES


class _Frame(NamedTuple):
    packet: int  # number of the packet after which the decoder returned it
    time: float  # seconds from the start of the container
    frame: Any


def decode_video_frames(
    container: Container, stream: Any, times: Sequence[float], size: int
) -> tuple[np.ndarray, list[bool]]:
    """Decode the frame on screen at each of `times` (ascending, seconds).

    Times before the first frame or after the last one get that frame. Only groups of pictures (GOPs) that contain one
    of the times are decoded, so a long video takes little more time than a short one.

    Returns:
        uint8 (len(times), size, size, 3) RGB, and for each time whether the video covers it.

    Raises:
        MediaError: nothing in the stream can be decoded.
    """
    packets = container.packets(stream)
    lengths = (_length(packet, 0.0) for packet in packets)
    interval = float(1 / stream.average_rate) if stream.average_rate else next(filter(None, lengths), 0.0)
    keys: list[tuple[float, int]] = []
    end = -math.inf
    if all(packet.pts is not None for packet in packets):
        # From a key packet on, all frames with later timestamps can be decoded without earlier packets.
        keys = [(container.seconds(packet.pts, packet), n) for n, packet in enumerate(packets) if packet.is_keyframe]
        end = max(
            (container.seconds(packet.pts, packet) + _length(packet, interval) for packet in packets), default=end
        )

    frames = _decode(container, stream, 0, interval)
    current: _Frame | None = None
    ahead = next(frames, None)
    images: list[np.ndarray] = []
    covered = []
    for time in times:
        # Seek to the last key packet; to the one before if it is damaged and gives no frame in time.
        fed = math.inf if ahead is None else ahead.packet
        for key in [number for start, number in reversed(keys) if start <= time and number > fed]:
            frames = _decode(container, stream, key, interval)
            ahead = next(frames, None)
            if ahead is not None and ahead.time <= time:
                break
        before = current
        while ahead is not None and (current is None or ahead.time <= time):
            current, ahead = ahead, next(frames, None)
        if current is None:
            raise MediaError(f"no decodable frame in {container.name}")
        images.append(images[-1] if current is before else _to_image(container, stream, current.frame, size))
        last = end if keys else current.time + interval
        covered.append(current.time <= time and (ahead is not None or time < last))
    return np.stack(images), covered


def read_folder_frames(
    folder: Path, times: Sequence[float], duration: float, size: int
) -> tuple[np.ndarray, list[bool]]:
    """Read the frames at `times` from a folder of images that are evenly spaced over `duration` seconds.

    The number at the end of a name determines its time, at any frame rate: a missing number does not shift the others,
    and the frame before it is shown instead. Images without a number are ignored. With fewer images than times, some
    are repeated.

    Returns:
        uint8 (len(times), size, size, 3) RGB, and for each time whether it has an image of its own.

    Raises:
        MediaError: no image in the folder is numbered; two of them cannot belong to one clip (names that differ in more
            than the number, or the same number twice); or a required image cannot be decoded.
    """
    paths = _numbered(folder)
    numbers = sorted(paths)
    interval = min((after - before for before, after in pairwise(numbers)), default=1)
    span = numbers[-1] - numbers[0] + interval
    # For each time, the last image whose number has been reached; that of the first is reached from the start.
    offsets = [number - numbers[0] for number in numbers]
    current = [numbers[bisect_right(offsets, time / duration * span) - 1] for time in times]
    images = {number: _read(paths[number], size) for number in dict.fromkeys(current)}
    own = [number != before for number, before in zip(current, [None, *current], strict=False)]
    return np.stack([images[number] for number in current]), own


def read_segment_frames(paths: Sequence[Path | None], size: int) -> tuple[np.ndarray, list[bool]]:
    """Read one image file per segment.

    A segment without an image gets that of the nearest segment with one; of two equally near, the earlier one.

    Returns:
        uint8 (len(paths), size, size, 3) RGB, and for each segment whether it has an image of its own.

    Raises:
        MediaError: no segment has an image, or one cannot be decoded.
    """
    images = {segment: _read(path, size) for segment, path in enumerate(paths) if path is not None}
    if not images:
        raise MediaError("no segment has an image")
    nearest = [min(images, key=lambda other: (abs(other - segment), other)) for segment in range(len(paths))]
    return np.stack([images[segment] for segment in nearest]), [segment in images for segment in range(len(paths))]


def _read(path: Path, size: int) -> np.ndarray:
    try:
        return _resize(open_picture(path).convert("RGB"), size)
    except UNREADABLE as error:
        reason = f": {error}" if isinstance(error, PictureError) else ""
        raise MediaError(f"undecodable image {path.parent.name}/{path.name}{reason}") from None


def _numbered(folder: Path) -> dict[int, Path]:
    """Return the images of a clip by the numbers at the end of their names; see :func:`read_folder_frames`."""
    found: dict[int, Path] = {}
    series: tuple[str, Path] | None = None
    for path in sorted(folder.iterdir()):
        name = re.fullmatch(r"(.*?)([0-9]+)", path.stem)
        # Hidden files are skipped: macOS creates one beside each file on foreign disks.
        if name is None or path.name.startswith(".") or path.suffix.lower() not in PICTURES:
            continue
        series = series or (name[1], path)
        other = series[1] if name[1] != series[0] else found.get(int(name[2]))
        if other is not None:
            raise MediaError(f"more than one series of images in {folder.name}: {other.name} and {path.name}")
        found[int(name[2])] = path
    if not found:
        raise MediaError(f"no numbered image in {folder.name}")
    return found


def _decode(container: Container, stream: Any, first: int, interval: float) -> Iterator[_Frame]:
    following = 0.0
    for packet, frame in container.decode(stream, first):
        if frame.pts is None and interval == 0:
            raise MediaError(f"no timestamps in {container.name}")
        time = following if frame.pts is None else container.seconds(frame.pts, stream)
        yield _Frame(packet, time, frame)
        following = time + interval


def _length(packet: Any, interval: float) -> float:
    return float(packet.duration * packet.time_base) if packet.duration else interval


def _to_image(container: Container, stream: Any, frame: Any, size: int) -> np.ndarray:
    if frame.is_corrupt:
        container.damaged.add(stream.index)
    pixels = frame.to_ndarray(format="rgb24", threads=1)
    return _resize(Image.fromarray(np.ascontiguousarray(_upright(frame, pixels))), size)


def _upright(frame: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the pixels turned and mirrored as the display matrix says; cameras only write multiples of 90 degrees.

    The matrix (a b u; c d v; x y w) moves the pixel (x, y) to (a x + c y, b x + d y), up to a shift.
    """
    if Type.DISPLAYMATRIX not in frame.side_data:
        return pixels
    a, b, _, c, d = np.frombuffer(frame.side_data[Type.DISPLAYMATRIX], np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _resize(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
