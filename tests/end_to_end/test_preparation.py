"""From an official layout to a prepared split: contents, interruptions, and clips that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavish.config.schema import DataConfig
from lavish.data.decoding.media import decode_clip
from lavish.data.decoding.spectrogram import log_mels
from lavish.data.formats.base import ClipSource
from lavish.data.store import preparation
from lavish.data.store.clip_jobs import ClipValues, Outcome, decode_all
from lavish.data.store.journal import Journal
from lavish.data.store.preparation import prepare
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from tests.media_files import grey_levels, tone, write_media
from tests.stores import as_picture

CLIPS = 24
VIDEOS = ["-0", *(f"v{index:02d}" for index in range(1, CLIPS))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AVE folder without a fault: two classes, three segments of a second."""
    root = tmp_path_factory.mktemp("whole")
    (root / "AVE").mkdir()
    rows = []
    for index, video in enumerate(VIDEOS):
        write_media(
            root / "AVE" / f"{video}.mp4",
            image=lambda number, index=index: grey_levels(number)[::, ::-1] // (1 + index % 3),
            audio=tone(frequency=200 + 40 * index),
        )
        rows.append(f"{'cat' if index % 2 else 'dog'}&{video}&good&{index % 3}&3")
    for name in ("trainSet.txt", "valSet.txt", "testSet.txt"):
        (root / name).write_text("\n".join(rows) + "\n")
    (root / "Annotations.txt").write_text("\n".join(["header", *rows]) + "\n")
    return root


FORMS = ["raw", "jpeg"]


