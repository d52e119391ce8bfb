"""Pictures of every mode, depth and orientation, as frames and as masks; the tables of the task cards are true."""

from __future__ import annotations

import ast
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from lavish.data.decoding.container import MediaError
from lavish.data.decoding.images import read_segment_frames
from lavish.data.decoding.masks import decode_masks
from lavish.data.decoding.media import decode_clip
from lavish.data.decoding.pictures import PictureError, open_picture
from lavish.data.formats.base import NOT_ANNOTATED, ClipSource
from tests.card_tables import table
from tests.media_files import tone, write_media

MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"}
PALETTE = [(255, 255, 255), (0, 0, 0), (200, 0, 0), (90, 90, 90)]
# By EXIF orientation: what shows the picture upright, and the first two rows of the display matrix that say the same.
ORIENTATIONS = {
    1: (None, (1, 0, 0, 1)),
    2: (Image.Transpose.FLIP_LEFT_RIGHT, (-1, 0, 0, 1)),
    3: (Image.Transpose.ROTATE_180, (-1, 0, 0, -1)),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, (1, 0, 0, -1)),
    5: (Image.Transpose.TRANSPOSE, (0, 1, 1, 0)),
    6: (Image.Transpose.ROTATE_270, (0, 1, -1, 0)),
    7: (Image.Transpose.TRANSVERSE, (0, -1, -1, 0)),
    8: (Image.Transpose.ROTATE_90, (0, -1, 1, 0)),
}


def stripes(mode: str, values: list[int | tuple[int, ...]], path: Path) -> None:
    """Write a picture of vertical stripes of four pixels, one for each of the values, whatever the name of the file."""
    if mode == "I;16":
        picture = Image.fromarray(np.tile(np.repeat(np.array(values, np.uint16), 4), (8, 1)))
    else:
        picture = Image.new(mode, (4 * len(values), 8))
        if mode == "P":
            picture.putpalette(np.array(PALETTE, np.uint8).tobytes())
        for index, value in enumerate(values):
            picture.paste(value, (4 * index, 0, 4 * index + 4, 8))
    picture.save(path, "TIFF" if mode == "CMYK" else "PNG")
    assert Image.open(path).mode == mode


def values_of(cell: str) -> list:
    """Return the values in a cell: numbers, or tuples in brackets, separated by commas."""
    return list(ast.literal_eval(f"[{cell.strip('`')}]"))


def test_frames_of_every_mode_become_what_the_task_card_says(tmp_path: Path) -> None:
    rows = table("event_localization", "mode of a frame")
    assert {mode.strip("`") for mode, *_ in rows} == MODES
    for mode, before, after, _ in rows:
        values, expected = values_of(before), values_of(after)
        stripes(mode.strip("`"), values, tmp_path / "frame.png")
        [frame], _ = read_segment_frames([tmp_path / "frame.png"], 4 * len(values))
        colours = [tuple(frame[2, 4 * index + 2].tolist()) for index in range(len(values))]
        assert colours == expected, mode
        assert len(values) > 1


def test_masks_of_every_mode_become_what_the_task_card_says(tmp_path: Path) -> None:
    rows = table("segmentation", "mode of a mask")
    assert {mode.strip("`") for mode, *_ in rows} == MODES
    for mode, before, objects, note in rows:
        values = values_of(before)
        # Black stripes around the others, so that the border is not the object.
        stripes(mode.strip("`"), values, tmp_path / "mask.png")
        paths = [tmp_path / "mask.png", tmp_path / "mask.png"]
        if objects == "not annotated":
            with pytest.raises(MediaError, match="not annotated") as refused:
                decode_masks(paths, 4 * len(values))
            assert f"mask of segment 1: {note}" in str(refused.value)
            continue
        masks, notes = decode_masks(paths, 4 * len(values))
        expected = np.isin(np.arange(len(values)), [values.index(value) for value in values_of(objects)])
        np.testing.assert_array_equal(masks[0, 2], np.repeat(expected, 4), err_msg=f"{mode} {before}")
        assert notes == ([] if note == "-" else [f"mask of segment {n}: {note}" for n in (1, 2)]), (mode, before)


def test_a_mask_whose_border_is_all_object_is_noted(tmp_path: Path) -> None:
    mask = np.full((8, 8), 255, np.uint8)
    mask[2:5, 3:6] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masks, notes = decode_masks([tmp_path / "mask.png"], 8)
    np.testing.assert_array_equal(masks[0], mask > 0)
    assert notes == ["mask of segment 1: all of its border is the object: is the background white?"]


def test_resized_and_compressed_masks_keep_their_object(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[15:49, 9:41] = 255  # not along the blocks of JPEG
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=60)
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    Image.fromarray(mask).resize((200, 200), Image.Resampling.BICUBIC).save(tmp_path / "b.png")
    masks, notes = decode_masks([tmp_path / "a.png", tmp_path / "b.png"], 64)
    for decoded in masks:
        assert (decoded != (mask > 0)).mean() < 0.02
        assert not decoded[:12].any()
    assert [note.split(": ")[1] for note in notes] == ["several grey values"] * 2


def test_the_palettes_of_tools_do_not_invert_masks(shared: Path) -> None:
    expected = np.zeros((64, 64), np.uint8)
    expected[20:40, 10:50] = 1
    paths = [shared / "cases" / "mask_palette" / name for name in ("L.png", "rgb_adaptive.png", "pngquant.png")]
    masks, notes = decode_masks(paths, 64)
    for mask in masks:
        np.testing.assert_array_equal(mask, expected)
    assert not notes


