"""The prepared store with raw frames and with pictures: bytes, clips a second, error of the codec, and training.

    python benchmarks/store.py --clips 10000 --segments 3 --size 96 --seeds 3
    python benchmarks/store.py --clips 40 --segments 10 --size 224 --frame-rate 25 --mel-bins 192

Composes AVE-like clips (mp4 with sound), prepares them in each form, and reads them in random batches. Preparing and
reading are given per second of processor time, so that other work on the machine disturbs them little: that is what one
core does. With --threads, reading is also given per second of the clock. With --seeds, the embedded default's backbone
is pretrained for frames of this size, and LAVISH is trained on each form. Everything is written to a temporary folder
below --folder, and removed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lavish.config.merging import merge
from lavish.config.schema import BackboneConfig, DataConfig, RunConfig
from lavish.data.store import preparation
from lavish.data.store.batches import SplitReader
from lavish.data.store.clip_jobs import Clip, ClipValues, Outcome, decode_chunk
from lavish.data.store.frames import is_shard
from lavish.data.store.store import SplitStore
from lavish.data.synthetic.composer import compose
from lavish.io.yaml_files import read_yaml
from lavish.provenance import machine
from lavish.training.jobs import RunInputs, pretrain, train

CPU = torch.device("cpu")
FORMS = ("raw", "jpeg", "webp")


def main() -> None:
    """Print a table, and write the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10000, help="training clips; a tenth more for trainings")
    parser.add_argument("--segments", type=int, default=3, help="frames of a clip, seconds")
    parser.add_argument("--size", type=int, default=96, help="height and width of frames, pixels")
    parser.add_argument("--frame-rate", type=int, default=4, help="of the videos, frames a second")
    parser.add_argument("--mel-bins", type=int, default=48, help="and analysis frames of a segment's spectrogram")
    parser.add_argument("--quality", type=int, default=90, help="of the pictures")
    parser.add_argument("--batch", type=int, default=16, help="clips read at once")
    parser.add_argument("--threads", type=int, default=2, help="that decode, in the second reading")
    parser.add_argument("--seeds", type=int, default=0, help="trainings of each form")
    parser.add_argument("--epochs", type=int, default=2, help="of a training")
    parser.add_argument("--folder", type=Path, default=None, help="for the temporary folder")
    parser.add_argument("--json", type=Path, default=Path("store.json"), help="file to write")
    options = parser.parse_args()
    preparation.decode_all = decode_here
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(options, Path(folder))
    results["machine"] = machine()
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def decode_here(values: ClipValues, clips: Sequence[Clip], _: int) -> Iterator[list[Outcome]]:
    """Decode in this process, whose processor time is measured."""
    for clip in clips:
        yield decode_chunk(values, [clip])


