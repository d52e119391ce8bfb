"""The reader of labelled videos: its three layouts, their classes and splits, and what malformed folders say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lavish.data.formats import actions
from lavish.data.formats.base import missing_media
from lavish.data.formats.registry import reader
from lavish.errors import LavishError

TABLE = """label,path,split,note
"dog, barking",videos/-a.mp4,train,
cat,videos/b.mp4,train,x
cat,videos/c.mp4,val,
"dog, barking",videos/d.mp4,test,
cat,videos/e.mp4,test,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A folder with a table, and one of its videos."""
    (tmp_path / "clips.csv").write_text(TABLE)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "-a.mp4").touch()
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Class folders of three splits."""
    for name in ("train/run/a.mp4", "train/run/-b.AVI", "train/eat/c.webm", "val/run/d.mp4", "test/eat/e.mp4"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("train/run/.hidden.mp4", "train/run/list.txt", "train/.cache/x.mp4", "train/stray.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """UCF101's lists and folder."""
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 2\nTyping/-x y.avi 7\n\n")
    (tmp_path / "vallist01.txt").write_text("Archery/v_Archery_g09_c01.avi 2\n")
    (tmp_path / "testlist01.txt").write_text("Typing/v_Typing_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\n")
    (tmp_path / "UCF-101" / "Typing").mkdir(parents=True)
    return tmp_path


def labels(root: Path, split: str) -> list[int]:
    return actions.targets(root, split, segments=4, segment_seconds=1.0).arrays["labels"].tolist()


def names(root: Path, split: str) -> list[str]:
    return [source.clip for source in actions.clips(root, split)]


def test_a_table_names_clips_and_labels_in_its_order(table: Path) -> None:
    assert actions.classes(table) == ["cat", "dog, barking"]
    assert actions.vocabulary(table) == []
    first, second = actions.clips(table, "train")
    assert (first.clip, second.clip) == ("videos/-a.mp4", "videos/b.mp4")
    assert missing_media(first) is None
    assert missing_media(second) == "missing videos/b.mp4"
    assert first.video == first.audio == table / "videos" / "-a.mp4"
    assert second.masks == ()
    assert labels(table, "train") == [1, 0]
    assert labels(table, "val") == [0]
    assert labels(table, "test") == [1, 0]
    targets = actions.targets(table, "test", segments=4, segment_seconds=1.0)
    assert targets.arrays["labels"].dtype == np.int64
    assert targets.clips is None
    assert reader("actions") is actions


def test_windows_line_ends_byte_order_marks_and_empty_lines_are_harmless(table: Path) -> None:
    (table / "clips.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n\r\n").encode())
    assert labels(table, "train") == [1, 0]


def test_class_folders(folders: Path) -> None:
    assert actions.classes(folders) == ["eat", "run"]
    assert names(folders, "train") == ["eat/c.webm", "run/-b.AVI", "run/a.mp4"]
    assert labels(folders, "train") == [0, 1, 1]
    assert (names(folders, "val"), labels(folders, "val")) == (["run/d.mp4"], [1])
    assert (names(folders, "test"), labels(folders, "test")) == (["eat/e.mp4"], [0])
    assert actions.clips(folders, "test")[0].video == folders / "test" / "eat" / "e.mp4"


def test_lists_of_ucf101(lists: Path) -> None:
    assert actions.classes(lists) == ["Archery", "Typing"]
    assert names(lists, "train") == ["Archery/v_Archery_g08_c01.avi", "Typing/-x y.avi"]
    assert labels(lists, "test") == [1, 0]
    assert actions.clips(lists, "train")[1].audio == lists / "UCF-101" / "Typing" / "-x y.avi"
    (lists / "UCF-101").rename(lists / "videos")
    assert actions.clips(lists, "val")[0].video == lists / "videos" / "Archery" / "v_Archery_g09_c01.avi"


def test_a_clip_listed_twice_has_two_names(lists: Path) -> None:
    (lists / "vallist01.txt").write_text("Archery/a.avi\nArchery/a.avi\n")
    assert names(lists, "val") == ["Archery/a.avi", "Archery/a.avi#2"]


def test_listed_classes_give_the_order_and_choose_among_folders_and_lists(folders: Path) -> None:
    (folders / "classes.txt").write_text("run\neat\n")
    assert actions.classes(folders) == ["run", "eat"]
    assert labels(folders, "train") == [1, 0, 0]
    (folders / "classes.txt").write_text("run\n")
    assert names(folders, "train") == ["run/-b.AVI", "run/a.mp4"]
    assert actions.targets(folders, "train", segments=1, segment_seconds=1.0).notes == {
        "clips excluded, of a class that classes.txt does not list": 1
    }
    assert actions.targets(folders, "val", segments=1, segment_seconds=1.0).notes == {}
    with pytest.raises(LavishError, match="no clips of the split 'test'"):
        labels(folders, "test")
    (folders / "classes.txt").write_text("run\nrunn\n")
    with pytest.raises(LavishError, match=r"classes\.txt: no training clip of class 'runn'"):
        actions.classes(folders)
    (folders / "classes.txt").write_text("run\nrun\n")
    with pytest.raises(LavishError, match=r"classes\.txt: class 'run' occurs twice"):
        actions.classes(folders)
    (folders / "classes.txt").write_text("\n")
    with pytest.raises(LavishError, match=r"classes\.txt: lists no class"):
        actions.classes(folders)


def test_a_table_may_list_classes_without_a_clip_but_no_label_beyond_them(table: Path) -> None:
    (table / "classes.txt").write_text("dog, barking\ncow\ncat\n")
    assert actions.classes(table) == ["dog, barking", "cow", "cat"]
    assert labels(table, "test") == [0, 2]
    (table / "classes.txt").write_text("dog, barking\ncats\n")
    with pytest.raises(
        LavishError, match=r"clips\.csv, line 3: class 'cat' is not in classes\.txt .did you mean 'cats"
    ):
        labels(table, "val")


def test_validation_is_never_made_of_test_clips(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (table / "clips.csv").write_text(TABLE.replace(",val,", ",train,"))
    with pytest.raises(LavishError, match=r"no validation clips, .* hold out some training clips"):
        actions.clips(table, "val")
    assert len(actions.clips(table, "train")) == 3
    folder = tmp_path_factory.mktemp("folders")
    for split in ("train", "test"):
        (folder / split / "run").mkdir(parents=True)
        (folder / split / "run" / f"{split}.mp4").touch()
    with pytest.raises(LavishError, match=r"no validation clips, .* hold out some training clips"):
        actions.clips(folder, "val")


def test_missing_lists_say_how_to_make_them(lists: Path) -> None:
    (lists / "vallist01.txt").unlink()
    with pytest.raises(LavishError, match=r"no vallist01\.txt, .* move some lines of the training list"):
        actions.clips(lists, "val")
    (lists / "testlist01.txt").rename(lists / "vallist01.txt")
    with pytest.raises(LavishError, match=r"no testlist01\.txt: copy the lists"):
        actions.clips(lists, "test")
    (lists / "trainlist02.txt").touch()
    with pytest.raises(
        LavishError, match=r"both trainlist01\.txt and trainlist02\.txt: keep the lists of one fold only"
    ):
        actions.classes(lists)
    (lists / "trainlist02.txt").unlink()
    (lists / "UCF-101").rename(lists / "UCF101")
    with pytest.raises(LavishError, match="no folder UCF-101 or videos"):
        actions.clips(lists, "train")


def test_a_class_without_training_clips_is_refused(folders: Path) -> None:
    (folders / "test" / "eats").mkdir()
    (folders / "test" / "eats" / "f.mp4").touch()
    assert labels(folders, "val") == [1]
    with pytest.raises(LavishError, match=r"f\.mp4: class 'eats' has no training clip \(did you mean 'eat'"):
        labels(folders, "test")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat,../b.mp4,train,", "path '../b.mp4' is not inside the folder"),
        ("cat,videos/../../b.mp4,train,", "is not inside the folder"),
        ("cat,/etc/b.mp4,train,", "is not inside the folder"),
        ("cat,,train,", "path '' is not inside the folder"),
        ("cat,.,train,", "path '.' is not inside the folder"),
        ("cat,a\\b.mp4,train,", "is not inside the folder"),
        ("cat,b.mp4,validation,", "unknown split 'validation' .one of: test, train, val"),
        ("cat,b.mp4,tests,", "unknown split 'tests' .did you mean 'test'"),
        ("cat,videos/-a.mp4,test,", "is in the splits 'train' and 'test': list it in one split only"),
        (",b.mp4,train,", "no label"),
        ("dog, barking,b.mp4,train,", "5 fields instead of 4: quote fields that contain commas"),
        ("cat,b.mp4,train", "3 fields instead of 4"),
        ('"cat,b.mp4,train,', "malformed CSV .unexpected end"),
    ],
)
def test_malformed_lines_name_file_line_and_remedy(table: Path, line: str, message: str) -> None:
    (table / "clips.csv").write_text(f"{TABLE}\n{line}\n")
    with pytest.raises(LavishError, match=rf"clips\.csv, line 8: .*{message}"):
        labels(table, "val")


