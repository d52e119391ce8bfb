"""The reader of the MUSIC-AVQA layout: official lists, questions as word indices, and what malformed folders say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.config.schema import DataConfig
from lavish.data.formats import music_avqa
from lavish.data.formats.base import Targets, missing_media
from lavish.data.store.preparation import prepare
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from tests.media_files import tone, write_media


def record(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "video_id": "00000001",
        "question_id": number,
        "type": '["Audio-Visual", "Location"]',
        "question_content": "Where is the <LL> instrument?",
        "templ_values": '["loudest"]',
        "question_deleted": 0,
        "anser": "left",
    } | changes


COUNT = {"question_content": "How many <Object> \uff1f ", "templ_values": '["piano"]', "type": '["Audio", "Counting"]'}
TRAIN = [record(1), record(2, video_id="-b", anser="one", **COUNT), record(3, anser="two", **COUNT)]


def write(path: Path, records: object) -> None:
    path.write_text(json.dumps(records, indent=1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with three questions about two videos in every list, and one of the videos."""
    for split in ("train", "val", "test"):
        write(tmp_path / f"avqa-{split}.json", TRAIN)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "00000001.mp4").touch()
    return tmp_path


@pytest.fixture
def official(shared: Path) -> Path:
    folder = shared / "data" / "official" / "music_avqa"
    if not folder.is_dir():
        pytest.skip(f"no lists of MUSIC-AVQA in {folder}")
    return folder


def read(root: Path, split: str = "train") -> Targets:
    return music_avqa.targets(root, split, segments=10, segment_seconds=6.0)


# The lists at hand: all questions of validation and test, but of training only those about synthesised videos
# (avqa-train_fake.json; the rest is published as avqa-train_real.json, both together as avqa-train.json).
@pytest.mark.parametrize(
    ("split", "questions", "videos", "types"),
    [
        ("train", 6233, 1861, [442, 1250, 442, 713, 356, 1136, 749, 494, 651]),
        ("val", 4595, 3815, [515, 299, 600, 614, 499, 635, 462, 557, 414]),
        ("test", 9185, 6399, [1022, 601, 1199, 1228, 995, 1274, 927, 1115, 824]),
    ],
)
def test_official_lists_have_their_published_sizes(
    official: Path, split: str, questions: int, videos: int, types: list[int]
) -> None:
    found = read(official, split)
    assert found.arrays["questions"].shape == (questions, music_avqa.WORD_SLOTS)
    assert np.bincount(found.arrays["types"], minlength=9).tolist() == types
    assert len(np.unique(found.clips)) == found.clips.max() + 1 == videos
    assert all(array.dtype == np.int64 for array in (*found.arrays.values(), found.clips))
    assert (found.arrays["questions"] > 0).any(axis=1).all()


def test_official_vocabulary_and_answers_are_the_published_ones_up_to_order(official: Path, tmp_path: Path) -> None:
    listed = (official / "ques_vocab.txt").read_text().splitlines()
    answers = (official / "ans_vocab.txt").read_text().splitlines()
    # The file holds the same 93 words twice, '<pad>' for the empty slot among them.
    assert listed[:93] == listed[93:]
    words = set(listed) - {"<pad>"}
    assert (len(words), len(answers)) == (92, 42)

    # Both were made from the whole training list. The synthesised videos' questions lack eight words and five answers.
    found, given = music_avqa.vocabulary(official), music_avqa.classes(official)
    assert (len(found), len(given)) == (84, 37)
    assert words - set(found) == {"as", "same", "at", "time", "a", "voiceover", "fourth", "fifth"}
    assert set(answers) - set(given) == {"four", "seven", "eight", "nine", "ten"}
    assert set(found) <= words
    assert set(given) <= set(answers)
    assert read(official, "val").notes == {
        "questions with a word that occurs in no training question": 705,
        "questions with an answer that occurs in no training question": 54,
    }
    assert (read(official, "test").arrays["answers"] == -1).sum() == 129

    # The three lists together know every word and all answers but 'ten', which only recorded training videos have.
    names = ("avqa-train_fake.json", "avqa-val.json", "avqa-test.json")
    write(
        tmp_path / "avqa-train.json", [entry for name in names for entry in json.loads((official / name).read_text())]
    )
    assert set(music_avqa.vocabulary(tmp_path)) == words
    assert set(answers) - set(music_avqa.classes(tmp_path)) == {"ten"}