def data_config(options: argparse.Namespace, form: str) -> DataConfig:
    """Return the data set in a form."""
    validation = max(8, options.clips // 10) if options.seeds else 8
    mels = options.mel_bins
    return DataConfig.model_validate(
        {
            "name": "benchmark",
            "num_classes": 8,
            "segments": options.segments,
            "frame_size": options.size,
            "spectrogram": {"mel_bins": mels, "frames": mels, "shift_ms": 960 / mels},
            "store": {"frames": form} | ({} if form == "raw" else {"quality": options.quality}),
            "compose": {
                "assets": {"kind": "procedural", "instances": {"train": 200, "val": 80, "test": 80}},
                "clips": {"train": options.clips, "val": validation, "test": 8},
                "picture_size": options.size,
                "frame_rate": options.frame_rate,
            },
        }
    )


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compose, prepare, read and train; print the lines of the table."""
    compose(data_config(options, "raw").composition(), folder / "official", 2)
    settings = {key: value for key, value in vars(options).items() if key not in ("folder", "json")}
    results: dict[str, Any] = {"settings": settings, "forms": {}}
    for form in FORMS:
        result = results["forms"][form] = prepared(options, folder, form)
        result |= read(folder / form / "train", options)
        if options.seeds and form != "webp":
            result["accuracy"] = trained(options, folder, form)
        ratios = {key: result[key] / results["forms"]["raw"][key] for key in ("frame_bytes", "bytes")}
        print(
            f"{form:>4}: frames {result['frame_bytes']:9.0f} bytes/clip ({ratios['frame_bytes']:.3f} x raw), all "
            f"{result['bytes']:9.0f} ({ratios['bytes']:.3f} x); a core prepares {result['prepared_per_core']:.1f} and "
            f"reads {result['read_per_core']:.0f} clips/s; {options.threads} threads read {result['read_threads']:.0f} "
            f"clips/s by the clock; error {result['mean_error']:.2f} mean, {result['largest_error']} largest; "
            f"accuracy {result.get('accuracy', 'not trained')}",
            flush=True,
        )
    return results


def prepared(options: argparse.Namespace, folder: Path, form: str) -> dict[str, Any]:
    """Prepare both splits; return clips a second of processor time and bytes a clip of the training split."""
    config = data_config(options, form)
    # First the other split, so that libraries are imported when the time is taken.
    preparation.prepare(config, folder / "official", "val", folder / form / "val", 1)
    started = time.process_time()
    preparation.prepare(config, folder / "official", "train", folder / form / "train", 1)
    seconds = time.process_time() - started
    sizes = SplitStore(folder / form / "train").manifest["sizes"]
    frames = sum(size for name, size in sizes.items() if name.startswith("frame") or is_shard(name))
    return {
        "prepared_per_core": options.clips / seconds,
        "frame_bytes": frames / options.clips,
        "bytes": sum(sizes.values()) / options.clips,
        "shards": sum(map(is_shard, sizes)),
    }


def read(split: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Read the split in random batches, with one thread and with several; compare frames with the raw ones."""
    found: dict[str, Any] = {}
    for threads in (1, options.threads):
        torch.set_num_threads(threads)
        reader = SplitReader(split, ("visual", "audio"))
        groups = reader.shuffled(options.batch, np.random.default_rng(0))
        list(reader.batches(groups[:2], CPU))
        started, clock = time.process_time(), time.perf_counter()
        clips = sum(len(batch) for batch in reader.batches(groups, CPU))
        if threads == 1:
            found["read_per_core"] = clips / (time.process_time() - started)
        found["read_threads"] = clips / (time.perf_counter() - clock)
    torch.set_num_threads(1)
    some = slice(0, 200)
    raw = SplitStore(split.parent.parent / "raw" / split.name).frames[some].astype(np.int16)
    errors = np.abs(SplitStore(split).frames[some] - raw)
    return found | {"mean_error": float(errors.mean()), "largest_error": int(errors.max())}


def trained(options: argparse.Namespace, folder: Path, form: str) -> list[float]:
    """Return the validation accuracy of each seed."""
    default = read_yaml(Path(__file__).parents[1] / "config" / "config.yaml")
    values = merge(default["defaults"], default["tasks"]["event_localization"])
    values = {key: value for key, value in values.items() if key not in ("data", "title", "backbones", "audio_encoder")}
    side = {"img_size": options.size, "patch_size": options.size // 4}
    values["backbone"] = merge(values["backbone"], {"spec": side})
    values["training"] = merge(values["training"], {"epochs": options.epochs})
    config = RunConfig.model_validate(values | {"data": data_config(options, form).model_dump(mode="json")})
    weights = folder / "backbone.safetensors"
    if not weights.exists():
        pretrain(BackboneConfig.model_validate(values["backbone"]), weights)
    accuracies = []
    for seed in range(options.seeds):
        out = folder / form / f"seed{seed}"
        train(RunInputs(config, seed, folder / form, weights), out)
        accuracies.append(round(json.loads((out / "record.json").read_text(encoding="utf-8"))["best_value"], 4))
    return accuracies


if __name__ == "__main__":
    main()
