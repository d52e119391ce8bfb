"""Text files of all layouts, and the media that a layout cannot read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lavish.data.formats.base import missing_media, read_lines, read_table
from lavish.data.formats.registry import reader
from tests.avsbench_files import write_ms3, write_picture, write_s4

NO_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_line_feeds_and_carriage_returns_end_a_line(end: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    first = f"a{NO_LINE_ENDS}b"
    path.write_bytes(f"{mark}{first}{end}{end}c{end}".encode())
    assert read_lines(path, "") == [first, "", "c"]
    path.write_bytes(f'{mark}x,{first},y{end}"1{end}2",z,{end}'.encode())
    assert read_table(path, "") == (["x", first, "y"], [(3, ["1\n2", "z", ""])])


@pytest.mark.parametrize("text", ["", "\n"])
def test_a_file_without_lines_has_no_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text(text)
    assert read_table(tmp_path / "empty.csv", "") == ([], [])


def test_a_clip_and_a_question_may_contain_separators_of_unicode(tmp_path: Path) -> None:
    lines = [f"cat&a\u2028b&good&{index}&3" for index in (0, 1)]
    for name in ("trainSet.txt", "Annotations.txt"):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "AVE").mkdir()
    assert [source.clip for source in reader("ave").clips(tmp_path, "train")] == ["a\u2028b", "a\u2028b#2"]
    record = {"video_id": "a\x85b", "question_content": "Is it?", "templ_values": "[]", "anser": "yes"}
    record["type"] = '["Audio", "Counting"]'
    (tmp_path / "avqa-train.json").write_text(json.dumps([record], ensure_ascii=False), encoding="utf-8")
    (tmp_path / "videos").mkdir()
    assert reader("music_avqa").clips(tmp_path, "train")[0].clip == "a\x85b"


def test_media_of_extracted_clips_with_other_endings_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "raw_audio/a.wav", "video_frames/a/1.jpg", "video_frames/a/2.WEBP", "video_frames/a/3.webp")
    notes = {"pictures not read, because of their folder or ending: video_frames/a/2.WEBP, video_frames/a/3.webp": 2}
    assert reader("ave").unread(tmp_path) == reader("music_avqa").unread(tmp_path) == notes


def test_videos_that_no_list_can_name_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "AVE/a.mp4", "AVE/b.MP4", "AVE/.c.mkv", "AVE/part/d.mp4", "AVE/e.txt")
    assert reader("ave").unread(tmp_path) == {
        "videos not read, because of their folder or ending: AVE/b.MP4, AVE/part/d.mp4": 2
    }
    touch(tmp_path, "MUSIC-AVQA-videos-Real/a.mp4", *(f"videos/{number}.webm" for number in range(7)))
    assert reader("music_avqa").unread(tmp_path) == {
        "videos not read, because of their folder or ending: videos/0.webm, videos/1.webm, videos/2.webm, "
        "videos/3.webm, videos/4.webm, ...": 7
    }


def test_lists_and_tables_of_labelled_videos(tmp_path: Path) -> None:
    touch(tmp_path, "trainlist01.txt", "videos/cat/a.xyz", "videos/cat/part/b.avi", "videos/c.avi")
    assert reader("actions").unread(tmp_path) == {
        "videos not read, because of their folder or ending: videos/c.avi, videos/cat/part/b.avi": 2
    }
    touch(tmp_path, "clips.csv")
    assert not reader("actions").unread(tmp_path)


def test_frames_and_masks_of_avsbench(tmp_path: Path) -> None:
    s4, ms3 = write_s4(tmp_path / "s4"), write_ms3(tmp_path / "Multi-sources")
    assert not reader("avsbench_s4").unread(s4)
    assert not reader("avsbench_ms3").unread(tmp_path)
    write_picture(s4 / "s4_data/visual_frames/val/helicopter/c/c_6.webp")
    write_picture(s4 / "s4_data/gt_masks/val/helicopter/c/c_1.jpg")
    write_picture(ms3 / "ms3_data/visual_frames/val/c/c_1.png")
    touch(ms3, "ms3_data/raw_videos/val/c.mkv")
    assert reader("avsbench_s4").unread(s4) == {
        "pictures not read, because of their folder or ending: s4_data/gt_masks/val/helicopter/c/c_1.jpg, "
        "s4_data/visual_frames/val/helicopter/c/c_6.webp": 2
    }
    picture = "pictures not read, because of their folder or ending"
    assert reader("avsbench_ms3").unread(ms3) == {f"{picture}: ms3_data/visual_frames/val/c/c_1.png": 1}
    (ms3 / "ms3_data/audio_wav").rename(ms3 / "ms3_data/elsewhere")
    assert next(iter(reader("avsbench_ms3").unread(tmp_path))).endswith(": Multi-sources/ms3_data/raw_videos/val/c.mkv")


def test_no_link_is_followed_and_no_file_opened(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    touch(outside, "b.mpe")
    touch(root, "train/cat/a.mp4", "train/cat/clip.avi/x/y.png")
    (root / "train" / "circle").symlink_to(root, target_is_directory=True)
    (root / "train" / "cat" / "outside").symlink_to(outside, target_is_directory=True)
    os.mkfifo(root / "train" / "cat" / "pipe.mpe")  # opening it would block
    assert reader("actions").unread(root) == {
        "videos not read, because of their folder or ending: train/cat/pipe.mpe": 1
    }


def test_a_name_that_is_not_text_is_named_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with open(os.fsencode(tmp_path) + b"/train/\xff.mp4", "wb"):  # noqa: PTH123 - a Path is text
        pass
    [note] = reader("actions").unread(tmp_path)
    assert note.endswith(": train/\\xff.mp4")


def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path) -> None:
    name = "x" * 300
    (tmp_path / "trainSet.txt").write_text(f"cat&{name}&good&0&3\n")
    (tmp_path / "AVE").mkdir()
    [source] = reader("ave").clips(tmp_path, "train")
    assert missing_media(source) == f"missing AVE/{name}.mp4"
    record = {"video_id": name, "question_content": "Is it?", "templ_values": "[]", "anser": "yes"}
    record["type"] = '["Audio", "Counting"]'
    (tmp_path / "avqa-train.json").write_text(json.dumps([record, record | {"video_id": "\ud800"}]))
    (tmp_path / "videos").mkdir()
    assert all(map(missing_media, reader("music_avqa").clips(tmp_path, "train")))
    root = write_ms3(tmp_path)
    with (root / "ms3_meta_data.csv").open("a") as table:
        table.write(f"{name},train\n")
    *_, source = reader("avsbench_ms3").clips(root, "train")
    assert missing_media(source) == f"missing visual_frames/{name}"