def test_a_part_of_the_training_list_is_read_and_noted(official: Path) -> None:
    assert read(official).notes == {"questions from avqa-train_fake.json, in place of avqa-train.json": 6233}


def test_words_answers_and_types_are_indices(root: Path) -> None:
    assert music_avqa.vocabulary(root) == ["Where", "is", "the", "loudest", "instrument", "How", "many", "piano"]
    assert music_avqa.classes(root) == ["left", "one", "two"]
    found = read(root)
    assert found.arrays["questions"].tolist() == [[1, 2, 3, 4, 5] + [0] * 9, *2 * [[6, 7, 8] + [0] * 11]]
    assert found.arrays["answers"].tolist() == [0, 1, 2]
    assert found.arrays["types"].tolist() == [6, 0, 0]
    assert found.clips is not None
    assert found.clips.tolist() == [0, 1, 0]
    assert found.notes == {}


def test_words_and_answers_that_training_does_not_know_stay_in_and_are_noted(root: Path) -> None:
    unheard = record(9, question_content="Where is the <LL> drum?", anser="behind")
    write(root / "avqa-val.json", [*TRAIN, unheard])
    found = read(root, "val")
    assert found.arrays["questions"][3].tolist() == [1, 2, 3, 4] + [0] * 10
    assert found.arrays["answers"].tolist() == [0, 1, 2, -1]
    assert found.notes == {
        "questions with a word that occurs in no training question": 1,
        "questions with an answer that occurs in no training question": 1,
    }


def test_deleted_questions_are_left_out_and_noted(root: Path) -> None:
    write(root / "avqa-train.json", [record(0, question_deleted=1, anser="gone"), *TRAIN])
    found = read(root)
    assert len(found.arrays["answers"]) == 3
    assert music_avqa.classes(root) == ["left", "one", "two"]
    assert found.notes == {"questions excluded, marked as deleted": 1}


def test_both_parts_of_a_list_stand_in_for_it(root: Path) -> None:
    (root / "avqa-train.json").unlink()
    write(root / "avqa-train_fake.json", TRAIN[2:])
    write(root / "avqa-train_real.json", TRAIN[:2])
    found = read(root)
    assert found.arrays["answers"].tolist() == [0, 1, 2]
    assert found.notes == {
        "questions from avqa-train_real.json, in place of avqa-train.json": 2,
        "questions from avqa-train_fake.json, in place of avqa-train.json": 1,
    }


def test_media_layouts_and_ids_that_begin_with_a_dash(root: Path) -> None:
    first, second = music_avqa.clips(root, "train")
    assert (first.clip, second.clip) == ("00000001", "-b")
    assert missing_media(first) is None
    assert missing_media(second) == "missing videos/-b.mp4"
    for name in ("MUCIS-AVQA-videos-Synthetic", "MUSIC-AVQA-videos-Real"):
        (root / name).mkdir()
    (root / "MUCIS-AVQA-videos-Synthetic" / "-b.mp4").touch()
    first, second = music_avqa.clips(root, "train")
    assert first.video == first.audio == root / "videos" / "00000001.mp4"
    assert second.video == second.audio == root / "MUCIS-AVQA-videos-Synthetic" / "-b.mp4"

    for name in ("MUCIS-AVQA-videos-Synthetic", "MUSIC-AVQA-videos-Real", "videos"):
        (root / name).rename(root / f"not-{name}")
    with pytest.raises(LavishError, match=r"no media folder: .*MUSIC-AVQA-videos-Real/<id>\.mp4.*videos/<id>\.mp4"):
        music_avqa.clips(root, "train")
    (root / "video_frames").mkdir()
    (root / "raw_audio").mkdir()
    first, _ = music_avqa.clips(root, "train")
    assert (first.video, first.audio) == (root / "video_frames" / "00000001", root / "raw_audio" / "00000001.wav")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_id": "../b"}, "video_id '../b' is not a plain name"),
        ({"video_id": ".."}, "is not a plain name"),
        ({"video_id": 5}, "'video_id' is 5: write a non-empty string"),
        ({"anser": None}, "'anser' is null"),
        ({"anser": " "}, "'anser' is \" \""),
        ({"type": '["Audio", "Count"]'}, r"unknown type \[\"Audio\", \"Count\"\] .did you mean"),
        ({"type": "Audio"}, "'type' is Audio: write a list of strings as JSON"),
        ({"type": "[1]"}, "write a list of strings"),
        ({"templ_values": "[" * 100_000}, "write a list of strings"),
        ({"templ_values": "[]"}, "has 1 placeholders, but templ_values only 0"),
        ({"question_content": "Is " + "very " * 13 + "loud?"}, "has 15 words instead of 1 to 14"),
        ({"question_content": "?"}, "has 0 words"),
    ],
)
def test_malformed_records_name_file_record_and_remedy(root: Path, changes: dict[str, Any], message: str) -> None:
    write(root / "avqa-val.json", [TRAIN[0], record(7, **changes)])
    with pytest.raises(LavishError, match=rf"avqa-val\.json, record 2: .*{message}"):
        read(root, "val")


