"""Decoding of pictures and sound: where in time they lie, and what becomes of media that are not as promised."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from lavish.data.decoding.container import Container
from lavish.data.decoding.media import MediaError, decode_clip
from lavish.data.formats.base import ClipSource
from tests.media_files import SECONDS, grey_levels, tone, write_media

RATE = 16000


def decode(
    pictures: Path, sound: Path | None = None, *, segments: int = SECONDS, duration: float = SECONDS, size: int = 48
):
    source = ClipSource("clip", pictures, sound or pictures)
    return decode_clip(source, segments=segments, duration=duration, frame_size=size, sample_rate=RATE)


def indices(frames: np.ndarray) -> list[int]:
    """Numbers of the pictures that `grey_levels` drew."""
    return np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 15).astype(int).tolist()


def test_a_picture_is_the_one_on_screen_at_the_centre_of_its_step(tmp_path: Path) -> None:
    frames, waveform, notes = decode(write_media(tmp_path / "a.mp4", audio=tone()), size=32)
    assert indices(frames) == [2, 6, 10]
    assert frames.shape == (3, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert waveform.shape == (48000,)
    assert waveform.dtype == np.int16
    assert notes == []


def test_variable_frame_rates_go_by_the_timestamps(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.2, 0.3, 1.45, 1.55, 2.0, 2.05, 2.9]
    assert indices(decode(write_media(tmp_path / "a.mp4", times=times, audio=tone()))[0]) == [3, 4, 7]


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_the_display_matrix_is_applied(tmp_path: Path, degrees: int, corner: tuple[int, int]) -> None:
    def picture(_: int) -> np.ndarray:
        image = np.zeros((48, 64, 3), dtype=np.uint8)
        image[:24, :32] = 255  # the upper left quarter
        return image

    path = write_media(tmp_path / "a.mp4", image=picture, rotation=degrees, audio=tone())
    frame = decode(path)[0][0].astype(float).mean(axis=2)
    quarters = frame.reshape(2, 24, 2, 24).mean(axis=(1, 3))
    # Counterclockwise by 90 degrees, the upper left corner becomes the lower left one.
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


def test_long_videos_are_decoded_only_near_the_times_asked_for(tmp_path: Path, monkeypatch) -> None:
    def picture(index: int) -> np.ndarray:
        return np.roll(np.arange(48, dtype=np.uint8)[None, :, None] * np.ones((48, 1, 3), np.uint8) * 5, index, axis=1)

    path = write_media(
        tmp_path / "a.mp4",
        times=np.arange(240) / 4,
        image=picture,
        video_options={"g": "8", "bf": "2"},
        audio=tone(60, 8000),
        rate=8000,
    )
    everything = decode(path, segments=240, duration=60)[0]
    fed = []
    original = Container.decode

    def counting(self, stream, first=0):
        for number, frame in original(self, stream, first):
            if stream.type == "video":
                fed.append(number)
            yield number, frame

    monkeypatch.setattr(Container, "decode", counting)
    few = decode(path, segments=5, duration=60)[0]
    np.testing.assert_array_equal(few, everything[[24, 72, 120, 168, 216]])
    assert len(set(fed)) < 80


@pytest.mark.parametrize(
    ("suffix", "codec", "form", "rate", "tolerance"),
    [
        ("wav", "pcm_s16le", "s16", 16000, 1e-4),
        ("wav", "pcm_s16le", "s16", 8000, 1e-3),
        ("wav", "pcm_s32le", "s32", 44100, 1e-3),
        ("wav", "pcm_u8", "u8", 16000, 1e-2),
        ("wav", "pcm_f32le", "flt", 22050, 1e-3),
        ("flac", "flac", "s16", 44100, 1e-3),
        ("mp3", "libmp3lame", "fltp", 44100, 2e-2),
        ("mp4", "aac", "fltp", 48000, 6e-2),
        ("mkv", "libopus", "flt", 48000, 2e-2),
    ],
)
def test_sound_keeps_its_place_and_level_at_every_rate_and_format(
    tmp_path: Path, suffix: str, codec: str, form: str, rate: int, tolerance: float
) -> None:
    video = write_media(tmp_path / "v.mp4")

    def sweep(rate: int) -> np.ndarray:
        time = np.arange(3 * rate) / rate
        return 0.5 * np.sin(2 * np.pi * (100 * time + 200 * time**2))

    path = write_media(
        tmp_path / f"s.{suffix}", times=None, audio=sweep(rate), rate=rate, audio_codec=codec, audio_format=form
    )
    _, waveform, notes = decode(video, path)
    middle = slice(2000, -2000)
    # A shift by a single millisecond would make an error of 0.4.
    assert np.sqrt(np.mean((waveform / 32768 - sweep(RATE))[middle] ** 2)) < tolerance
    assert notes == []


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6), ("quad", 4)])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_channels_are_averaged(tmp_path: Path, layout: str, channels: int, rate: int) -> None:
    sound = np.stack([tone(rate=rate, amplitude=0.6 * (channel == 1)) for channel in range(channels)])
    path = write_media(
        tmp_path / "s.wav",
        times=None,
        audio=sound,
        rate=rate,
        layout=layout,
        audio_codec="pcm_s16le",
        audio_format="s16",
    )
    waveform = decode(write_media(tmp_path / "v.mp4"), path)[1] / 32768
    np.testing.assert_allclose(waveform[500:-500], tone(amplitude=0.6 / channels)[500:-500], atol=5e-3)
    assert np.abs(waveform[-8:]).max() > 0.3 / channels  # nothing is left in the resampler


def test_a_sound_stream_that_starts_later_keeps_its_offset(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", audio=tone(2.25), audio_start=0.75, audio_codec="flac", audio_format="s16")
    _, waveform, notes = decode(path)
    assert not waveform[:11900].any()
    np.testing.assert_allclose(waveform[12000:] / 32768, tone(2.25), atol=1e-3)
    assert notes == ["audio covers 2 of 3 segments"]


def test_a_video_stream_that_starts_later_repeats_its_first_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", times=1 + np.arange(8) / 4, audio=tone())
    frames, _, notes = decode(path)
    assert indices(frames) == [0, 2, 6]
    assert notes == ["video covers 2 of 3 segments"]


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    whole = write_media(
        tmp_path / "whole.mkv", video_codec="mjpeg", audio=tone(), audio_codec="pcm_s16le", audio_format="s16"
    )
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is None or (packet.stream.type == "audio" and 1 <= packet.pts * packet.time_base < 1.4):
                continue
            packet.stream = streams[packet.stream_index]
            target.mux(packet)
    _, waveform, _ = decode(path)
    inside = waveform[round(1.07 * RATE) : round(1.39 * RATE)]
    assert not inside.any()
    later = slice(round(1.5 * RATE), None)
    np.testing.assert_allclose(waveform[later] / 32768, tone()[later], atol=1e-3)


def test_a_little_short_is_as_good_as_whole(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", times=np.arange(11) / 4, audio=tone(2.6))
    frames, waveform, notes = decode(path)
    assert indices(frames) == [2, 6, 10]
    assert not waveform[-5000:].any()
    assert notes == []


def test_short_media_are_filled_in_and_noted(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", times=np.arange(7) / 4, audio=tone(2.1))
    frames, waveform, notes = decode(path)
    assert indices(frames) == [2, 6, 6]
    assert waveform.shape == (48000,)
    assert notes == ["video covers 2 of 3 segments", "audio covers 2 of 3 segments"]


@pytest.mark.parametrize(("times", "seconds", "kind"), [(12, 1.2, "audio"), (5, 3.0, "video")])
def test_media_that_cover_less_than_half_are_refused(tmp_path: Path, times: int, seconds: float, kind: str) -> None:
    path = write_media(tmp_path / "a.mkv", times=np.arange(times) / 4, audio=tone(seconds))
    with pytest.raises(MediaError, match=f"{kind} covers only 1 of 3 segments"):
        decode(path)


def test_longer_media_are_cut(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", times=np.arange(16) / 4, audio=tone(4))
    frames, waveform, notes = decode(path)
    assert indices(frames) == [2, 6, 10]
    assert len(waveform) == 48000
    assert notes == []


def test_silence_is_kept_and_noted(tmp_path: Path) -> None:
    assert decode(write_media(tmp_path / "a.mp4", audio=np.zeros(48000)))[2] == ["silent"]
    assert decode(write_media(tmp_path / "b.mp4", audio=tone(amplitude=0.01)))[2] == []


@pytest.mark.filterwarnings("error")  # what a cast makes of them differs between machines
def test_values_that_are_no_numbers_become_silence(tmp_path: Path) -> None:
    sound = tone()
    sound[1000:2000] = np.nan
    path = write_media(tmp_path / "s.wav", times=None, audio=sound, audio_codec="pcm_f32le", audio_format="flt")
    waveform = decode(write_media(tmp_path / "v.mp4"), path)[1]
    assert not waveform[1000:2000].any()
    np.testing.assert_allclose(waveform[2000:] / 32768, tone()[2000:], atol=1e-3)


@pytest.mark.parametrize("name", ["-rm a.mp4", "http:x.mp4", "a%03d.mp4", "é ü.mp4"])
def test_file_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_media(tmp_path / "x.mp4", audio=tone()).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert decode(Path(name))[2] == []


def test_unusable_files_are_refused_with_a_reason_that_names_no_folder(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "whole.mp4", audio=tone())
    (tmp_path / "truncated.mp4").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "garbage.mp4").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "empty.mp4").touch()
    write_media(tmp_path / "mute.mp4")
    write_media(tmp_path / "blind.mp4", times=None, audio=tone())
    expected = {
        "truncated.mp4": "cannot open truncated.mp4: Invalid data",
        "garbage.mp4": "cannot open garbage.mp4: ",
        "empty.mp4": "cannot open empty.mp4: ",
        "mute.mp4": "no audio stream in mute.mp4",
        "blind.mp4": "no video stream in blind.mp4",
        "absent.mp4": "missing .*absent.mp4",
    }
    for name, reason in expected.items():
        with pytest.raises(MediaError, match=reason) as caught:
            decode(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)


def test_a_file_cut_off_in_the_middle_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)

    def picture(_: int) -> np.ndarray:
        return noise.integers(0, 255, (48, 48, 3), dtype=np.uint8)

    options = {"movflags": "frag_keyframe+empty_moov"}
    path = write_media(
        tmp_path / "a.mp4",
        times=np.arange(40) / 4,
        image=picture,
        video_options={"g": "2"},
        audio=tone(10),
        container_options=options,
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    notes = decode(path, segments=10, duration=10)[2]
    assert any("of 10 segments" in note for note in notes)
    path.write_bytes(content[: len(content) * 2 // 10])
    with pytest.raises(MediaError, match="covers only"):
        decode(path, segments=10, duration=10)


def test_damaged_packets_are_skipped_and_noted(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", video_codec="mjpeg", audio=tone(), audio_codec="flac", audio_format="s16")
    content = bytearray(path.read_bytes())
    starts = [n for n in range(len(content) - 2) if content[n : n + 3] == b"\xff\xd8\xff"]
    content[starts[6] : starts[6] + 590] = bytes(590)
    path.write_bytes(bytes(content))
    frames, _, notes = decode(path)
    assert indices(frames) == [2, 5, 10]
    assert notes == ["damaged video"]


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", times=[0.0], video_codec="mjpeg", audio=tone())
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        streams[source.streams.video[0].index].disposition = Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    with pytest.raises(MediaError, match="no video stream"):
        decode(tmp_path / "b.mp4")


def write_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(grey_levels(index)).save(folder / name)
    return folder


def test_extracted_pictures_are_spread_over_the_clip_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    sound = write_media(tmp_path / "s.wav", times=None, audio=tone(), audio_codec="pcm_s16le", audio_format="s16")
    padded = write_folder(tmp_path / "padded", [f"{n:04d}.jpg" for n in range(1, 13)])
    plain = write_folder(tmp_path / "plain", [f"{n}.png" for n in range(1, 13)])
    (plain / "Thumbs.db").touch()
    for folder in (padded, plain):
        frames, _, notes = decode(folder, sound)
        assert indices(frames) == [2, 6, 10]
        assert notes == []


def test_pictures_that_do_not_belong_to_the_clip_shift_none_of_it(tmp_path: Path) -> None:
    sound = write_media(tmp_path / "s.wav", times=None, audio=tone(), audio_codec="pcm_s16le", audio_format="s16")
    folder = write_folder(tmp_path / "clip", [f"{n:04d}.jpg" for n in range(1, 13)])
    strays = ("cover.png", "._0003.jpg", *(f"contact sheet {name}.jpg" for name in "abcdefghij"))
    for name in strays:
        Image.fromarray(grey_levels(0)).save(folder / name)
    frames, _, notes = decode(folder, sound)
    assert indices(frames) == [2, 6, 10]
    assert notes == []
    for stray, other in (("thumb_0005.jpg", "0001.jpg"), ("0005.png", "0005.jpg"), ("5.jpg", "0005.jpg")):
        Image.fromarray(grey_levels(0)).save(folder / stray)
        with pytest.raises(MediaError, match=f"more than one series of images in clip: {other} and {stray}"):
            decode(folder, sound)
        (folder / stray).unlink()


@pytest.mark.parametrize(
    ("lost", "seen", "note"),
    [
        ([1], [2, 6, 10], []),
        ([2], [1, 6, 10], []),
        ([5, 6, 7], [2, 4, 10], []),
        ([3, 4, 5, 6, 7], [2, 2, 10], ["video covers 2 of 3 segments"]),
    ],
)
def test_a_gap_among_extracted_pictures_shifts_none_of_them(
    tmp_path: Path, lost: list[int], seen: list[int], note: list[str]
) -> None:
    sound = write_media(tmp_path / "s.wav", times=None, audio=tone(), audio_codec="pcm_s16le", audio_format="s16")
    # Every fifth picture of a video, as tools for extracting number them.
    folder = write_folder(tmp_path / "clip", [f"image_{n}.png" for n in range(1, 61, 5)])
    for index in lost:
        (folder / f"image_{1 + 5 * index}.png").unlink()
    frames, _, notes = decode(folder, sound)
    assert (indices(frames), notes) == (seen, note)


def test_too_few_or_broken_extracted_pictures(tmp_path: Path) -> None:
    sound = write_media(tmp_path / "s.wav", times=None, audio=tone(), audio_codec="pcm_s16le", audio_format="s16")
    frames, _, notes = decode(write_folder(tmp_path / "two", ["1.jpg", "2.jpg"]), sound)
    assert indices(frames) == [0, 1, 1]
    assert notes == ["video covers 2 of 3 segments"]
    with pytest.raises(MediaError, match="video covers only 1 of 3"):
        decode(write_folder(tmp_path / "one", ["1.jpg"]), sound)
    with pytest.raises(MediaError, match="no numbered image in none"):
        decode(write_folder(tmp_path / "none", []), sound)
    broken = write_folder(tmp_path / "broken", ["1.jpg", "2.jpg", "3.jpg"])
    (broken / "2.jpg").write_bytes((broken / "2.jpg").read_bytes()[:100])
    with pytest.raises(MediaError, match=r"undecodable image broken/2\.jpg"):
        decode(broken, sound)


@pytest.mark.parametrize(("name", "duration"), [("bigbuckbunny.mp4", 5), ("oa4_launch.webm", 8)])
def test_real_videos_decode_without_a_note(shared: Path, name: str, duration: int) -> None:
    path = shared / "data" / "videos" / name
    frames, waveform, notes = decode(path, segments=duration, duration=duration, size=64)
    assert notes == []
    assert frames.std() > 20
    assert np.abs(waveform.astype(int)).max() > 1000
    # Consecutive pictures of a video differ, but not altogether.
    differences = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert (differences > 0.2).all()
