"""An opened media file and the compressed packets of one clip of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import av
from av.stream import Disposition


class MediaError(Exception):
    """A clip that cannot be used; the message is a short reason without paths of this machine."""


class Container:
    """The packets of a file's first seconds, still compressed, to be decoded in any order.

    Time zero is where the container starts, so a stream that begins later keeps its offset. Memory is bounded by the
    clip, not by the file.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.damaged: set[int] = set()  # indices of streams with packets that could not be read or decoded
        self._packets: dict[int, list[av.Packet]] = {}
        try:
            # Ids may begin with '-' or hold a ':'. As a "file:" address they are neither an option nor a protocol, and
            # a playlist in disguise can open nothing but files.
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
        """Return the 'video' or 'audio' stream that a player would choose; a cover picture is no video."""
        best = self._container.streams.best(kind)
        if best is None or best.disposition & Disposition.attached_pic:
            raise MediaError(f"no {'sound' if kind == 'audio' else kind} stream in {self.name}")
        best.codec_context.thread_count = 1  # clips are decoded in parallel, not parts of a clip
        return best

    def read(self, streams: Sequence[Any], duration: float) -> None:
        """Read the packets of `streams` from the start up to `duration` seconds."""
        self._packets = {stream.index: [] for stream in streams}
        unfinished = set(self._packets)
        try:
            for packet in self._container.demux(*streams):
                if packet.size == 0 or packet.stream_index not in unfinished:
                    continue
                # Packets come in decoding order: once that has passed the end, so will all pictures to come.
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
        """Return a timestamp of a packet or stream as seconds from the start of the container."""
        base = timed.time_base
        # Whole numbers up to the division: as exact as a fraction, without its cost for every packet.
        return stamp * base.numerator / base.denominator - self.zero

    def packets(self, stream: Any) -> list[Any]:
        """Return the packets read of one stream, in decoding order."""
        return self._packets[stream.index]

    def decode(self, stream: Any, first: int = 0) -> Iterator[tuple[int, Any]]:
        """Yield (number of the packet fed last, decoded frame) from packet number `first` on, skipping damaged ones."""
        if first:
            stream.codec_context.flush_buffers()
        for number, packet in enumerate([*self.packets(stream)[first:], None], start=first):
            try:
                frames = stream.codec_context.decode(packet)
            except (av.FFmpegError, EOFError):
                self.damaged.add(stream.index)
                continue
            yield from ((number, frame) for frame in frames)
