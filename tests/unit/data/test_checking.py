"""`lavish data check`: what it finds of a data set, what it says of it, and when that is a problem."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from lavish.cli.main import main
from lavish.data import checking
from lavish.data.checking import Findings, check_data_set
from lavish.data.formats.official import OFFICIAL, TextFile
from lavish.errors import LavishError
from tests.avsbench_files import write_ms3, write_s4
from tests.media_files import tone, write_media

ROWS = ["dog&-a&good&0&2", "cat&b&good&1&3", "cat&-a&good&0&0"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AVE folder of a user's own, without a fault: two videos of three seconds."""
    root = tmp_path_factory.mktemp("own")
    (root / "AVE").mkdir()
    for video in ("-a", "b"):
        write_media(root / "AVE" / f"{video}.mp4", audio=tone())
    (root / "Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *ROWS]))
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text("\n".join(ROWS))
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "AVE_Dataset"))


def check(root: Path, sample: int | None = None) -> Findings:
    return check_data_set("ave", root, sample=sample, jobs=1, segments=3)


def test_a_whole_data_set_of_ones_own_is_in_order_but_remarked_upon(root: Path) -> None:
    found = check(root)
    assert not found.problems
    facts = dict(found.facts)
    assert facts["trainSet.txt"] == "3 clips, not the published file"
    assert facts["media of valSet.txt"] == "3 of 3 clips present"
    assert facts["decoding"] == "2 of 2 media decoded (all that are present)"
    remarks = "\n".join(found.remarks)
    assert "not as published: trainSet.txt (published: 3339 clips), valSet.txt" in remarks
    assert "Lists of your own are fine" in remarks
    assert "2 classes, but the published data set has 28: set data.num_classes to 2" in remarks


def test_official_lists_are_recognised_whatever_their_line_ends(shared: Path, tmp_path: Path) -> None:
    for file in (shared / "data" / "official" / "ave").glob("*.txt"):
        (tmp_path / file.name).write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    (tmp_path / "AVE").mkdir()
    found = check_data_set("ave", tmp_path, sample=20, jobs=1)
    facts = dict(found.facts)
    assert facts["trainSet.txt"] == "3339 clips, as published"
    assert facts["valSet.txt"] == facts["testSet.txt"] == "402 clips, as published"
    assert facts["Annotations.txt"] == "4143 clips, as published"
    assert facts["classes"] == "28, as published"
    [remark] = found.remarks
    assert remark.startswith("18 media of the training list are in another list as well: ")
    assert [problem.split(":")[0] for problem in found.problems] == ["trainSet.txt", "valSet.txt", "testSet.txt"]
    assert "3339 of 3339 clips (100.0%) have no media: missing AVE/" in found.problems[0]
    text = (tmp_path / "valSet.txt").read_text()
    (tmp_path / "valSet.txt").write_text(text.replace("&good&0&10", "&good&0&9", 1))
    remark = check(tmp_path).remarks[0]
    assert "not as published: valSet.txt (published: 402 clips too). Lists of your own are fine" in remark


def test_missing_files_are_reported_with_the_official_source(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "AVE/b.mp4").unlink()
    arguments = ["data", "check", "--task", "ave", "--segments", "3", "--jobs", "1", "--root"]
    assert main([*arguments, str(root)]) == 1
    said = capsys.readouterr().out
    assert "testSet.txt: 1 of 3 clips (33.3%) have no media: missing AVE/b.mp4" in said
    assert "1 of 1 media decoded (all that are present)" in said
    assert "Where to get it: the AVE data set is obtained from the page of its authors (Tian et al., " in said

    (root / "valSet.txt").unlink()
    assert main([*arguments, str(root)]) == 1
    assert f"missing in {root}: valSet.txt\n" in capsys.readouterr().out
    assert main([*arguments, str(root / "absent")]) == 1
    said = capsys.readouterr().out
    assert f"there is no folder {root / 'absent'}" in said
    assert "Where to get it: " in said


def test_parent_folder_as_root_is_answered_with_the_right_folder(root: Path) -> None:
    assert f"but {root} has trainSet.txt: give that folder as --root" in check(root.parent).problems[0]