def test_ten_bit_grey_as_ffmpeg_writes_it(shared: Path) -> None:
    paths = sorted((shared / "cases" / "grey16_pictures" / "ffg16").glob("*.png"))
    frames, _ = read_segment_frames(paths, 8)
    np.testing.assert_allclose(frames[:, 4, 4, 0], 20 + 10 * np.arange(10), atol=5)


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32, np.float32])
def test_deep_grey_is_scaled_and_not_clipped(tmp_path: Path, dtype: str) -> None:
    values = np.linspace(0, 65535, 256).reshape(16, 16)
    deep = (values / 65535 if dtype == np.float32 else values).astype(dtype)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "a.tif")), np.arange(256).reshape(16, 16))
    if dtype == np.uint16:
        Image.fromarray(deep).save(tmp_path / "a.png")
        np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "a.png")), np.arange(256).reshape(16, 16))


def test_sixteen_bit_colours_are_scaled(tmp_path: Path) -> None:
    import av

    pixels = np.full((8, 8, 3), (65535, 32768, 257), np.uint16)
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1, width=8, height=8, pix_fmt="rgb48be")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb48be")))
        container.mux(stream.encode(None))
    assert open_picture(tmp_path / "a.png").convert("RGB").getpixel((4, 4)) == (255, 128, 1)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0, 200]], np.float32), "floating-point values outside 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "floating-point values outside 0 to 1"),
        (np.array([[-0.1, 0.5]], np.float32), "floating-point values outside 0 to 1"),
        (np.array([[0, 70000]], np.int32), "32-bit integers outside 0 to 65535"),
    ],
)
def test_values_without_a_known_range_are_refused(tmp_path: Path, values: np.ndarray, reason: str) -> None:
    path = tmp_path / "1.png"
    Image.fromarray(values).save(path, "TIFF")
    with pytest.raises(PictureError, match=reason):
        open_picture(path)
    with pytest.raises(MediaError, match=f"/1.png: {reason}"):
        read_segment_frames([path], 8)
    Image.new("L", (8, 8)).save(tmp_path / "2.png")
    masks, notes = decode_masks([path, tmp_path / "2.png"], 8)
    assert (masks[0] == NOT_ANNOTATED).all()
    assert notes == [f"mask of segment 1 undecodable: {reason}"]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(MediaError, match=r"undecodable image .*/1\.png"):
        read_segment_frames([tmp_path / "1.png"], 8)


def test_a_file_that_asks_for_more_memory_than_there_is_is_damaged(tmp_path: Path, monkeypatch) -> None:
    """As Pillow does with a PNG whose chunk has an extreme length, where a process may not have as much."""
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    monkeypatch.setattr(Image, "open", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MediaError, match=r"undecodable image .*/1\.png"):
        read_segment_frames([tmp_path / "1.png"], 8)


def quarters() -> np.ndarray:
    """Return a picture, twice as wide as high, whose quarters have four colours."""
    picture = np.zeros((32, 64, 3), np.uint8)
    for index, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        row, column = divmod(index, 2)
        picture[16 * row : 16 * row + 16, 32 * column : 32 * column + 32] = colour
    return picture


def upright(orientation: int) -> np.ndarray:
    """Return the picture as a viewer shows it with an EXIF orientation."""
    transposition = ORIENTATIONS[orientation][0]
    picture = Image.fromarray(quarters())
    picture = picture if transposition is None else picture.transpose(transposition)
    return np.asarray(picture.resize((64, 64), Image.Resampling.NEAREST), float)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", ["1.jpg", "1.png"])
def test_stills_are_shown_upright(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(quarters()).save(tmp_path / name, exif=exif)
    [frame], _ = read_segment_frames([tmp_path / name], 64)
    assert np.abs(frame - upright(orientation))[4::8, 4::8].max() < 40


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_videos_are_shown_upright(tmp_path: Path, orientation: int) -> None:
    path = write_media(tmp_path / "a.mp4", image=lambda _: quarters(), audio=tone())
    content = bytearray(path.read_bytes())
    # The matrix of the video's track header (version 0) follows 40 bytes of other fields.
    start = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in ORIENTATIONS[orientation][1])
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    frames, _, notes = decode_clip(
        ClipSource("clip", path, path), segments=3, duration=3, frame_size=64, sample_rate=16000
    )
    assert np.abs(frames[1] - upright(orientation))[4::8, 4::8].max() < 40
    assert not notes


@pytest.mark.parametrize(
    ("name", "corners"),
    [("plain", "rgbw"), ("hflip", "grwb"), ("vflip", "bwrg"), ("transpose", "rbgw"), ("antitranspose", "wgbr")],
)
def test_mirrored_videos_are_shown_as_players_show_them(shared: Path, name: str, corners: str) -> None:
    path = shared / "cases" / "mirrored_display_matrix" / f"{name}.mp4"
    frames, *_ = decode_clip(ClipSource("clip", path, path), segments=1, duration=1, frame_size=48, sample_rate=16000)
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    seen = [frames[0][row, column] for row in (6, 42) for column in (6, 42)]
    np.testing.assert_allclose(seen, [colours[corner] for corner in corners], atol=5)
