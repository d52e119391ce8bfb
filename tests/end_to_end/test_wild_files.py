"""Files as people have them: `lavish data check` and `lavish prepare` say the same of each; none ends a data set."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavish.cli.main import main
from lavish.config.schema import SPLITS, DataConfig
from lavish.data.checking import check_data_set
from lavish.data.decoding import media
from lavish.data.formats.listed import listed_files
from lavish.data.store.preparation import prepare
from lavish.data.store.store import SplitStore
from lavish.io.checksum_cache import Checksums
from lavish.io.fingerprint import fingerprint
from tests.avsbench_files import write_s4
from tests.media_files import tone, write_media


def both(root: Path, out: Path, *, form: str = "actions", **changes: object) -> tuple[SplitStore, dict[str, list[str]]]:
    """Check and prepare the training split; return its store and the report, and compare it with the check's findings.

    Each reason of the report must be among the problems (excluded clips) or the remarks (repaired ones) of the check.
    """
    values = {
        "name": "wild", "root": "r", "format": form, "num_classes": 2, "segments": 3, "frame_size": 48, "max_lost": 0.9,
    }  # fmt: skip
    config = DataConfig.model_validate(values | changes)
    # In this order, because the processes of both are forked from one that has imported what the first needs.
    prepare(config, root, "train", out, jobs=1)
    found = check_data_set(
        form, root, sample=None, jobs=1, segments=config.segments, segment_seconds=config.segment_seconds
    )
    store = SplitStore(out)
    store.verify()
    with (out / "report.csv").open(newline="", encoding="utf-8") as file:
        report = {row["clip"]: [row["status"], row["reason"]] for row in csv.DictReader(file)}
    said = {"excluded": "\n".join(found.problems), "repaired": "\n".join(found.remarks)}
    for status, reason in report.values():
        assert status == "ok" or reason in ascii_(said[status]), (reason, found)
    assert store.clips == [clip for clip, (status, _) in report.items() if status != "excluded"]
    return store, report


def ascii_(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def counted(report: dict[str, list[str]], status: str) -> int:
    return sum(found == status for found, _ in report.values())


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("video") / "a.mp4", audio=tone())


@pytest.fixture
def root(video: Path, tmp_path: Path) -> Path:
    """Class folders with one good video of each of two classes in each split."""
    for split in SPLITS:
        for name in ("cat", "dog"):
            (tmp_path / "root" / split / name).mkdir(parents=True)
            shutil.copy(video, tmp_path / "root" / split / name / "a.mp4")
    return tmp_path / "root"


def test_a_folder_called_like_a_video(shared: Path, tmp_path: Path) -> None:
    root = shared / "cases" / "folder_called_like_a_video" / "ds_dir"
    store, report = both(root, tmp_path / "train", segments=10)
    assert report["cat/v_g01.avi"] == ["excluded", "cat/v_g01.avi is a folder, which has no sound"]
    assert counted(report, "ok") == len(store) == 2


def test_streams_without_a_decoder(shared: Path, root: Path, tmp_path: Path) -> None:
    for path in (shared / "cases" / "undecodable_stream").glob("*.mp4"):
        shutil.copy(path, root / "train" / "cat" / path.name)
    store, report = both(root, tmp_path / "train")
    assert report.pop("cat/apac_only.mp4") == [
        "excluded", "no decodable audio in apac_only.mp4: there is no decoder for its format",
    ]  # fmt: skip
    assert report.pop("cat/video_unknown.mp4") == [
        "excluded", "no decodable video in video_unknown.mp4: there is no decoder for its format",
    ]  # fmt: skip
    assert counted(report, "ok") == 3
    waveform = store.waveforms[store.clips.index("cat/apac_iphone.mp4")].astype(float)
    assert np.abs(np.fft.rfft(waveform)).argmax() / 3 == pytest.approx(440, abs=1)


def test_mirrored_display_matrices(shared: Path, root: Path, tmp_path: Path) -> None:
    corners = {"plain": "rgbw", "hflip": "grwb", "vflip": "bwrg", "transpose": "rbgw", "antitranspose": "wgbr"}
    for name in corners:
        shutil.copy(shared / "cases" / "mirrored_display_matrix" / f"{name}.mp4", root / "train" / "cat")
    store, report = both(root, tmp_path / "train")
    assert counted(report, "ok") == len(report) == 7
    colours = {"r": (255, 0, 0), "g": (0, 255, 0), "b": (0, 0, 255), "w": (255, 255, 255)}
    for name, expected in corners.items():
        frame = store.frames[store.clips.index(f"cat/{name}.mp4")][1]
        seen = [frame[row, column] for row in (6, 42) for column in (6, 42)]
        np.testing.assert_allclose(seen, [colours[colour] for colour in expected], atol=5)


def test_sixteen_bit_pictures(shared: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(shared / "cases" / "grey16_pictures" / "ffg16", root / "video_frames" / "v")
    (root / "raw_audio").mkdir()
    write_media(root / "raw_audio" / "v.wav", times=None, audio=tone(10), audio_codec="pcm_s16le", audio_format="s16")
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text("cat&v&good&0&10")
    (root / "Annotations.txt").write_text("header\ncat&v&good&0&10\ndog&v&good&0&10")
    store, report = both(root, tmp_path / "train", form="ave", segments=10)
    assert report == {"v": ["ok", ""]}
    np.testing.assert_allclose(store.frames[0, :, 24, 24, 0], 20 + 10 * np.arange(10), atol=5)


def test_palettes_and_grey_values_of_masks(shared: Path, tmp_path: Path) -> None:
    root = write_s4(tmp_path / "root")
    masks = root / "s4_data" / "gt_masks" / "train" / "dog_barking"
    shutil.copy(shared / "cases" / "mask_palette" / "pngquant.png", masks / "-a_1" / "-a_1_1.png")
    with Image.open(shared / "cases" / "mask_palette" / "L.png") as plain:
        plain.resize((100, 100), Image.Resampling.BICUBIC).save(masks / "b" / "b_1.png")
    store, report = both(root, tmp_path / "train", form="avsbench_s4", num_classes=1, segments=5, frame_size=64)
    assert report["-a_1"] == ["ok", ""]
    note = "mask of segment 1: several grey values: the object is what has at least half of white"
    assert report["b"] == ["repaired", note]
    assert store.masks is not None
    assert store.masks[0, 0, 20:40, 10:50].all()
    assert store.masks[0, 0].sum() == 800
    assert abs(int(store.masks[1, 0].sum()) - 800) < 60


def test_a_name_that_is_too_long(root: Path, tmp_path: Path) -> None:
    long = "n" * 300 + ".mp4"
    lines = [f"{split}/{name}/a.mp4,{name},{split}" for split in SPLITS for name in ("cat", "dog")]
    (root / "clips.csv").write_text("\n".join(["path,label,split", *lines, f"train/cat/{long},cat,train"]))
    _, report = both(root, tmp_path / "train")
    assert report[f"train/cat/{long}"] == ["excluded", f"missing cat/{long}"]
    assert fingerprint(root, listed_files("actions", root))
    assert Checksums(tmp_path / "memory.json").of_files(root, "all", lambda: listed_files("actions", root))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as open_socket:
        open_socket.bind(os.path.relpath(path))  # the whole path may be longer than a socket's address


@pytest.mark.parametrize("make", [pipe, bound_socket])
def test_what_is_no_regular_file_is_not_opened(root: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(root / "train" / "cat" / "b.mp4")
    _, report = both(root, tmp_path / "train")
    assert report["cat/b.mp4"] == ["excluded", "cat/b.mp4 is not a regular file"]
    assert counted(report, "ok") == 2
    assert fingerprint(root, listed_files("actions", root))
    os.mkfifo(root / "clips.csv")
    assert "clips.csv: not a regular file" in check_data_set("actions", root, sample=0, jobs=1).problems[0]


def test_names_that_are_not_utf_8(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "train" / "cat"
    names = [os.fsdecode(name) for name in (b"caf\xe9.mp4", b"broken\xe9.mp4", b"pipe\xe9.mp4")]
    (folder / "a.mp4").rename(folder / names[0])
    (folder / names[1]).write_bytes(b"nothing")
    os.mkfifo(folder / names[2])
    store, report = both(root, tmp_path / "train")
    assert store.clips == ["cat/caf\\udce9.mp4", "dog/a.mp4"]
    assert report["cat/caf\\udce9.mp4"] == ["ok", ""]
    assert report["cat/broken\\udce9.mp4"][0] == "excluded"
    assert report["cat/pipe\\udce9.mp4"] == ["excluded", "cat/pipe\\udce9.mp4 is not a regular file"]
    assert main(["data", "check", "--task", "actions", "--root", str(root), "--segments", "3", "--jobs", "1"]) == 1
    assert "broken\\udce9.mp4" in capsys.readouterr().out
    assert Checksums(tmp_path / "memory.json").of_files(root, "all", lambda: listed_files("actions", root))


def test_names_in_another_unicode_form_or_case(root: Path, video: Path, tmp_path: Path) -> None:
    folder = root / "train" / "cat"
    lines = [f"{split}/{name}/a.mp4,{name},{split}" for split in SPLITS for name in ("cat", "dog")]
    names = ["caf\u00e9.mp4", "UPPER.MP4", "twice.mp4", "Id.mp4", "iD.mp4"]
    (root / "clips.csv").write_text(
        "\n".join(["path,label,split", *lines, *(f"train/cat/{name},cat,train" for name in names)]), encoding="utf-8"
    )
    for name in (unicodedata.normalize("NFD", names[0]), "upper.mp4", "Twice.mp4", "tWice.mp4", "iD.mp4"):
        shutil.copy(video, folder / name)
    if (folder / "UPPER.MP4").exists():
        pytest.skip("this file system does not tell names in another case apart")
    store, report = both(root, tmp_path / "train")
    found = "found in another case or Unicode form: cat/"
    assert report[f"train/cat/{names[0]}"] == ["repaired", found + unicodedata.normalize("NFD", names[0])]
    assert report["train/cat/UPPER.MP4"] == ["repaired", f"{found}upper.mp4"]
    assert report["train/cat/twice.mp4"] == ["excluded", "missing cat/twice.mp4"]  # two files match
    assert report["train/cat/Id.mp4"] == ["excluded", "missing cat/Id.mp4"]  # the match is another clip of the list
    assert report["train/cat/iD.mp4"] == ["ok", ""]
    assert len(store) == 5


def test_folders_of_frames_in_another_case(tmp_path: Path) -> None:
    root = write_s4(tmp_path / "root")
    for folder in ("visual_frames", "gt_masks"):
        clips = root / "s4_data" / folder / "train" / "dog_barking"
        (clips / "b").rename(clips / "B")
    store, report = both(root, tmp_path / "train", form="avsbench_s4", num_classes=1, segments=5)
    assert report["b"] == ["repaired", "found in another case or Unicode form: dog_barking/B"]
    assert store.masks is not None
    assert store.masks[1, 0].any()


def test_an_unforeseen_error_excludes_one_clip(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(root / "train" / "cat" / "a.mp4", root / "train" / "cat" / "strange.mp4")
    decode = media.decode_video_frames

    def fail(container: media.Container, *arguments: object) -> object:
        if container.name == "strange.mp4":
            raise AttributeError("'NoneType' object has no attribute 'thread_count'")
        return decode(container, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(media, "decode_video_frames", fail)
    monkeypatch.setattr("lavish.data.checking.run_all", in_this_process)
    monkeypatch.setattr("lavish.data.store.clip_jobs.run_all", in_this_process)
    _, report = both(root, tmp_path / "train")
    assert report["cat/strange.mp4"] == [
        "excluded", "AttributeError: 'NoneType' object has no attribute 'thread_count'",
    ]  # fmt: skip
    assert counted(report, "ok") == 2


def in_this_process(work: Callable[..., list], clips: list, _jobs: int, _preload: object) -> list:
    """Decode without other processes, in which nothing can be replaced."""
    return [work(clips)]


def test_joined_recordings(root: Path, tmp_path: Path) -> None:
    pieces = [write_media(tmp_path / f"{n}.ts", times=np.arange(12) / 4, audio=tone()).read_bytes() for n in range(2)]
    (root / "train" / "cat" / "joined.ts").write_bytes(b"".join(pieces))
    _, report = both(root, tmp_path / "train", segments=6)
    assert report["cat/joined.ts"][0] == "repaired"
    assert report["cat/joined.ts"][1].startswith("timestamps jump by -3.")