def test_media_that_cannot_be_decoded_are_a_problem_and_repaired_ones_a_remark(root: Path) -> None:
    content = (root / "AVE/-a.mp4").read_bytes()
    (root / "AVE/-a.mp4").write_bytes(content[:100])
    write_media(root / "AVE/b.mp4", audio=tone(amplitude=0.0))
    found = check(root)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("1 of 2 media cannot be decoded: -a.mp4: ")
    assert "1 of 2 media are kept with repairs: b.mp4: silent" in found.remarks
    assert "(a sample of the 2 that are present)" in dict(check(root, sample=1).facts)["decoding"]
    assert not check(root, sample=0).problems
    assert dict(check(root, sample=0).facts)["decoding"] == "nothing decoded"


def test_malformed_lists_and_a_missing_media_folder_are_reported_once(root: Path) -> None:
    (root / "trainSet.txt").write_text("dog&-a&good&0")
    (root / "AVE").rename(root / "videos")
    first, second = check(root).problems
    assert "trainSet.txt, line 1: 4 fields instead of 5" in first
    assert "no media folder" in second
    (root / "testSet.txt").write_bytes(b"\xff\xfe")
    assert "testSet.txt: not UTF-8 text" in check(root).problems[0]


def test_avsbench_masks_are_checked(tmp_path: Path) -> None:
    root = write_s4(tmp_path / "Single-source")
    found = check_data_set("avsbench_s4", root.parent, sample=None, jobs=1)
    assert not found.problems
    facts = dict(found.facts)
    assert facts["s4_meta_data.csv"] == "4 clips, not the published file"
    assert facts["classes"] == "1, as published"
    assert facts["media of train"] == "2 of 2 clips present"
    assert facts["masks of train"] == "2 of 2 present"
    assert facts["masks of test"] == "5 of 5 present"
    assert facts["decoding"] == "4 of 4 media decoded (all that are present)"
    remarks = "\n".join(found.remarks)
    assert "not as published: s4_meta_data.csv (published: 4932 clips)" in remarks
    assert "train: 2 clips, but the published data set has 3452" in remarks

    masks = root / "s4_data/gt_masks"
    (masks / "train/dog_barking/b/b_1.png").unlink()
    (masks / "val/helicopter/c/c_2.png").write_bytes(b"")
    found = check_data_set("avsbench_s4", root, sample=None, jobs=1)
    assert found.problems[0].startswith("train: 1 of 2 masks are missing: b/b_1.png; such segments are not evaluated")
    assert "1 of 4 media cannot be decoded: b: mask of segment 1 missing" in found.problems[1]
    assert "1 of 4 media are kept with repairs: c: mask of segment 2 undecodable" in found.remarks
    found = check_data_set("avsbench_s4", root, sample=0, jobs=1, segments=4)
    assert "clips of train have 5 frames, one per segment, but data.segments is 4" in found.problems[0]


def test_list_with_the_published_length(tmp_path: Path) -> None:
    root = write_ms3(tmp_path)
    videos = [
        f"{split}{index},{split}" for split, n in (("train", 296), ("val", 64), ("test", 64)) for index in range(n)
    ]
    (root / "ms3_meta_data.csv").write_text("\n".join(["video_id,split", *videos]))
    found = check_data_set("avsbench_ms3", root, sample=0, jobs=1)
    assert dict(found.facts)["ms3_meta_data.csv"] == "424 clips, as many as published"
    assert not found.remarks
    assert [problem.split(":")[0] for problem in found.problems] == [
        "train", "train", "val", "val", "test", "test",
    ]  # fmt: skip


def test_optional_files_may_be_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"questions.json": TextFile(2, optional=True), "more.json": TextFile(7, optional=True)}
    official = dataclasses.replace(OFFICIAL["ave"], texts=listed, entry="questions", classes=None)
    monkeypatch.setitem(OFFICIAL, "ave", official)
    (root / "questions.json").write_text('[{"a": 1},\n {"a": 2}]')
    found = check(root)
    assert not found.problems
    facts = dict(found.facts)
    assert facts["questions.json"] == "2 questions, as many as published"
    assert "more.json" not in facts
    assert facts["classes"] == "2"
    (root / "questions.json").write_text('[{"a": 1}')
    assert "questions.json: not JSON" in check(root).problems[0]


