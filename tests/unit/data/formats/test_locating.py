"""Listed files whose names on disk have another Unicode form or case."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from lavish.data.formats import ave, music_avqa
from lavish.data.formats.base import missing_media
from lavish.data.formats.locating import Locator

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Case").touch()
    if (tmp_path / "case").exists():
        pytest.skip("this file system does not tell names in another case apart")
    (tmp_path / "Case").unlink()
    return tmp_path


def test_one_match_is_found_also_below_a_folder_in_another_case(folder: Path) -> None:
    (folder / "Videos").mkdir()
    (folder / "Videos" / f"{DECOMPOSED}.MP4").touch()
    listed = folder / "videos" / f"{COMPOSED}.mp4"
    source = Locator([listed]).source("clip", listed, listed)
    assert source.video == source.audio == folder / "Videos" / f"{DECOMPOSED}.MP4"
    assert source.notes == (f"found in another case or Unicode form: Videos/{DECOMPOSED}.MP4",)


def test_a_file_that_exists_or_is_listed_or_ambiguous_is_not_taken_for_another(folder: Path) -> None:
    for name in ("a.mp4", "A.mp4", "b.mp4", "B.mp4", "C.mp4"):
        (folder / name).touch()
    listed = [folder / name for name in ("a.mp4", "ä.mp4", "C.mp4", "c.mp4")]
    locator = Locator(listed)
    assert [locator.find(path) for path in listed] == listed
    assert Locator([folder / "c.mp4"]).find(folder / "c.mp4") == folder / "C.mp4"
    (folder / "D.mp4").touch()
    (folder / "d.MP4").touch()
    assert Locator([]).find(folder / "d.mp4") == folder / "d.mp4"


def test_extracted_frames_and_sound_of_ave(folder: Path) -> None:
    (folder / "video_frames" / "ID").mkdir(parents=True)
    (folder / "raw_audio").mkdir()
    (folder / "raw_audio" / "id.wav").touch()
    (folder / "trainSet.txt").write_text("cat&id&good&0&2")
    [clip] = ave.clips(folder, "train")
    assert (clip.video, clip.audio) == (folder / "video_frames" / "ID", folder / "raw_audio" / "id.wav")
    assert clip.notes == ("found in another case or Unicode form: video_frames/ID",)
    assert missing_media(clip) is None


@pytest.mark.parametrize("extracted", [False, True])
def test_videos_of_music_avqa_in_any_of_its_folders(folder: Path, extracted: bool) -> None:
    record = {
        "video_id": "id", "question_content": "Is it loud ?", "templ_values": "[]", "anser": "yes",
        "type": '["Audio", "Comparative"]',
    }  # fmt: skip
    (folder / "avqa-train.json").write_text(json.dumps([record]))
    names = ["video_frames/ID", "raw_audio"] if extracted else ["MUSIC-AVQA-videos-Real", "videos"]
    for name in names:
        (folder / name).mkdir(parents=True)
    (folder / names[1] / ("id.wav" if extracted else "Id.mp4")).touch()
    [clip] = music_avqa.clips(folder, "train")
    found = "video_frames/ID" if extracted else "videos/Id.mp4"
    assert clip.notes == (f"found in another case or Unicode form: {found}",)
    assert clip.video == folder / found
    assert missing_media(clip) is None
