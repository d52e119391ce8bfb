"""Reading media files: an open container and the compressed packets of its first seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import av
from av.stream import Disposition


class MediaError(Exception):
    """A clip that cannot be used. The message is a short reason without absolute paths."""


class Container:
    """The compressed packets of a file's first seconds, which can be decoded in any order.

    Time zero is the start of the container, so a stream that starts later keeps its offset. Memory use is bounded by
    the length of the clip, not of the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.damaged: set[int] = set()  # indices of streams with packets that could not be read or decoded
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
        """Return the 'video' or 'audio' stream that a player would choose; cover art does not count as video."""
        best = self._container.streams.best(kind)
        if best is None or best.disposition & Disposition.attached_pic:
            raise MediaError(f"no {kind} stream in {self.name}")
        best.codec_context.thread_count = 1  # parallelism is over clips
        return best

    def read(self, streams: Sequence[Any], duration: float) -> None:
        """Read the packets of `streams` from the start up to `duration` seconds."""
        self._packets = {stream.index: [] for stream in streams}
        unfinished = set(self._packets)
        try:
            for packet in self._container.demux(*streams):
                if packet.size == 0 or packet.stream_index not in unfinished:
                    continue
                # Packets come in decoding order: after the first one past the end, all later frames are past it, too.
                stamp = packet.pts if packet.dts is None else packet.dts
                if stamp is None or self.seconds(stamp, packet) <= duration:
                    self._packets[packet.stream_index].append(packet)
                else:
                    unfinished.remove(packet.stream_index)
                    if not unfinished:
                        break
        except (av.FFmpegError, OSError):
            self.damaged |= unfinished

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
