"""Timestamps that begin again, or jump back or forwards, as in joined or cut recordings.

A player goes on with the next packet, wherever its timestamp is. So does :func:`close_jumps`: the packets after a jump
form a new section, and all streams of a section are moved by the same time, so that sound and pictures stay in step.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

# Up to this, timestamps of one stream that jump stay as they are: jitter, a slow frame rate, a short gap.
_JUMP_SECONDS = 1.0
# Up to this, a stream goes on steadily.
_STEADY_SECONDS = 0.1
# So far apart may packets of one time be in the file.
_INTERLEAVED_SECONDS = 2.0


class Jump(NamedTuple):
    """A jump that was closed: the time in the clip, and how far the timestamps jump there, both in seconds."""

    time: float
    by: float


class _Gap(NamedTuple):
    """Where the timestamps of a stream do not go on as expected, in seconds of the file."""

    expected: float
    found: float

    @property
    def back(self) -> float:
        """How far the timestamps go back, seconds; negative for a jump forwards."""
        return self.expected - self.found

    def is_shared(self, other: _Gap) -> bool:
        """Whether another stream makes the same jump."""
        if self.back > 0:
            return min(self.expected, other.expected) - max(self.found, other.found) > _STEADY_SECONDS
        return min(self.found, other.found) - max(self.expected, other.expected) > _JUMP_SECONDS


class Clock:
    """How far the packets of one stream reach, while they are read in the order of the file.

    Attributes:
        time: the last timestamp minus what timestamps jumped back, seconds.
        forwards: by how much timestamps jumped forwards in total, seconds.
    """

    def __init__(self) -> None:
        self.time = self.forwards = 0.0
        self._back = 0.0
        self._decoded: float | None = None
        self._shown: float | None = None

    def advance(self, packet: Any) -> _Gap | None:
        """Add the next packet; return the gap before it, if any."""
        gap = None
        decoded = None if packet.dts is None else _seconds(packet.dts, packet)
        shown = _start(packet, packet.pts)
        # Decoding times rise in every stream, so they tell when one goes back. They may be guesses, which follow a jump
        # forwards late; presentation times show it at once. That frames are not decoded in order does not matter there,
        # because all streams would have to skip the same time.
        if decoded is not None and self._decoded is not None and decoded < self._decoded - _STEADY_SECONDS:
            gap = _Gap(self._decoded, decoded)
            self._back -= gap.back if gap.back > _JUMP_SECONDS else 0.0
            self._shown = None
        elif shown is not None and self._shown is not None and shown > self._shown + _JUMP_SECONDS:
            gap = _Gap(self._shown, shown)
            self.forwards += shown - self._shown
        if decoded is not None:
            self._decoded = decoded + _length(packet)
        if shown is not None:
            self._shown = max(shown + _length(packet), -math.inf if self._shown is None else self._shown)
        if (start := _start(packet, packet.dts)) is not None:
            self.time = start - self._back
        return gap


def reached(index: int, clocks: dict[int, Clock], unfinished: Iterable[int]) -> float:
    """Return a time, in seconds of the file, up to which a stream certainly reaches, whichever jumps are closed."""
    others = clocks.keys() - {index}
    # Jumps forwards are only closed if all streams jump.
    may_close = bool(others) and all(other in unfinished or clocks[other].forwards for other in others)
    return clocks[index].time - (clocks[index].forwards if may_close else 0.0)


def close_jumps(packets: Sequence[Any]) -> list[Jump] | None:
    """Change the timestamps of `packets`, which are in the order of the file, so that no stream jumps.

    A stream jumps if its timestamps go back by more than a second, if those of all streams go back together, or if
    those of all streams skip the same time, more than a second. The gap of one stream alone is a gap, such as a picture
    that stays on screen.

    Returns:
        The jumps, in order; their times are in seconds of the file, too. None if it cannot be told which jumps of one
        stream are those of another; then the timestamps are as they were.
    """
    clocks: dict[int, Clock] = defaultdict(Clock)
    gaps = {n: gap for n, packet in enumerate(packets) if (gap := clocks[packet.stream_index].advance(packet))}
    if not gaps:
        return []
    by_stream: dict[int, dict[int, _Gap]] = {index: {} for index in clocks}
    for n, gap in gaps.items():
        by_stream[packets[n].stream_index][n] = gap
    jumps: dict[int, list[int]] = {
        index: [n for n, gap in own.items() if gap.back > _JUMP_SECONDS or _is_shared(gap, index, by_stream)]
        for index, own in by_stream.items()
    }
    sections = _sections(packets, jumps, gaps)
    return _join(sections) if len(sections) - 1 <= max(map(len, jumps.values())) else None


def _is_shared(gap: _Gap, index: int, by_stream: dict[int, dict[int, _Gap]]) -> bool:
    others = [gaps for other, gaps in by_stream.items() if other != index]
    return bool(others) and all(any(gap.is_shared(other) for other in gaps.values()) for gaps in others)


def _sections(packets: Sequence[Any], jumps: dict[int, list[int]], gaps: dict[int, _Gap]) -> list[dict[int, list[Any]]]:
    """Return the packets between jumps, by stream; a section begins with the first stream that jumps."""
    sections: list[dict[int, list[Any]]] = [defaultdict(list)]
    current: dict[int, int] = {}
    clocks: dict[int, float] = {}
    shown: dict[int, float] = {}
    for n, packet in enumerate(packets):
        index = packet.stream_index
        start = _start(packet, packet.dts)
        following = bisect_left(jumps[index], n)
        jump = jumps[index][following] if following < len(jumps[index]) else -1
        # Whether this stream is about to jump, so that it is still where another one was before it jumped.
        soon = jump >= 0 and start is not None and gaps[jump].expected - start < _JUMP_SECONDS
        newest = len(sections) - 1
        own = current.setdefault(index, max(0, newest - 1) if soon else newest)
        if jump == n:
            others = [shown[other] for other, section in current.items() if section == newest and other in shown]
            # The jump of another stream is this one's, too, if both are at about the same time after it.
            if own == newest or all(abs(gaps[n].found - other) > _INTERLEAVED_SECONDS for other in others):
                sections.append(defaultdict(list))
            current[index] = len(sections) - 1
        elif own < newest and not soon and start is not None and not _is_steady(start, clocks.get(index)):
            current[index] = newest  # another stream has jumped, and with this packet this one begins anew, too
        if start is not None:
            clocks[index] = start + _length(packet)
            shown[index] = start if packet.pts is None else _seconds(packet.pts, packet)
        sections[current[index]][index].append(packet)
    return sections


def _is_steady(start: float, expected: float | None) -> bool:
    return expected is None or abs(start - expected) <= _STEADY_SECONDS


def _join(sections: Sequence[dict[int, list[Any]]]) -> list[Jump]:
    """Move each section behind the ones before it, as close as no stream overlaps."""
    ends: dict[int, float] = {}
    jumps = []
    moved = 0.0
    for section in sections:
        shown = {
            index: [(start, _length(packet)) for packet in found if (start := _start(packet, packet.pts)) is not None]
            for index, found in section.items()
        }
        spans = {
            index: (min(start for start, _ in times), max(start + length for start, length in times))
            for index, times in shown.items()
            if times
        }
        before = moved
        continued = {index: ends[index] - start for index, (start, _) in spans.items() if index in ends}
        if continued:
            index = max(continued, key=lambda index: continued[index])
            moved = continued[index]
            jumps.append(Jump(ends[index], before - moved))
        for packet in (packet for found in section.values() for packet in found):
            ticks = round(moved / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks
        ends |= {index: end + moved for index, (_, end) in spans.items()}
    return jumps


def _start(packet: Any, preferred: int | None) -> float | None:
    stamp = next((stamp for stamp in (preferred, packet.dts, packet.pts) if stamp is not None), None)
    return None if stamp is None else _seconds(stamp, packet)


def _length(packet: Any) -> float:
    return _seconds(packet.duration, packet) if packet.duration else 0.0


def _seconds(ticks: int, packet: Any) -> float:
    # Integer arithmetic up to the division is as exact as Fraction, and cheaper.
    return ticks * packet.time_base.numerator / packet.time_base.denominator
