"""Joined and cut recordings: which second of them ends up where, and whether sound and pictures stay in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from lavish.data.decoding.media import MediaError, decode_clip
from lavish.data.decoding.timeline import Jump, close_jumps
from lavish.data.formats.base import ClipSource
from tests.card_tables import table
from tests.media_files import tone, write_media

RATE = 16000
FPS = 10


def write_piece(
    path: Path, seconds: float, first: int = 0, *, start: float = 0.0, quiet: float = 0.0, form: str = "mpegts"
) -> Path:
    """Write a recording whose grey level and tone tell the second: those of `first`, `first` + 1, ...

    Args:
        path: the file to write.
        seconds: its length.
        first: number of the first second.
        start: timestamp of the first frame and sample, seconds.
        quiet: seconds for which there is no sound stream yet.
        form: the container.
    """
    with av.open(str(path), "w", format=form) as container:
        video = container.add_stream("libx264", rate=FPS, options={"g": "10", "bf": "2"})
        video.width = video.height = 48
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        written = 0
        for number in range(round(seconds * FPS)):
            level = 20 + 20 * (first + number // FPS)
            frame = av.VideoFrame.from_ndarray(np.full((48, 48, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(start * FPS) + number, Fraction(1, FPS)
            container.mux(video.encode(frame))
            while written < (number + 1) * RATE / FPS:
                time = (written + np.arange(1024)) / RATE
                samples = 0.5 * np.sin(2 * np.pi * (300 + 200 * (first + np.floor(time))) * time)
                sound = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
                sound.sample_rate, sound.pts, sound.time_base = RATE, written + round(RATE * start), Fraction(1, RATE)
                written += 1024
                if time[0] >= quiet:
                    container.mux(audio.encode(sound))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def joined(path: Path, *pieces: Path) -> Path:
    path.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    return path


def moved(source: Path, path: Path, at: float, by: float, kinds: tuple[str, ...] = ("video", "audio")) -> Path:
    """Copy a recording; from `at` seconds on, the timestamps of streams of `kinds` are later by `by` seconds."""
    with av.open(str(source)) as given, av.open(str(path), "w", format="matroska") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in given.streams}
        key = at + given.start_time / av.time_base
        for packet in given.demux():
            if packet.size == 0:
                continue
            # Whole groups of pictures move: with B-frames, presentation and decoding times are not in the same order.
            if packet.stream.type in kinds and packet.pts * packet.time_base >= key - 1e-3:
                packet.pts += round(by / packet.time_base)
                packet.dts = None if packet.dts is None else packet.dts + round(by / packet.time_base)
            packet.stream = streams[packet.stream_index]
            target.mux(packet)
    return path


def without_timestamps(source: Path, path: Path, kept: Callable[[int], bool]) -> Path:
    """Copy a transport stream and leave out the timestamps of each PES packet whose number is not `kept`."""
    content = bytearray(source.read_bytes())
    number = 0
    for start in range(0, len(content), 188):
        if not content[start + 1] & 0x40:  # no PES packet begins here
            continue
        payload = start + 4 + (1 + content[start + 4] if content[start + 3] & 0x20 else 0)
        if content[payload : payload + 3] == b"\0\0\1":
            if not kept(number):
                content[payload + 7] &= 0x3F
            number += 1
    path.write_bytes(content)
    return path


def seen_and_heard(path: Path, seconds: int) -> tuple[list[int], list[int | None], list[str]]:
    """Return which second of the recordings each second of the clip shows and sounds, and the notes."""
    frames, waveform, notes = decode_clip(
        ClipSource("clip", path, path), segments=seconds, duration=seconds, frame_size=16, sample_rate=RATE
    )
    shown = np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 20).astype(int).tolist()
    return shown, [_tone(part) for part in waveform.reshape(seconds, RATE)], notes


def _tone(part: np.ndarray) -> int | None:
    middle = part[RATE // 4 : 3 * RATE // 4].astype(float)
    if np.abs(middle).max() < 1000:
        return None
    return round((np.abs(np.fft.rfft(middle)).argmax() * 2 - 300) / 200)


def changes(path: Path, seconds: int) -> tuple[float, float]:
    """Return when the second of the two recordings begins, in the pictures and in the sound, to about a frame."""
    frames, waveform, _ = decode_clip(
        ClipSource("clip", path, path), segments=seconds * 20, duration=seconds, frame_size=16, sample_rate=RATE
    )
    shown = np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 20)
    parts = waveform.reshape(seconds * 20, RATE // 20).astype(float)
    tones = np.abs(np.fft.rfft(parts)).argmax(axis=1) * 20
    return float(np.argmax(shown >= 3)) / 20, float(np.argmax(tones > 800)) / 20


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pieces")
    return {
        "a": write_piece(folder / "a.ts", 3),
        "half": write_piece(folder / "half.ts", 0.6),
        "b": write_piece(folder / "b.ts", 3, 3),
        "late": write_piece(folder / "late.ts", 3, start=500.0),
        "early": write_piece(folder / "early.ts", 3, 3, start=460.0),
        "quiet": write_piece(folder / "quiet.ts", 3, 3, quiet=1.0),
        "whole": write_piece(folder / "whole.ts", 6),
        "whole.mkv": write_piece(folder / "whole.mkv", 6, form="matroska"),
    }


WHOLE = [0, 1, 2, 3, 4, 5]


FAULTS = [
    "begin again",
    "begin again after half a second",
    "jump back",
    "begin again, sound starts later",
    "jump forwards",
    "jump forwards by a few seconds",
    "jump forwards of the sound alone",
    "jump forwards of the pictures alone",
    "short jump",
    "some packets without timestamps",
    "no timestamps",
]


def build(fault: str, pieces: dict[str, Path], folder: Path) -> tuple[Path, list[int], list[int | None]]:
    """Return a file with a fault, and what each of its six seconds must show and sound."""
    path = folder / "clip.ts"
    if fault == "begin again":
        return joined(path, pieces["a"], pieces["b"]), WHOLE, WHOLE
    if fault == "begin again after half a second":
        return joined(path, pieces["half"], pieces["whole"]), [0, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4]
    if fault == "jump back":
        return joined(path, pieces["late"], pieces["early"]), WHOLE, WHOLE
    if fault == "begin again, sound starts later":
        return joined(path, pieces["a"], pieces["quiet"]), WHOLE, [0, 1, 2, None, 4, 5]
    if fault == "jump forwards":
        return moved(pieces["whole"], path, 3.0, 100.0), WHOLE, WHOLE
    if fault == "jump forwards by a few seconds":
        return moved(pieces["whole"], path, 3.0, 2.0), WHOLE, WHOLE
    if fault == "jump forwards of the sound alone":
        return moved(pieces["whole"], path, 3.0, 2.0, ("audio",)), WHOLE, [0, 1, 2, None, None, 3]
    if fault == "jump forwards of the pictures alone":
        return moved(pieces["whole"], path, 3.0, 2.0, ("video",)), [0, 1, 2, 2, 2, 3], WHOLE
    if fault == "short jump":
        return moved(pieces["whole"], path, 3.0, 0.4), WHOLE, WHOLE
    if fault == "some packets without timestamps":
        return without_timestamps(pieces["whole"], path, lambda number: number % 3 == 0), WHOLE, WHOLE
    assert fault == "no timestamps"
    return without_timestamps(pieces["whole"], path, lambda number: False), WHOLE, WHOLE


def test_each_fault_of_a_time_line_becomes_what_the_task_card_says(pieces: dict[str, Path], tmp_path: Path) -> None:
    rows = table("event_localization", "timestamps")
    assert [fault for fault, *_ in rows] == FAULTS
    for fault, _, note in rows:
        (tmp_path / fault).mkdir()
        path, pictures, tones = build(fault, pieces, tmp_path / fault)
        shown, heard, notes = seen_and_heard(path, 6)
        assert shown == pictures, fault
        assert heard == tones, fault
        assert "; ".join(notes) == ("" if note == "-" else note), fault


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if not {"sound", "pictures", "half"} & set(fault.split())])
def test_sound_and_pictures_stay_in_step(pieces: dict[str, Path], tmp_path: Path, fault: str) -> None:
    seen, heard = changes(build(fault, pieces, tmp_path)[0], 6)
    assert abs(seen - heard) < 0.11
    assert abs(seen - 3.05) < (0.5 if fault == "short jump" else 0.11)


def test_a_matroska_file_whose_decoding_times_are_guesses(pieces: dict[str, Path], tmp_path: Path) -> None:
    path = moved(pieces["whole.mkv"], tmp_path / "a.mkv", 3.0, 7.0)
    assert seen_and_heard(path, 6) == (WHOLE, WHOLE, ["timestamps jump by +7.0 s at 3.0 s: closed"])


def test_joined_sound_of_a_file_of_its_own(pieces: dict[str, Path], tmp_path: Path) -> None:
    sound = joined(tmp_path / "sound.ts", pieces["a"], pieces["b"])
    source = ClipSource("clip", pieces["whole"], sound)
    _, waveform, notes = decode_clip(source, segments=6, duration=6, frame_size=16, sample_rate=RATE)
    assert [_tone(part) for part in waveform.reshape(6, RATE)] == WHOLE
    assert notes == ["timestamps jump by -3.1 s at 3.1 s: closed"]


def test_three_joined_recordings_and_a_jump_after_the_end_of_the_clip(pieces: dict[str, Path], tmp_path: Path) -> None:
    path = joined(tmp_path / "a.ts", pieces["a"], pieces["b"], pieces["a"])
    shown, heard, notes = seen_and_heard(path, 9)
    assert (shown, heard, len(notes)) == ([*WHOLE, 0, 1, 2], [*WHOLE, 0, 1, 2], 2)
    assert seen_and_heard(path, 3) == ([0, 1, 2], [0, 1, 2], [])


def test_few_frames_per_second_are_no_jump(tmp_path: Path) -> None:
    times = [0.0, 2.5, 2.6, 5.5]
    path = write_media(tmp_path / "a.mkv", times=times, audio=tone(6), video_options={"bf": "2"})
    frames, _, notes = decode_clip(
        ClipSource("clip", path, path), segments=6, duration=6, frame_size=16, sample_rate=RATE
    )
    assert np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 15).tolist() == [0, 0, 1, 2, 2, 3]
    assert notes == []


def packets(stream: int, times: Sequence[float], length: float = 0.1) -> list[tuple[float, SimpleNamespace]]:
    """Return packets of a stream with these timestamps, each after its place in the file, number times length."""
    base = Fraction(1, 1000)
    made = [
        SimpleNamespace(
            stream_index=stream, pts=round(1000 * time), dts=round(1000 * time), duration=1000 * length, time_base=base
        )
        for time in times
    ]
    return [(number * length, packet) for number, packet in enumerate(made)]


def closed(*streams: list[tuple[float, SimpleNamespace]]) -> tuple[list[Jump] | None, list[list[float]]]:
    """Return the jumps, and the timestamps of each stream after they were closed."""
    placed = sorted((pair for stream in streams for pair in stream), key=lambda pair: pair[0])
    jumps = close_jumps([packet for _, packet in placed])
    return jumps, [[packet.pts / 1000 for _, packet in stream] for stream in streams]


def test_one_stream_that_begins_again_continues_while_the_other_goes_on() -> None:
    steady = np.arange(60) / 10
    again = np.concatenate([steady[:30], steady[:30]])
    jumps, (first, second) = closed(packets(0, steady), packets(1, again))
    assert jumps == [Jump(pytest.approx(3.0), pytest.approx(-3.0))]
    np.testing.assert_allclose([first, second], [steady, steady])


def test_packets_of_one_stream_may_be_far_behind_in_the_file() -> None:
    steady = np.arange(120) / 10
    jumping = np.concatenate([steady[:40], steady[40:80] + 50, steady[80:] - 6])
    late = [(place + 0.8, packet) for place, packet in packets(1, jumping)]
    jumps, (first, second) = closed(packets(0, jumping), late)
    assert [round(jump.by) for jump in jumps or []] == [50, -56]
    np.testing.assert_allclose([first, second], [steady, steady], atol=1e-9)


def test_streams_that_jump_apart_are_left_alone() -> None:
    steady = np.arange(90) / 10
    first = np.concatenate([steady[:30], steady[30:] - 3])
    second = np.concatenate([steady[:60], steady[60:] - 5.5])
    jumps, timestamps = closed(packets(0, first), packets(1, second))
    assert jumps is None
    np.testing.assert_allclose(timestamps, [first, second])


def test_a_clip_whose_streams_jump_apart_is_refused(pieces: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lavish.data.decoding.container.close_jumps", lambda _: None)
    with pytest.raises(MediaError, match=r"timestamps of sound and pictures jump apart in whole\.ts"):
        seen_and_heard(pieces["whole"], 6)