@pytest.fixture(scope="module")
def references(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What an uninterrupted preparation of the faultless folder with one process writes, by form of the frames."""
    written = {}
    for form in FORMS:
        out = tmp_path_factory.mktemp("reference") / "train"
        prepare(stored(form), whole, "train", out, jobs=1)
        written[form] = contents(out)
    return written


@pytest.fixture
def reference(references: dict[str, dict[str, bytes]]) -> dict[str, bytes]:
    """That of raw frames."""
    return references["raw"]


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


def config(**changes: object) -> DataConfig:
    values = {"name": "tiny", "root": "official", "num_classes": 2, "segments": 3, "frame_size": 32}
    return DataConfig.model_validate(values | changes)


def stored(form: str, **changes: object) -> DataConfig:
    return config(store={"frames": form}, **changes)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def report(path: Path) -> dict[str, tuple[str, str]]:
    with path.open(newline="") as file:
        return {row["clip"]: (row["status"], row["reason"]) for row in csv.DictReader(file)}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the clips that preparations in this test hand over for decoding."""
    names: list[str] = []

    def spy(values: ClipValues, clips: list[tuple[int, ClipSource]], jobs: int) -> Iterator[list[Outcome]]:
        names.extend(source.clip for _, source in clips)
        return decode_all(values, clips, jobs)

    monkeypatch.setattr(preparation, "decode_all", spy)
    return names


def test_a_prepared_split_holds_what_decoding_gives(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "store" / "train").mkdir(parents=True)  # as a workflow engine makes it
    prepare(config(), whole, "train", tmp_path / "store" / "train", jobs=2)
    store = SplitStore(tmp_path / "store" / "train")
    store.verify()
    assert store.clips == VIDEOS
    assert store.classes == ["cat", "dog"]
    assert store.targets["labels"][:3].tolist() == [[1, 1, 1], [2, 0, 0], [2, 2, 1]]
    assert store.frames.shape == (CLIPS, 3, 32, 32, 3)
    assert store.log_mels.shape == (CLIPS, 3, 48, 48)
    assert store.waveforms.shape == (CLIPS, 48000)
    for index in (0, 5, CLIPS - 1):
        path = whole / "AVE" / f"{VIDEOS[index]}.mp4"
        frames, waveform, _ = decode_clip(
            ClipSource("", path, path), segments=3, duration=3.0, frame_size=32, sample_rate=16000
        )
        mels = log_mels(torch.from_numpy(waveform) / 32768, segments=3, **config().spectrogram.model_dump())
        np.testing.assert_array_equal(store.frames[index], frames)
        np.testing.assert_array_equal(store.waveforms[index], waveform)
        np.testing.assert_array_equal(store.log_mels[index], mels.numpy().astype(np.float16))
    pixels, mels = store.frames / 255, store.log_mels.astype(np.float64)
    np.testing.assert_allclose(store.statistics["frames"]["mean"], pixels.mean(axis=(0, 1, 2, 3)))
    np.testing.assert_allclose(store.statistics["frames"]["std"], pixels.std(axis=(0, 1, 2, 3)))
    np.testing.assert_allclose(store.statistics["log_mels"]["mean"], mels.mean())
    np.testing.assert_allclose(store.statistics["log_mels"]["std"], mels.std())
    assert set(report(store.path / "report.csv").values()) == {("ok", "")}
    assert store.manifest["config"]["frame_size"] == 32
    assert [path.name for path in store.path.parent.iterdir()] == ["train"]


@pytest.mark.parametrize(("filter_bank", "frames"), [("kaldi", 98), ("slaney", 101)])
def test_padding_is_not_part_of_the_statistics(whole: Path, tmp_path: Path, filter_bank: str, frames: int) -> None:
    padded = config(spectrogram={"shift_ms": 10.0, "frames": 128, "filter_bank": filter_bank})
    prepare(padded, whole, "val", tmp_path / "val", jobs=2)
    store = SplitStore(tmp_path / "val")
    assert store.valid_frames == frames
    assert not store.log_mels[..., frames:].any()
    heard = store.log_mels[..., :frames].astype(np.float64)
    np.testing.assert_allclose(store.statistics["log_mels"]["mean"], heard.mean())


@pytest.mark.parametrize("form", FORMS)
def test_the_number_of_processes_changes_no_byte(
    whole: Path, tmp_path: Path, references: dict[str, dict[str, bytes]], form: str
) -> None:
    prepare(stored(form), whole, "train", tmp_path / "train", jobs=3)
    assert contents(tmp_path / "train") == references[form]


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupted_preparation_goes_on_where_it_stopped(
    whole: Path,
    tmp_path: Path,
    references: dict[str, dict[str, bytes]],
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    add = Journal.add

    def interrupt(self: Journal, outcomes: list[Outcome]) -> None:
        add(self, outcomes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(stored(form), whole, "train", tmp_path / "train", jobs=1)
    assert not (tmp_path / "train").exists()
    # A line that was being written when the machine stopped.
    with (tmp_path / "train.partial" / "journal.jsonl").open("a") as file:
        file.write('{"index": 23, "sta')
    decoded.clear()
    prepare(stored(form), whole, "train", tmp_path / "train", jobs=1)
    assert decoded == VIDEOS[8:]
    assert contents(tmp_path / "train") == references[form]


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_preparation_leaves_no_process_and_goes_on(
    whole: Path, tmp_path: Path, references: dict[str, dict[str, bytes]], decoded: list[str], form: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from lavish.config.schema import DataConfig;"
        "from lavish.data.store.preparation import prepare;"
        "prepare(DataConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), 'train', Path(sys.argv[3]), 1)"
    )
    arguments = [stored(form).model_dump_json(), str(whole), str(tmp_path / "train")]
    repository = Path(preparation.__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=repository, start_new_session=True)
    journal = tmp_path / "train.partial" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        pytest.fail("processes were left behind")
    except ProcessLookupError:
        pass
    assert not (tmp_path / "train").exists()
    prepare(stored(form), whole, "train", tmp_path / "train", jobs=1)
    assert len(decoded) < CLIPS
    assert contents(tmp_path / "train") == references[form]


def interrupted(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch, form: str = "raw") -> None:
    """Decode everything, but stop before the store is finished."""
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_statistics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(stored(form), root, "train", out, jobs=1)


def test_only_what_changed_is_decoded_again(
    root: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "train"
    interrupted(root, out, monkeypatch)
    decoded.clear()
    shutil.copy(root / "AVE" / "v02.mp4", root / "AVE" / "v01.mp4")  # a medium was replaced
    waveforms = np.load(out.with_name("train.partial") / "waveforms.npy", mmap_mode="r+")
    waveforms[3] = 0  # rows never reached the disk
    waveforms.flush()
    prepare(config(), root, "train", out, jobs=1)
    assert decoded == ["v01", "v03"]
    store = SplitStore(out)
    np.testing.assert_array_equal(store.waveforms[1], store.waveforms[2])
    assert store.waveforms[3].any()


def test_lost_pictures_are_decoded_again_and_shards_of_an_interruption_are_replaced(
    root: Path,
    tmp_path: Path,
    references: dict[str, dict[str, bytes]],
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "train"
    interrupted(root, out, monkeypatch, "jpeg")
    work = out.with_name("train.partial")
    decoded.clear()
    pictures = (work / "pictures" / "3").read_bytes()
    (work / "pictures" / "3").write_bytes(pictures[:-1] + b"\0")  # never reached the disk
    (work / "pictures" / "7").unlink()
    (work / "frames-00001.bin").write_bytes(b"of a longer list")
    prepare(stored("jpeg"), root, "train", out, jobs=1)
    assert decoded == ["v03", "v07"]
    assert contents(out) == references["jpeg"]


@pytest.mark.parametrize("change", ["configuration", "list", "form", "quality"])
def test_another_job_starts_anew(
    root: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    out = tmp_path / "train"
    form = "jpeg" if change == "quality" else "raw"
    interrupted(root, out, monkeypatch, form)
    decoded.clear()
    if change == "list":
        rows = (root / "trainSet.txt").read_text().splitlines()
        (root / "trainSet.txt").write_text("\n".join(rows[::-1]))
    store = {"form": {"frames": "jpeg"}, "quality": {"frames": "jpeg", "quality": 50}}.get(change, {})
    prepare(config(frame_size=16 if change == "configuration" else 32, store=store), root, "train", out, jobs=1)
    assert sorted(decoded) == sorted(VIDEOS)
    assert SplitStore(out).clips == (VIDEOS[::-1] if change == "list" else VIDEOS)


def test_unusable_clips_are_left_out_and_the_others_keep_their_order(root: Path, tmp_path: Path) -> None:
    media = root / "AVE"
    (media / "v03.mp4").unlink()
    (media / "v05.mp4").write_bytes((media / "v05.mp4").read_bytes()[:1000])
    write_media(media / "v07.mp4")
    write_media(media / "v09.mp4", audio=np.zeros(48000))
    write_media(media / "v11.mp4", times=np.arange(7) / 4, audio=tone())
    prepare(config(max_lost=0.2), root, "train", tmp_path / "train", jobs=2)
    store = SplitStore(tmp_path / "train")
    store.verify()
    kept = [index for index in range(CLIPS) if index not in (3, 5, 7)]
    assert store.clips == [VIDEOS[index] for index in kept]
    assert store.frames.shape[0] == store.waveforms.shape[0] == len(kept)
    expected = [[2] * (index % 3) + [0 if index % 2 else 1] * (3 - index % 3) for index in kept]
    assert store.targets["labels"].tolist() == expected
    for row in (4, len(kept) - 1):
        path = media / f"{store.clips[row]}.mp4"
        frames, waveform, _ = decode_clip(
            ClipSource("", path, path), segments=3, duration=3.0, frame_size=32, sample_rate=16000
        )
        np.testing.assert_array_equal(store.frames[row], frames)
        np.testing.assert_array_equal(store.waveforms[row], waveform)
    found = report(store.path / "report.csv")
    assert list(found) == VIDEOS
    assert found["v03"] == ("excluded", "missing AVE/v03.mp4")
    assert found["v05"][0] == "excluded"
    assert found["v05"][1].startswith("cannot open v05.mp4")
    assert found["v07"] == ("excluded", "no audio stream in v07.mp4")
    assert found["v09"] == ("repaired", "silent")
    assert found["v11"] == ("repaired", "video covers 2 of 3 segments")
    assert found["v12"] == ("ok", "")


def test_training_clips_that_another_list_has_too_can_be_dropped(
    root: Path, tmp_path: Path, decoded: list[str]
) -> None:
    rows = (root / "trainSet.txt").read_text().splitlines()
    (root / "valSet.txt").write_text("\n".join(rows[:10]))
    (root / "testSet.txt").write_text("\n".join(rows[8:20]))
    dropping = config(duplicates="drop_from_train", max_lost=0.0)
    prepare(dropping, root, "train", tmp_path / "train", jobs=1)
    assert decoded == VIDEOS[20:]
    store = SplitStore(tmp_path / "train")
    assert store.clips == VIDEOS[20:] and len(store.frames) == len(store.targets["labels"]) == CLIPS - 20
    assert [status for status, _ in report(tmp_path / "train/report.csv").values()] == ["dropped"] * 20 + ["ok"] * 4
    prepare(dropping, root, "val", tmp_path / "val", jobs=1)
    assert SplitStore(tmp_path / "val").clips == VIDEOS[:10], "only training clips are dropped"
    prepare(config(), root, "train", tmp_path / "as published", jobs=1)
    assert SplitStore(tmp_path / "as published").clips == VIDEOS


def test_a_preparation_that_went_on_without_dropping_drops_what_it_has_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(root, tmp_path / "train", monkeypatch)
    prepare(config(duplicates="drop_from_train", max_lost=0.0), root, "val", tmp_path / "val", jobs=1)
    (root / "valSet.txt").write_text((root / "trainSet.txt").read_text().splitlines()[0])
    (root / "testSet.txt").write_text((root / "trainSet.txt").read_text().splitlines()[0])
    prepare(config(duplicates="drop_from_train"), root, "train", tmp_path / "train", jobs=1)
    assert SplitStore(tmp_path / "train").clips == VIDEOS[1:]


def test_pictures_of_unusable_clips_are_left_out(root: Path, tmp_path: Path) -> None:
    for video in ("v03", "v05"):
        (root / "AVE" / f"{video}.mp4").write_bytes(b"nothing")
    for form in FORMS:
        prepare(stored(form, max_lost=0.2), root, "train", tmp_path / form, jobs=2)
    raw, store = (SplitStore(tmp_path / form) for form in FORMS)
    store.verify()
    assert store.clips == raw.clips and len(store) == CLIPS - 2
    expected = [[as_decoded(frame) for frame in clip] for clip in raw.frames]
    np.testing.assert_array_equal(store.frames[:], expected)
    for name in ("log_mels", "waveforms"):
        np.testing.assert_array_equal(getattr(store, name), getattr(raw, name))
    pixels = store.frames[:] / 255
    np.testing.assert_allclose(store.statistics["frames"]["mean"], pixels.mean(axis=(0, 1, 2, 3)))
    np.testing.assert_allclose(store.statistics["frames"]["std"], pixels.std(axis=(0, 1, 2, 3)))


def as_decoded(frame: np.ndarray) -> np.ndarray:
    """Return a frame after the loss of its picture, by Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(as_picture(frame, "jpeg"))).convert("RGB"))


def test_too_many_unusable_clips_fail_with_a_report_and_finished_ones_stay(
    root: Path, tmp_path: Path, decoded: list[str], reference: dict[str, bytes]
) -> None:
    saved = {name: (root / "AVE" / name).read_bytes() for name in ("v03.mp4", "v05.mp4")}
    for name in saved:
        (root / "AVE" / name).write_bytes(b"nothing")
    out = tmp_path / "train"
    with pytest.raises(
        LavishError, match=r"2 of 24 clips cannot be used, but data.max_lost allows only 2.0%.*report\.csv"
    ):
        prepare(config(), root, "train", out, jobs=2)
    assert not out.exists()
    found = report(tmp_path / "train.partial" / "report.csv")
    assert [clip for clip, (status, _) in found.items() if status == "excluded"] == ["v03", "v05"]
    for name, content in saved.items():
        (root / "AVE" / name).write_bytes(content)
    decoded.clear()
    prepare(config(), root, "train", out, jobs=2)
    assert decoded == ["v03", "v05"]
    assert contents(out) == reference


def test_nothing_is_decoded_when_too_many_files_are_missing(root: Path, tmp_path: Path, decoded: list[str]) -> None:
    (root / "AVE" / "v03.mp4").unlink()
    with pytest.raises(LavishError, match=r"1 of 24 clips cannot be used.*'v03': missing AVE/v03\.mp4"):
        prepare(config(), root, "train", tmp_path / "train", jobs=1)
    assert decoded == []
    assert report(tmp_path / "train.partial" / "report.csv")["v04"] == ("not_read", "")


def test_a_split_without_any_usable_clip_fails_whatever_may_be_lost(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "AVE")
    (root / "AVE").mkdir()
    with pytest.raises(LavishError, match="24 of 24 clips"):
        prepare(config(max_lost=1.0), root, "train", tmp_path / "train", jobs=1)


def test_an_older_store_is_replaced_and_other_folders_are_not(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "train"
    prepare(config(frame_size=16), whole, "train", out, jobs=2)
    prepare(stored("jpeg"), whole, "train", out, jobs=2)
    prepare(config(), whole, "train", out, jobs=2)
    assert SplitStore(out).frames.shape[2] == 32
    assert not list(out.glob("frame*.bin")) and not (out / "frame_index.npy").exists()
    (out / "store.json").unlink()  # as Snakemake does before it has a split prepared again
    prepare(config(), whole, "train", out, jobs=2)
    SplitStore(out).verify()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(LavishError, match="neither an empty folder nor a prepared split"):
        prepare(config(), whole, "train", tmp_path / "other", jobs=2)


@dataclass(frozen=True)
class EndsItsProcess(ClipSource):
    """A clip whose process ends as soon as it receives it."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (3,)


def test_a_clip_that_ends_its_process_is_left_out_and_the_others_are_decoded(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    preparation._array_maker(config(), CLIPS, masked=False)(folder)
    spectrogram = config().spectrogram.model_dump()
    values = ClipValues(folder, 3, 1.0, 32, spectrogram)
    paths = [whole / "AVE" / f"{video}.mp4" for video in VIDEOS]
    clips = [(n, (EndsItsProcess if n == 10 else ClipSource)(VIDEOS[n], path, path)) for n, path in enumerate(paths)]
    outcomes = {outcome.index: outcome.status for chunk in decode_all(values, clips, 2) for outcome in chunk}
    assert outcomes == {n: "excluded" if n == 10 else "ok" for n in range(CLIPS)}


def test_values_that_do_not_fit_are_named(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="--jobs 0"):
        prepare(config(), whole, "train", tmp_path / "train", jobs=0)
    with pytest.raises(LavishError, match=r"data\.num_classes is 5, but .* has 2 classes"):
        prepare(config(num_classes=5), whole, "train", tmp_path / "train", jobs=1)
    with pytest.raises(LavishError, match=r"line 1: the event ends at 3 s.*data\.segments"):
        prepare(config(segments=2), whole, "train", tmp_path / "train", jobs=1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS)
def test_the_store_says_what_it_was_made_of(references: dict[str, dict[str, bytes]], form: str) -> None:
    reference = references[form]
    manifest = json.loads(reference["store.json"])
    assert manifest["config"].get("store") == (None if form == "raw" else {"frames": "jpeg", "quality": 90})
    assert manifest.get("frames") == (None if form == "raw" else {"form": "jpeg", "size": 32})
    assert manifest["format"] == "ave"
    assert manifest["split"] == "train"
    assert manifest["clips"] == CLIPS
    assert manifest["segments"] == 3
    assert set(manifest["checksums"]) == set(reference) - {"store.json"}


def test_videos_that_cannot_be_read_are_named_once_and_in_the_manifest(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "AVE" / "other.mkv").touch()
    prepare(config(), root, "train", tmp_path / "train", jobs=1)
    note = "videos not read, because of their folder or ending: AVE/other.mkv"
    assert json.loads((tmp_path / "train" / "store.json").read_text())["notes"] == {note: 1}
    assert capsys.readouterr().err.count(f"{root}, split train: 1 {note}\n") == 1


def test_names_that_are_not_text_do_not_stop_the_preparation(root: Path, tmp_path: Path) -> None:
    for name in (b"a.mp4", b"\xff.mp4"):
        for split in ("train", "val"):
            folder = tmp_path / "videos" / split / "cat"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / "AVE" / "v01.mp4", os.fsencode(folder) + b"/" + name)
    prepare(config(format="actions", num_classes=1), tmp_path / "videos", "train", tmp_path / "train", jobs=1)
    assert SplitStore(tmp_path / "train").clips == ["cat/a.mp4", "cat/\\udcff.mp4"]
