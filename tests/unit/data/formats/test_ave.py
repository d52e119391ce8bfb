"""The reader of the AVE layout: official lists, labels of segments, and what malformed folders say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavish.data.formats import ave
from lavish.data.formats.base import missing_media
from lavish.data.formats.registry import reader
from lavish.errors import LavishError

ROWS = ["Dog, bark&-a&good&0&2", "cat&b&good&1&3", "cat&-a&good&0&0"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An AVE folder with three lines in every list, and one of its two videos."""
    (tmp_path / "Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *ROWS]) + "\n")
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (tmp_path / name).write_text("\n".join(ROWS) + "\n")
    (tmp_path / "AVE").mkdir()
    (tmp_path / "AVE" / "-a.mp4").touch()
    return tmp_path


def labels(root: Path, split: str = "train", segments: int = 3, segment_seconds: float = 1.0) -> list[list[int]]:
    return ave.targets(root, split, segments=segments, segment_seconds=segment_seconds).arrays["labels"].tolist()


@pytest.mark.parametrize(("split", "clips"), [("train", 3339), ("val", 402), ("test", 402)])
def test_official_lists_have_their_published_sizes(shared: Path, split: str, clips: int) -> None:
    targets = ave.targets(shared / "data" / "official" / "ave", split, segments=10, segment_seconds=1.0).arrays[
        "labels"
    ]
    assert targets.shape == (clips, 10)
    assert targets.dtype == np.int64
    assert targets.min() >= 0
    assert targets.max() == 28


def test_official_labels_are_those_counted_by_hand(shared: Path) -> None:
    official = shared / "data" / "official" / "ave"
    assert len(ave.classes(official)) == 28
    train, val, test = (labels(official, split, segments=10) for split in ("train", "val", "test"))
    assert train[1] == [28] * 6 + [0] * 4  # line 2: Church bell, fCZi6I6kPpU, 6 to 10
    assert train[4] == [0] * 2 + [28] * 8  # line 5: Church bell, DxQmMOIMRt0, 0 to 2
    assert train[63] == [28] * 10  # line 64: Church bell, VWi2ENBuTbw, 0 to 0
    assert val[4] == [28] * 5 + [0] * 5  # line 5: Church bell, SiA-LmxRebg, 5 to 10
    assert test[-1] == [27] * 10  # last line: Mandolin, 6SSbFLc-dfE, 0 to 10


def test_official_clips_have_names_of_their_own(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data" / "official" / "ave").glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "AVE").mkdir()
    sources = ave.clips(tmp_path, "train")
    assert len({source.clip for source in sources}) == 3339
    twice = [source for source in sources if source.video.stem == "0f_iTO5t3hU"]
    assert [source.clip for source in twice] == ["0f_iTO5t3hU", "0f_iTO5t3hU#2"]
    assert len({source.video for source in sources}) == 3312


def test_classes_are_sorted_unless_they_are_listed(root: Path) -> None:
    assert ave.classes(root) == ["Dog, bark", "cat"]
    (root / "categories.txt").write_text("cat\nDog, bark\n")
    assert ave.classes(root) == ["cat", "Dog, bark"]
    assert labels(root)[0] == [1, 1, 2]


def test_segments_within_the_event_carry_its_class(root: Path) -> None:
    assert labels(root) == [[0, 0, 2], [2, 1, 1], [2, 2, 2]]
    assert labels(root, segments=6, segment_seconds=0.5) == [[0, 0, 0, 0, 2, 2], [2, 2, 1, 1, 1, 1], [2] * 6]


def test_both_media_layouts_and_ids_that_begin_with_a_dash(root: Path) -> None:
    first, second, third = ave.clips(root, "train")
    assert (first.clip, second.clip, third.clip) == ("-a", "b", "-a#2")
    assert first.video == first.audio == third.audio == root / "AVE" / "-a.mp4"
    assert missing_media(first) is missing_media(third) is None
    assert missing_media(second) == "missing AVE/b.mp4"

    (root / "AVE").rename(root / "elsewhere")
    (root / "video_frames").mkdir()
    (root / "raw_audio").mkdir()
    first = ave.clips(root, "train")[0]
    assert first.video == root / "video_frames" / "-a"
    assert first.audio == root / "raw_audio" / "-a.wav"


def test_windows_line_ends_byte_order_marks_and_empty_lines_are_harmless(root: Path) -> None:
    (root / "trainSet.txt").write_bytes("\ufeff".encode() + "\r\n".join([*ROWS, "", ""]).encode())
    assert labels(root) == labels(root, "val")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat&b&good&1", "4 fields instead of 5"),
        ("cat&b&good&1&x", "'x' do not satisfy 0 <= start <= end"),
        ("cat&b&good&2&1", "do not satisfy 0 <= start <= end"),
        ("cat&b&good&-1&1", "do not satisfy 0 <= start <= end"),
        ("cat&b&good&nan&1", "do not satisfy 0 <= start <= end"),
        ("cat&b&good&0&inf", "do not satisfy 0 <= start <= end"),
        ("cat&&good&0&1", "not a plain name"),
        ("cat&../b&good&0&1", "not a plain name"),
        ("cat&..&good&0&1", "not a plain name"),
        ("cats&b&good&0&1", "unknown class 'cats' .did you mean 'cat'"),
        ("cat&b&good&0&10", "ends at 10 s, but clips are configured as 3 segments of 1 s: correct data.segments"),
    ],
)
def test_malformed_lines_name_file_line_and_remedy(root: Path, line: str, message: str) -> None:
    (root / "valSet.txt").write_text(f"{ROWS[0]}\n{line}\n")
    with pytest.raises(LavishError, match=rf"valSet\.txt, line 2: .*{message}"):
        labels(root, "val")


def test_missing_files_and_folders_are_named(root: Path) -> None:
    (root / "AVE").rename(root / "videos")
    with pytest.raises(LavishError, match=r"no media folder: put the videos into 'AVE/<id>\.mp4'"):
        ave.clips(root, "train")
    (root / "trainSet.txt").unlink()
    with pytest.raises(LavishError, match=r"trainSet\.txt: No such file .*: copy the text files"):
        ave.clips(root, "train")
    (root / "Annotations.txt").unlink()
    with pytest.raises(LavishError, match=r"Annotations\.txt: No such file"):
        ave.classes(root)
    (root / "valSet.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LavishError, match=r"valSet\.txt: not UTF-8"):
        ave.clips(root, "val")
    (root / "testSet.txt").write_text("\n")
    with pytest.raises(LavishError, match=r"testSet\.txt: lists no clip"):
        ave.clips(root, "test")
    (root / "categories.txt").write_text("cat\ncat\n")
    with pytest.raises(LavishError, match=r"categories\.txt: class 'cat' occurs twice"):
        ave.classes(root)


def test_unknown_formats_and_splits_suggest_the_known_ones(root: Path) -> None:
    with pytest.raises(LavishError, match=r"unknown format 'av' \(did you mean 'ave'"):
        reader("av")
    with pytest.raises(LavishError, match=r"unknown split 'tests' \(did you mean 'test'"):
        ave.clips(root, "tests")