@pytest.mark.parametrize("line", ["a.avi", "a/b/c.avi", "../a.avi", "./a.avi", "a/", "/a.avi", "a/.. 3", "7"])
def test_malformed_lines_of_lists(lists: Path, line: str) -> None:
    (lists / "vallist01.txt").write_text(f"Archery/a.avi\n{line}\n")
    with pytest.raises(LavishError, match=r"vallist01\.txt, line 2: .*write '<class>/<video>'"):
        labels(lists, "val")


def test_missing_files_and_folders_are_named(table: Path) -> None:
    for header in ("path,label", "path,label,split,path", ""):
        (table / "clips.csv").write_text(f"{header}\n")
        with pytest.raises(
            LavishError, match=r"clips\.csv, line 1: the header needs exactly one column '(split|path)'"
        ):
            actions.classes(table)
    (table / "clips.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(LavishError, match=r"clips\.csv: not UTF-8"):
        actions.classes(table)
    (table / "clips.csv").unlink()
    with pytest.raises(LavishError, match=r"no labelled videos in a known layout: give clips\.csv"):
        actions.classes(table)
    with pytest.raises(LavishError, match=r"no such folder: correct data\.root"):
        actions.classes(table / "elsewhere")
    with pytest.raises(LavishError, match=r"unknown split 'tests' \(did you mean 'test'"):
        actions.clips(table, "tests")