def test_a_sample_is_evenly_spaced_over_all(whole: Path) -> None:
    sources = list(range(101))
    assert checking._evenly_spaced(sources, 3) == [0, 50, 100]  # type: ignore[arg-type, comparison-overlap]
    assert checking._evenly_spaced(sources, 1) == [0]  # type: ignore[arg-type, comparison-overlap]
    assert checking._evenly_spaced(sources[:2], 5) == [0, 1]  # type: ignore[arg-type, comparison-overlap]


def test_a_clean_check_exits_with_zero(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["data", "check", "--format", "ave", "--root", str(root), "--segments", "3", "--jobs", "1", "--all"]) == 0
    )
    said = capsys.readouterr().out
    assert said.endswith("No problems found.\n")
    assert "Problems" not in said


def test_arguments_out_of_range(root: Path) -> None:
    with pytest.raises(LavishError, match=r"--jobs must be at least 1"):
        check_data_set("ave", root, sample=1, jobs=0)
    with pytest.raises(LavishError, match=r"unknown data set 'aves' \(did you mean 'ave'"):
        check_data_set("aves", root, sample=1, jobs=1)


def test_segments_without_a_frame_are_reported(tmp_path: Path) -> None:
    root = write_ms3(tmp_path / "Multi-sources")
    (root / "ms3_data/visual_frames/b_0/b_0.mp4_3.png").unlink()
    found = check_data_set("avsbench_ms3", root, sample=None, jobs=1)
    assert found.problems == [
        "train: 1 segments have no frame: b_0: segment 3; such segments are not evaluated, and `lavish prepare` "
        "excludes clips with frames for fewer than half of the segments"
    ]
    assert any("b_0: video covers 4 of 5 segments" in remark for remark in found.remarks)


def test_videos_that_the_layout_cannot_read_are_counted_and_named(tmp_path: Path) -> None:
    """A nested class folder, two endings that are not known and a video beside the classes."""
    read = ["train/cat/a.mp4", "train/dog/a.mp4", "val/cat/a.mp4", "val/dog/a.mp4", "test/cat/a.mp4", "test/dog/a.mp4"]
    unread = ["train/cat/part2/z.mp4", "train/cat/z.m2ts", "train/cat/z.mpe", "train/loose.mp4"]
    for name in [*read, *unread, "train/cat/labels.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = check_data_set("actions", tmp_path, sample=0, jobs=1)
    assert f"4 videos not read, because of their folder or ending: {', '.join(unread)}" in found.remarks
    assert not found.problems


def test_a_key_that_a_list_has_twice_is_a_problem(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"questions.json": TextFile(1)}
    monkeypatch.setitem(OFFICIAL, "ave", dataclasses.replace(OFFICIAL["ave"], texts=listed, entry="questions"))
    (root / "questions.json").write_text('[{"a": 1,\n "a": 2}]')
    assert check(root).problems == [f"{root}/questions.json, line 2: key 'a' is there twice: remove one"]


def test_media_that_training_shares_are_named_and_so_are_pictures_that_look_alike(root: Path) -> None:
    """Here every list is the same, and both videos have the same pictures."""
    texture = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    for video in ("-a", "b"):
        write_media(root / "AVE" / f"{video}.mp4", image=lambda _: texture, audio=tone())
    remarks = "\n".join(check(root).remarks)
    assert "2 media of the training list are in another list as well: -a.mp4 (val, test); b.mp4 (val, test)" in remarks
    assert "look alike" not in remarks, "media of one split may look alike"
    (root / "trainSet.txt").write_text(ROWS[0])
    for name in ("valSet.txt", "testSet.txt"):
        (root / name).write_text(ROWS[1])
    remarks = "\n".join(check(root).remarks)
    assert "media of the training list" not in remarks
    assert "different splits look alike in the middle (pairs: 1): -a.mp4 (train) and b.mp4 (val); look at" in remarks