def test_a_question_of_as_many_words_as_there_are_slots_fits(root: Path) -> None:
    write(root / "avqa-val.json", [record(7, question_content="the " * 14)])
    assert read(root, "val").arrays["questions"].tolist() == [[3] * 14]


def test_files_that_cannot_be_read_are_named(root: Path) -> None:
    (root / "avqa-val.json").write_text("[{")
    with pytest.raises(LavishError, match=r"avqa-val\.json: not JSON .*: copy the json files"):
        read(root, "val")
    (root / "avqa-val.json").write_text("[" * 100_000)
    with pytest.raises(LavishError, match=r"avqa-val\.json: not JSON"):
        read(root, "val")
    write(root / "avqa-val.json", {"video_id": "a"})
    with pytest.raises(LavishError, match=r"avqa-val\.json: not a list of records"):
        read(root, "val")
    write(root / "avqa-val.json", [])
    with pytest.raises(LavishError, match=r"avqa-val\.json: contains no question"):
        read(root, "val")
    (root / "avqa-test.json").unlink()
    with pytest.raises(LavishError, match=r"avqa-test\.json: No such file .*: copy the json files"):
        read(root, "test")
    with pytest.raises(LavishError, match=r"unknown split 'tests' \(did you mean 'test'"):
        music_avqa.clips(root, "tests")


def test_a_video_is_prepared_once_and_takes_its_questions_along_when_it_is_left_out(root: Path, tmp_path: Path) -> None:
    write_media(root / "videos" / "00000001.mp4", audio=tone())
    write_media(root / "videos" / "-b.mp4")  # without sound
    config = DataConfig(
        name="small",
        format="music_avqa",
        root=root,
        num_classes=3,
        vocabulary=8,
        segments=3,
        frame_size=16,
        spectrogram={"mel_bins": 16, "frames": 16},
        max_lost=0.5,
    )
    prepare(config, root, "train", tmp_path / "store", jobs=1)
    store = SplitStore(tmp_path / "store")
    assert store.clips == ["00000001"]
    assert store.units.tolist() == [0, 0]
    assert store.targets["answers"].tolist() == [0, 2]
    assert store.targets["questions"].shape == (2, music_avqa.WORD_SLOTS)
    assert (store.vocabulary, store.classes) == (8, ["left", "one", "two"])
    assert "-b,excluded,no audio stream" in (store.path / "report.csv").read_text()
    with pytest.raises(LavishError, match=r"data\.vocabulary is 9, but .* has 8 words"):
        prepare(config.model_copy(update={"vocabulary": 9}), root, "train", tmp_path / "other", jobs=1)


def test_a_key_that_a_record_has_twice_is_an_error(root: Path) -> None:
    text = (root / "avqa-val.json").read_text()
    (root / "avqa-val.json").write_text(text.replace('"anser": "one"', '"anser": "one",\n  "anser": "two"'))
    with pytest.raises(LavishError, match=r"avqa-val\.json, line 19: key 'anser' is there twice: remove one"):
        read(root, "val")
