"""Decoding the pictures and the sound of a clip: PyAV for media files, Pillow for extracted pictures.

The pictures are those on screen at the centre of each segment, turned as their display matrix says and resized (bicubic)
to a square without cropping, as published practice does. (LAVISH takes the first and the last picture and eight between
them; the centre keeps every picture within the segment that its label speaks of.)

What becomes of media that are not as promised:

* missing or undecodable file, no video stream, no sound stream: :class:`MediaError`, the clip is left out;
* a stream that is there at fewer than half of the segments' centres: :class:`MediaError`, the clip is left out;
* a stream that is absent at some of these centres: noted; the nearest picture is repeated, sound is zero;
* damaged packets or pictures: noted; they are skipped and the picture before them stays on screen;
* silent sound, peak below -80 dB of full scale: noted, but kept, because the published lists count it;
* a stream that ends less than half a segment early is as good as whole: most clips in the wild do.

Files come from outside and are untrusted: nothing here evaluates, unpickles or starts anything, only local files are
opened, and decoding stops at the end of the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lavish.data.decoding.audio import FULL_SCALE, sound_track
from lavish.data.decoding.container import Container, MediaError
from lavish.data.decoding.images import folder_pictures, segment_images, video_pictures
from lavish.data.formats.base import ClipSource, missing_media

__all__ = ["MediaError", "decode_clip"]

_MIN_COVERED = 0.5  # of the segments' centres
_SILENT_PEAK = 1e-4  # of full scale


def decode_clip(
    source: ClipSource, *, segments: int, duration: float, frame_size: int, sample_rate: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Decode one clip.

    Args:
        source: where its pictures and its sound are.
        segments: pictures to return, at the centres of as many equal parts of the clip.
        duration: length of the clip in seconds; anything later is cut off.
        frame_size: height and width of the pictures returned, pixels.
        sample_rate: samples per second of the sound returned.

    Returns:
        Pictures uint8 (segments, frame_size, frame_size, 3) RGB; sound int16 (round(duration * sample_rate),) mono; and
        notes on what was filled in or is not as promised, none for a flawless clip.

    Raises:
        MediaError: the clip cannot be used, see above.
    """
    if reason := missing_media(source):
        raise MediaError(reason)
    times = [(segment + 0.5) * duration / segments for segment in range(segments)]
    notes: list[str] = []
    if source.frames:
        frames, covered = segment_images(source.frames, frame_size)
    elif source.pictures.is_dir():
        frames, covered = folder_pictures(source.pictures, times, duration, frame_size)
    else:
        with Container(source.pictures) as container:
            video = container.stream("video")
            together = source.sound == source.pictures
            audio = container.stream("audio") if together else None
            container.read([video, audio] if together else [video], duration)
            frames, covered = video_pictures(container, video, times, frame_size)
            _note_damage("video", container, video, notes)
            if together:
                waveform, heard = sound_track(container, audio, times, duration, sample_rate)
                _note_damage("sound", container, audio, notes)
    if source.sound != source.pictures:
        with Container(source.sound) as container:
            audio = container.stream("audio")
            container.read([audio], duration)
            waveform, heard = sound_track(container, audio, times, duration, sample_rate)
            _note_damage("sound", container, audio, notes)
    _note_coverage("video", covered, notes)
    _note_coverage("sound", heard, notes)
    if np.abs(waveform.astype(np.int32)).max() < _SILENT_PEAK * FULL_SCALE:
        notes.append("silent")
    return frames, waveform, notes


def _note_damage(kind: str, container: Container, stream: Any, notes: list[str]) -> None:
    if stream.index in container.damaged:
        notes.append(f"damaged {kind}")


def _note_coverage(kind: str, covered: Sequence[bool], notes: list[str]) -> None:
    there = sum(covered)
    if there < _MIN_COVERED * len(covered):
        raise MediaError(f"{kind} covers only {there} of {len(covered)} segments")
    if there < len(covered):
        notes.append(f"{kind} covers {there} of {len(covered)} segments")
