"""The readers of AVSBench: official layouts, their common variations, and what malformed folders say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavish.config.schema import DataConfig
from lavish.data.decoding.masks import decode_masks
from lavish.data.decoding.media import MediaError
from lavish.data.formats import avsbench_ms3, avsbench_s4
from lavish.data.formats.base import NOT_ANNOTATED, missing_media
from lavish.data.formats.registry import reader
from lavish.data.store.preparation import prepare
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from tests.avsbench_files import S4_ROWS, SIZE, write_mask, write_ms3, write_picture, write_s4, write_sound


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    return write_s4(tmp_path / "Single-source")


@pytest.fixture
def ms3(tmp_path: Path) -> Path:
    return write_ms3(tmp_path / "Multi-sources")


def relative(path: Path | None, root: Path) -> str:
    assert path is not None
    return path.relative_to(root).as_posix()


def test_clips_of_s4_are_those_of_the_csv_with_one_mask_in_training(s4: Path) -> None:
    first, second = avsbench_s4.clips(s4, "train")
    assert (first.clip, second.clip) == ("-a_1", "b")
    assert first.category == "dog_barking"
    assert relative(first.video, s4) == "s4_data/visual_frames/train/dog_barking/-a_1"
    assert relative(first.audio, s4) == "s4_data/audio_wav/train/dog_barking/-a_1.wav"
    assert relative(first.masks[0], s4) == "s4_data/gt_masks/train/dog_barking/-a_1/-a_1_1.png"
    assert first.masks[1:] == (None,) * 4
    for split, video in (("val", "c"), ("test", "d")):
        [clip] = avsbench_s4.clips(s4, split)
        names = [relative(mask, s4) for mask in clip.masks]
        assert names == [f"s4_data/gt_masks/{split}/helicopter/{video}/{video}_{n}.png" for n in range(1, 6)]


def test_clips_of_ms3_have_all_masks_and_their_pictures_without_a_split(ms3: Path) -> None:
    first, second = avsbench_ms3.clips(ms3, "train")
    assert (first.clip, second.clip) == ("-a_1", "b_0")
    assert first.category == ""
    assert relative(first.video, ms3) == "ms3_data/visual_frames/-a_1"
    assert relative(first.audio, ms3) == "ms3_data/audio_wav/train/-a_1.wav"
    assert [relative(mask, ms3) for mask in first.masks] == [
        f"ms3_data/gt_masks/train/-a_1/-a_1_{number}.png" for number in range(1, 6)
    ]
    assert not [reason for clip in (first, second) if (reason := missing_media(clip))]


@pytest.mark.parametrize("name", ["avsbench_s4", "avsbench_ms3"])
def test_there_is_one_class_and_no_question(name: str, tmp_path: Path) -> None:
    root = (write_s4 if name == "avsbench_s4" else write_ms3)(tmp_path)
    layout = reader(name)
    assert layout.classes(root) == ["sounding object"]
    assert layout.vocabulary(root) == []
    targets = layout.targets(root, "train", segments=5, segment_seconds=1.0)
    assert targets.arrays == {}
    assert targets.clips is None
    with pytest.raises(LavishError, match=r"clips of train have 5 frames, .* data\.segments is 10: correct the key"):
        layout.targets(root, "train", segments=10, segment_seconds=1.0)


def test_the_root_may_be_the_folder_above(s4: Path, ms3: Path) -> None:
    assert avsbench_s4.clips(s4.parent, "val") == avsbench_s4.clips(s4, "val")
    assert avsbench_ms3.clips(ms3.parent, "val") == avsbench_ms3.clips(ms3, "val")


def test_common_variations_are_read(s4: Path) -> None:
    folder = s4 / "s4_data/gt_masks/val/helicopter/c"
    (folder / "c_2.png").rename(folder / "c.mp4_2.PNG")
    (folder / "c_3.png").rename(folder / "00003.png")
    (folder / "c_4.png").rename(folder / "c_4.jpg")  # a compressed mask is none
    [clip] = avsbench_s4.clips(s4, "val")
    assert [mask.name for mask in clip.masks if mask] == ["c_1.png", "c.mp4_2.PNG", "00003.png", "c_4.png", "c_5.png"]
    (s4 / "s4_data/audio_wav").rename(s4 / "s4_data/raw_videos")
    [clip] = avsbench_s4.clips(s4, "val")
    assert relative(clip.audio, s4) == "s4_data/raw_videos/val/helicopter/c.mp4"


def test_columns_are_known_by_name_and_lines_by_content(s4: Path) -> None:
    expected = avsbench_s4.clips(s4, "train")
    lines = ["\ufeffvideo , split,category,start", *(",".join(np.array(r.split(","))[[0, 3, 2, 1]]) for r in S4_ROWS)]
    (s4 / "s4_meta_data.csv").write_bytes("\r\n".join([*lines, "", ""]).encode())
    assert avsbench_s4.clips(s4, "train") == expected


def test_a_video_listed_twice_becomes_two_clips(ms3: Path) -> None:
    with (ms3 / "ms3_meta_data.csv").open("a") as file:
        file.write("b_0,train\n")
    assert [clip.clip for clip in avsbench_ms3.clips(ms3, "train")] == ["-a_1", "b_0", "b_0#2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,0,dog", r"line 6: 3 fields instead of 4: write 'name,start,category,split'"),
        ("x,0,dog,trian", r"line 6: unknown split 'trian' \(did you mean 'train'"),
        ("../x,0,dog,train", r"line 6: video '\.\./x' is not a plain name"),
        (",0,dog,train", r"line 6: video '' is not a plain name"),
        ("x,0,..,train", r"line 6: category '\.\.' is not a plain name"),
        ("x,0,,train", r"line 6: category '' is not a plain name"),
        ("c,0,helicopter,test", r"line 6: 'c' is in the splits 'val' and 'test': list it in one split only"),
        (
            "x" * 140000 + ",0,dog,train",
            r"line 6: malformed CSV \(field larger than field limit .*\): copy s4_meta_data",
        ),
    ],
)
def test_malformed_lines_name_file_line_and_remedy(s4: Path, line: str, message: str) -> None:
    with (s4 / "s4_meta_data.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(LavishError, match=rf"s4_meta_data\.csv, {message}"):
        avsbench_s4.clips(s4, "train")


def test_what_is_missing_is_named(s4: Path) -> None:
    with pytest.raises(LavishError, match=r"unknown split 'tests' \(did you mean 'test'"):
        avsbench_s4.clips(s4, "tests")
    (s4 / "s4_data/gt_masks").rename(s4 / "s4_data/masks")
    with pytest.raises(LavishError, match=r"s4_data: no folder 'gt_masks': copy that of AVSBench S4 into it"):
        avsbench_s4.clips(s4, "train")
    (s4 / "s4_meta_data.csv").write_text("name,start,category\n")
    with pytest.raises(LavishError, match=r"s4_meta_data\.csv, line 1: no column 'split': copy s4_meta_data\.csv"):
        avsbench_s4.clips(s4, "train")
    (s4 / "s4_meta_data.csv").write_text("name,start,category,split\n")
    with pytest.raises(LavishError, match=r"lists no video of split 'train'"):
        avsbench_s4.clips(s4, "train")
    (s4 / "s4_meta_data.csv").unlink()
    with pytest.raises(LavishError, match=r"s4_meta_data\.csv: No such file .* first line 'name,start,category,split'"):
        avsbench_s4.clips(s4, "train")


def test_pictures_numbered_from_zero_are_refused(ms3: Path) -> None:
    folder = ms3 / "ms3_data/visual_frames/c"
    (folder / "c.mp4_5.png").rename(folder / "c.mp4_0.png")
    with pytest.raises(LavishError, match=r"c\.mp4_0\.png: .* numbered from 1, not from 0"):
        avsbench_ms3.clips(ms3, "val")


def write_distinct_ms3(root: Path) -> Path:
    """Return the folder of the pictures of clip d, the only one of the split test, picture n of brightness 40 n."""
    folder = root / "ms3_data/visual_frames/d"
    for number in range(1, 6):
        write_picture(folder / f"d.mp4_{number}.png", 40 * number)
    return folder


@pytest.mark.parametrize(
    ("gone", "shown", "covered"),
    [((1,), [2, 2, 3, 4, 5], 4), ((3,), [1, 2, 2, 4, 5], 4), ((2, 3), [1, 1, 4, 4, 5], 3)],
)
def test_a_missing_picture_shifts_no_other_against_its_mask(ms3: Path, tmp_path: Path, gone, shown, covered) -> None:
    folder = write_distinct_ms3(ms3)
    for number in gone:
        (folder / f"d.mp4_{number}.png").unlink()
    store = prepared(ms3, "avsbench_ms3", "test", tmp_path / "out")
    assert store.masks is not None
    assert store.frames[0, :, 0, 0, 0].tolist() == [40 * number for number in shown]
    for number, mask in enumerate(store.masks[0], start=1):
        if number in gone:
            assert (mask == NOT_ANNOTATED).all()
        else:
            assert mask.sum(axis=1).tolist() == [number] * SIZE
    assert f"d,repaired,video covers {covered} of 5 segments\n" in (tmp_path / "out/report.csv").read_text()


def test_a_clip_with_too_few_pictures_is_left_out(ms3: Path, s4: Path, tmp_path: Path) -> None:
    for number in (1, 2, 4):
        (ms3 / f"ms3_data/visual_frames/b_0/b_0.mp4_{number}.png").unlink()
    assert prepared(ms3, "avsbench_ms3", "train", tmp_path / "ms3").clips == ["-a_1"]
    assert "b_0,excluded,video covers only 2 of 5 segments" in (tmp_path / "ms3/report.csv").read_text()
    # Of a training clip of S4 only the first picture has a mask.
    (s4 / "s4_data/visual_frames/train/dog_barking/b/b_1.png").unlink()
    assert prepared(s4, "avsbench_s4", "train", tmp_path / "s4").clips == ["-a_1"]
    assert "b,excluded,no segment with a frame is annotated" in (tmp_path / "s4/report.csv").read_text()


def test_pictures_that_belong_to_no_step_change_nothing(ms3: Path, tmp_path: Path) -> None:
    folder = write_distinct_ms3(ms3)
    for name in ("thumb.png", "a_1.png", "z_2.png", "._d.mp4_3.png"):
        write_picture(folder / name, 7)
    store = prepared(ms3, "avsbench_ms3", "test", tmp_path / "out")
    assert store.masks is not None
    assert store.frames[0, :, 0, 0, 0].tolist() == [40, 80, 120, 160, 200]
    assert "d,ok," in (tmp_path / "out/report.csv").read_text()


def test_a_picture_too_many_concerns_no_other_clip(ms3: Path) -> None:
    with (ms3 / "ms3_meta_data.csv").open("a") as file:
        file.write("e,train\n")
    for number in range(1, 6):
        write_picture(ms3 / f"ms3_data/visual_frames/e/e.mp4_{number}.png")
    expected = avsbench_ms3.clips(ms3, "train")
    write_picture(ms3 / "ms3_data/visual_frames/b_0/b_0.mp4_6.png")
    assert avsbench_ms3.clips(ms3, "train") == expected
    assert avsbench_ms3.targets(ms3, "train", segments=5, segment_seconds=1.0).arrays == {}


def test_a_clip_without_any_mask_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="mask of segment 1 missing"):
        decode_masks([tmp_path / "none.png", None], 8)
    with pytest.raises(MediaError, match="no segment with a frame is annotated"):
        decode_masks([None, None], 8)


def prepared(root: Path, layout: str, split: str, out: Path) -> SplitStore:
    config = DataConfig(
        name="tiny", format=layout, root=root, num_classes=1, segments=5, frame_size=SIZE, max_lost=0.5,  # type: ignore[arg-type]
        spectrogram={"mel_bins": 16, "frames": 16},  # type: ignore[arg-type]
    )  # fmt: skip
    prepare(config, root, split, out, jobs=1)
    return SplitStore(out)


def test_prepared_masks_lie_beside_their_pictures(s4: Path, tmp_path: Path) -> None:
    gone = s4 / "s4_data/gt_masks/train/dog_barking/b/b_1.png"
    gone.unlink()
    train = prepared(s4, "avsbench_s4", "train", tmp_path / "train")
    # Nothing can be learnt from a clip none of whose masks is there.
    assert train.clips == ["-a_1"]
    assert "b,excluded,mask of segment 1 missing" in (tmp_path / "train/report.csv").read_text()
    assert train.masks is not None
    assert train.masks[0, 0].sum(axis=1).tolist() == [1] * SIZE
    assert (train.masks[0, 1:] == NOT_ANNOTATED).all()
    assert train.frames[0, :, 0, 0, 0].tolist() == [40, 80, 120, 160, 200]

    folder = s4 / "s4_data/gt_masks/test/helicopter/d"
    write_mask(folder / "d_1.png", 9, size=3 * SIZE)
    (folder / "d_4.png").unlink()
    test = prepared(s4, "avsbench_s4", "test", tmp_path / "test")
    assert test.masks is not None
    assert [int(mask[0].sum()) for mask in test.masks[0, [0, 1, 2, 4]]] == [3, 2, 3, 5]
    assert (test.masks[0, 3] == NOT_ANNOTATED).all()
    assert "d,repaired,mask of segment 4 missing" in (tmp_path / "test/report.csv").read_text()


def test_more_than_nine_pictures_are_read_in_order(ms3: Path, tmp_path: Path) -> None:
    for number in range(1, 13):
        write_picture(ms3 / f"ms3_data/visual_frames/d/d.mp4_{number}.png", 20 * number)
        write_mask(ms3 / f"ms3_data/gt_masks/test/d/d_{number}.png", number)
    write_sound(ms3 / "ms3_data/audio_wav/test/d.wav", 12)
    config = DataConfig(
        name="tiny", format="avsbench_ms3", root=ms3, num_classes=1, segments=12, frame_size=SIZE,
        spectrogram={"mel_bins": 16, "frames": 16},  # type: ignore[arg-type]
    )  # fmt: skip
    prepare(config, ms3, "test", tmp_path / "out", jobs=1)
    store = SplitStore(tmp_path / "out")
    assert store.masks is not None
    assert store.frames[0, :, 0, 0, 0].tolist() == [20 * number for number in range(1, 13)]
    assert store.masks[0, :, 0].sum(axis=1).tolist() == list(range(1, 13))
