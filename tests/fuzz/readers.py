"""What is fuzzed: each reader with a folder of small valid files, and a function that reads the folder."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lavish.config.schema import SPLITS, SpectrogramConfig
from lavish.data.decoding.images import read_folder_frames, read_segment_frames
from lavish.data.decoding.masks import decode_masks
from lavish.data.decoding.media import MediaError
from lavish.data.formats.base import ClipSource, missing_media
from lavish.data.formats.registry import reader
from lavish.data.store.clip_jobs import ClipValues, decode_chunk
from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from lavish.io.archives import unpack
from lavish.models.weights import inspect_weights, read_weights, write_weights
from lavish.planning.experiments import load
from lavish.reporting.records import read_cost, read_run
from tests.avsbench_files import write_ms3, write_s4
from tests.media_files import grey_levels, tone, write_media
from tests.stores import write_store
from tests.unit.conftest import MEASURES, TASK, RunMaker

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Fuzzed:
    """A reader.

    Attributes:
        write: writes valid files into an empty folder; returns the names of those that are mutated.
        read: reads the folder, whose file of the given name has been mutated; may raise a LavishError only.
        share: of the number of examples, for a reader that takes long.
    """

    write: Callable[[Path], list[str]]
    read: Callable[[Path, str], None]
    share: float = 1.0


# --- lists and annotations ---


def _write_ave(folder: Path) -> list[str]:
    rows = ["Dog, bark&-a&good&0&2", "cat&b&good&1&3", "cat&-a&good&0&0"]
    texts = dict.fromkeys(("trainSet.txt", "valSet.txt", "testSet.txt"), rows)
    texts |= {"Annotations.txt": ["Category&VideoID&Quality&StartTime&EndTime", *rows]}
    (folder / "AVE").mkdir()
    return _write_lists(folder, "ave", texts)


def _write_music_avqa(folder: Path) -> list[str]:
    record = {
        "video_id": "00000001",
        "question_id": 1,
        "type": '["Audio-Visual", "Location"]',
        "question_content": "Where is the <LL> instrument?",
        "templ_values": '["loudest"]',
        "question_deleted": 0,
        "anser": "left",
    }
    texts = {f"avqa-{split}.json": [json.dumps([record, record | {"anser": "right"}], indent=1)] for split in SPLITS}
    (folder / "videos").mkdir()
    return _write_lists(folder, "music_avqa", texts)


def _write_lists(folder: Path, official: str, texts: dict[str, list[str]]) -> list[str]:
    """Write lists, with the first lines or records of the published ones where they are at hand."""
    published = Path(os.environ.get("LAVISH_SHARED", ROOT.parent / "shared")) / "data" / "official" / official
    for name, lines in texts.items():
        text = "\n".join(lines) + "\n"
        if (published / name).is_file():
            more = (published / name).read_text(encoding="utf-8")
            if name.endswith(".json"):
                text = json.dumps(json.loads(text) + json.loads(more)[:5], indent=1)
            else:
                text += "".join(more.splitlines(keepends=True)[1:10])
        (folder / name).write_text(text, encoding="utf-8")
    return list(texts)


def _write_table(folder: Path) -> list[str]:
    rows = ['"dog, barking",a/-a.mp4,train,', "cat,b.mp4,train,x", "cat,c.mp4,val,", '"dog, barking",d.mp4,test,']
    (folder / "clips.csv").write_text("\n".join(["label,path,split,note", *rows]) + "\n")
    (folder / "classes.txt").write_text("cat\ndog, barking\n")
    return ["clips.csv", "classes.txt"]


def _write_fold(folder: Path) -> list[str]:
    (folder / "trainlist01.txt").write_text("Archery/v_Archery_g08_c01.avi 2\nTyping/-x y.avi 7\n\n")
    (folder / "vallist01.txt").write_text("Archery/v_Archery_g09_c01.avi 2\n")
    (folder / "testlist01.txt").write_text("Typing/v_Typing_g01_c01.avi\nArchery/v_Archery_g01_c01.avi\n")
    (folder / "classes.txt").write_text("Typing\nArchery\n")
    (folder / "videos" / "Archery").mkdir(parents=True)
    return ["trainlist01.txt", "vallist01.txt", "testlist01.txt", "classes.txt"]


def _write_s4(folder: Path) -> list[str]:
    write_s4(folder)
    return ["s4_meta_data.csv"]


def _write_ms3(folder: Path) -> list[str]:
    write_ms3(folder)
    return ["ms3_meta_data.csv"]


def _read_format(name: str) -> Callable[[Path, str], None]:
    layout = reader(name)
    segments, seconds = {"ave": (10, 1.0), "music_avqa": (10, 6.0)}.get(name, (5, 1.0))

    def read(folder: Path, _: str) -> None:
        for split in SPLITS:
            refused(layout.targets, folder, split, segments=segments, segment_seconds=seconds)
            for source in refused(layout.clips, folder, split) or []:
                missing_media(source)
                for path in filter(None, (source.video, source.audio, *source.segment_frames, *source.masks)):
                    assert ".." not in path.parts and path.is_relative_to(folder), path
        names = refused(layout.classes, folder)
        assert names is None or 0 < len(set(names)) == len(names)
        refused(layout.vocabulary, folder)
        layout.unread(folder)

    return read


def refused(function: Callable, *arguments, **named):
    """Call a function; return None if it raises a LavishError, each of which has one message."""
    try:
        return function(*arguments, **named)
    except LavishError as error:
        assert str(error)
        return None


# --- configuration, stores, records ---


def _write_configuration(folder: Path) -> list[str]:
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "own.yaml").write_text("seeds: [0, 1]\ntasks: {event_localization: {data: {segments: 3}}}\n")
    return ["config/config.yaml", "config/tables/ave.yaml", "config/published.csv", "own.yaml"]


def _read_configuration(folder: Path, _: str) -> None:
    os.chdir(folder)
    refused(load, [Path("config/config.yaml"), Path("own.yaml")], {"tables": ["ave"]})


def _write_store(folder: Path) -> list[str]:
    write_store(folder / "train", clips=3, size=4)
    return [f"train/{path.name}" for path in (folder / "train").iterdir()]


def _write_store_of_pictures(form: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        write_store(folder / "train", clips=3, size=16, pictures=form)
        return [f"train/{name}" for name in ("frames-00000.bin", "frame_index.npy", "store.json")]

    return write


def _read_store(folder: Path, _: str) -> None:
    if (store := refused(SplitStore, folder / "train")) is not None:
        refused(store.verify)
        refused(store.frames.__getitem__, slice(None))
        shutil.rmtree(folder / "train" / "verified.json", ignore_errors=True)


def _write_records(folder: Path) -> list[str]:
    run = RunMaker(folder)("run", [[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]], columns={"late": [[0.0, 0.5, 1.0]] * 2})
    for seed in (0, 1):
        origin = {"checkpoint": "0" * 64, "weights": {"sha256": "1" * 64}}
        for name, more in (
            ("test/metrics.json", {"origin": origin, "definitions": {one["name"]: one for one in MEASURES[TASK]}}),
            ("record.json", origin),
        ):
            path = run / f"seed{seed}" / name
            path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return [path.relative_to(folder).as_posix() for path in run.rglob("*.*")]


def _read_records(folder: Path, _: str) -> None:
    refused(read_run, folder / "run", [0, 1])
    refused(read_cost, folder / "run")


# --- weights and archives ---


def _write_weights(folder: Path) -> list[str]:
    import torch

    tensors = {
        f"block.{kind}": torch.ones(2, 3, dtype=getattr(torch, kind)) for kind in ("float32", "bfloat16", "int64")
    }
    write_weights(tensors | {"empty": torch.zeros(0, 4)}, folder / "w.safetensors", {"source": "pretrain"})
    return ["w.safetensors", "w.json"]


def _read_weights(folder: Path, _: str) -> None:
    refused(read_weights, folder / "w.safetensors")
    refused(inspect_weights, folder / "w.safetensors")


def _write_archives(folder: Path) -> list[str]:
    kinds = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA}
    for name, kind in kinds.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w", kind) as archive:
            for member, content in (("set/a.txt", "content " * 20), ("set/empty/", ""), ("b.txt", "more")):
                archive.writestr(zipfile.ZipInfo(member), content, kind)  # without the time of now
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for member, content in (("set/a.txt", b"content " * 20), ("b.txt", b"more")):
            information = tarfile.TarInfo(member)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    (folder / "archive.tar").write_bytes(plain.getvalue())
    (folder / "archive.tar.gz").write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    (folder / "archive.tar.xz").write_bytes(lzma.compress(plain.getvalue()))
    (folder / "archive.tar.bz2").write_bytes(bz2.compress(plain.getvalue()))
    return [path.name for path in folder.iterdir()]


def _read_archive(folder: Path, name: str) -> None:
    before = sorted(folder.iterdir())
    out = folder / "out"
    unpacked = refused(unpack, folder / name, out, max_bytes=1 << 24)
    assert (unpacked is not None) == out.exists()
    shutil.rmtree(out, ignore_errors=True)
    assert sorted(folder.iterdir()) == before


# --- pictures and media ---


def _write_pictures(folder: Path) -> list[str]:
    levels = np.arange(24 * 24, dtype=np.uint8).reshape(24, 24)
    colours = Image.fromarray(np.stack([levels, levels.T, levels // 2], axis=-1))
    for number, (mode, suffix) in enumerate(
        (("RGB", "jpg"), ("CMYK", "jpg"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("L", "png"), ("1", "png")), 1
    ):
        colours.convert(mode).save(folder / f"{number}.{suffix}", dpi=(72, 72))
    Image.fromarray(levels.astype(np.uint16) * 257).save(folder / "8.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    colours.save(folder / "9.jpg", exif=exif)
    return [path.name for path in folder.iterdir()]


def _read_picture(folder: Path, name: str) -> None:
    refused(_decode, read_segment_frames, [folder / name, None], 16)
    refused(_decode, read_folder_frames, folder, [0.5, 4.5, 8.5], 9.0, 16)
    refused(_decode, decode_masks, [folder / name, None], 16)


def _decode(function: Callable, *arguments) -> None:
    try:
        array, _ = function(*arguments)
    except MediaError as error:
        raise LavishError(str(error)) from None
    assert array.dtype == np.uint8 and array.shape[1:3] == (16, 16)


_MELS = SpectrogramConfig().model_dump()


def _write_clips(folder: Path) -> list[str]:
    _write_arrays(folder)
    write_media(folder / "a.mp4", image=_picture, audio=tone())
    write_media(folder / "b.mkv", image=_picture, audio=tone())
    write_media(folder / "c.avi", image=_picture, video_codec="mpeg4", audio=tone(), audio_codec="mp3")
    write_media(folder / "d.ts", image=_picture, audio=tone(), audio_codec="mp2", audio_format="s16")
    write_media(folder / "e.mov", image=_picture, video_codec="mjpeg", audio=tone(), rotation=90.0)
    write_media(folder / "f.wav", times=None, audio=tone(), audio_codec="pcm_s16le", audio_format="s16")
    return ["a.mp4", "b.mkv", "c.avi", "d.ts", "e.mov", "f.wav"]


def _picture(index: int) -> np.ndarray:
    return grey_levels(index, 32, 32)


def _write_arrays(folder: Path) -> None:
    shapes = {
        "frames.npy": (np.uint8, (1, 3, 16, 16, 3)),
        "log_mels.npy": (np.float16, (1, 3, _MELS["mel_bins"], _MELS["frames"])),
        "waveforms.npy": (np.int16, (1, 3 * _MELS["sample_rate"])),
    }
    for name, (dtype, shape) in shapes.items():
        np.save(folder / name, np.zeros(shape, dtype))


def _read_clip(folder: Path, name: str) -> None:
    path = folder / name
    video = folder / "a.mp4" if path.suffix == ".wav" else path
    values = ClipValues(folder, 3, 1.0, 16, _MELS)
    refused(_decode_clip, values, ClipSource("clip", video, path))


def _decode_clip(values: ClipValues, source: ClipSource) -> None:
    [outcome] = decode_chunk(values, [(0, source)])
    if outcome.status == "excluded":
        raise LavishError(outcome.reason)


READERS = {
    "ave": Fuzzed(_write_ave, _read_format("ave")),
    "music_avqa": Fuzzed(_write_music_avqa, _read_format("music_avqa")),
    "actions (table)": Fuzzed(_write_table, _read_format("actions")),
    "actions (lists)": Fuzzed(_write_fold, _read_format("actions")),
    "avsbench_s4": Fuzzed(_write_s4, _read_format("avsbench_s4")),
    "avsbench_ms3": Fuzzed(_write_ms3, _read_format("avsbench_ms3")),
    "configuration": Fuzzed(_write_configuration, _read_configuration, share=0.3),
    "store": Fuzzed(_write_store, _read_store),
    "store (jpeg)": Fuzzed(_write_store_of_pictures("jpeg"), _read_store),
    "store (webp)": Fuzzed(_write_store_of_pictures("webp"), _read_store),
    "records": Fuzzed(_write_records, _read_records),
    "weights": Fuzzed(_write_weights, _read_weights),
    "archives": Fuzzed(_write_archives, _read_archive),
    "pictures": Fuzzed(_write_pictures, _read_picture),
    "media": Fuzzed(_write_clips, _read_clip, share=0.5),
}
