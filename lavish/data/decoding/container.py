"""Reading media files: an open container and the compressed packets of its first seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import av
from av.stream import Disposition

from lavish.data.decoding.timeline import Clock, Jump, close_jumps, reached
from lavish.io.paths import kind_of


class MediaError(Exception):
    """A clip that cannot be used. The message is a short reason without absolute paths."""


class Container:
    """The compressed packets of a file's first seconds, which can be decoded in any order.

    Time zero is the start of the container, so a stream that starts later keeps its offset. Memory use is bounded by
    the length of the clip, not of the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        if kind_of(path) != "file":  # opening a named pipe would wait for ever
            raise MediaError(f"cannot open {self.name}: not a regular file")
        self.damaged: set[int] = set()  # indices of streams with packets that could not be read or decoded
        self.jumps: list[Jump] = []  # of the timestamps, all closed; in seconds from the start
        self.undated: set[int] = set()  # indices of streams with packets without a timestamp
        self._packets: dict[int, list[av.Packet]] = {}
        try:
            # Names may begin with '-' or contain a ':'. With "file:" they are neither an option nor a protocol, and the
            # whitelist keeps a disguised playlist from opening anything but files.
            self._container = av.open(f"file:{path}", metadata_errors="replace", options={"protocol_whitelist": "file"})
        except (av.FFmpegError, OSError) as error:
            raise MediaError(f"cannot open {self.name}: {error.strerror}") from None
        start = self._container.start_time
        self.zero = 0.0 if start is None else start / av.time_base

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self._packets.clear()
        self._container.close()

    def stream(self, kind: Literal["video", "audio"]) -> Any:
        """Return the 'video' or 'audio' stream that a player would choose.

        Cover art does not count as video, and streams without a decoder are passed over.

        Raises:
            MediaError: there is no such stream.
        """
        best: Any = self._container.streams.best(kind)
        streams: list[Any] = [
            stream for stream in self._container.streams if stream.type == kind and not _is_cover(stream)
        ]
        if not streams:
            raise MediaError(f"no {kind} stream in {self.name}")
        streams = [stream for stream in streams if stream.codec_context is not None]
        if not streams:
            raise MediaError(f"no decodable {kind} in {self.name}: there is no decoder for its format")
        if best not in streams:
            # What a player falls back to: a default stream before others, then the higher bit rate, then the first.
            best = max(streams, key=lambda stream: (_is_default(stream), stream.bit_rate or 0))
        best.codec_context.thread_count = 1  # parallelism is over clips
        return best

    def read(self, streams: Sequence[Any], duration: float) -> None:
        """Read the packets of `streams` from the start up to `duration` seconds, and close jumps of timestamps.

        Raises:
            MediaError: the streams jump in different ways, so that they cannot be put together in step.
        """
        clocks = {stream.index: Clock() for stream in streams}
        found = []
        unfinished = set(clocks)
        try:
            for packet in self._container.demux(*streams):
                if packet.size == 0 or packet.stream_index not in unfinished:
                    continue
                found.append(packet)
                clocks[packet.stream_index].advance(packet)
                unfinished = {n for n in unfinished if reached(n, clocks, unfinished) - self.zero <= duration}
                if not unfinished:
                    break
        except (av.FFmpegError, OSError):
            self.damaged |= unfinished
        jumps = close_jumps(found)
        if jumps is None:
            raise MediaError(f"timestamps of sound and pictures jump apart in {self.name}")
        self.jumps = [Jump(time - self.zero, by) for time, by in jumps if time - self.zero < duration]
        self._packets = {}
        for stream in streams:
            packets = [packet for packet in found if packet.stream_index == stream.index]
            # Packets come in decoding order: after the first one past the end, all later frames are past it, too.
            stamps = [packet.pts if packet.dts is None else packet.dts for packet in packets]
            past = (n for n, stamp in enumerate(stamps) if stamp is not None and self.seconds(stamp, stream) > duration)
            self._packets[stream.index] = packets[: next(past, None)]
            if None in stamps:
                self.undated.add(stream.index)

    def seconds(self, stamp: int, timed: Any) -> float:
        """Return a timestamp of a packet or stream in seconds from the start of the container."""
        base = timed.time_base
        # Integer arithmetic up to the division is as exact as Fraction, and cheaper.
        return stamp * base.numerator / base.denominator - self.zero

    def packets(self, stream: Any) -> list[Any]:
        """Return the packets read of one stream, in decoding order."""
        return self._packets[stream.index]

    def decode(self, stream: Any, first: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (number of the last packet fed, decoded frame) starting at packet `first`, skipping damaged packets."""
        if first:
            stream.codec_context.flush_buffers()
        for number, packet in enumerate([*self.packets(stream)[first:], None], start=first):
            try:
                frames = stream.codec_context.decode(packet)
            except (av.FFmpegError, EOFError):
                self.damaged.add(stream.index)
                continue
            yield from ((number, frame) for frame in frames)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _is_default(stream: Any) -> bool:
    return bool(stream.disposition & Disposition.default)
