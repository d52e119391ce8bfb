"""config/paper.yaml can be executed: its Swin-V2 settings from an official AVE folder to a table, with random weights.

Two clips a split, one optimizer step. Swin-V2-B stands in for Swin-V2-L, which takes twice as long and as much memory
and differs in nothing but its sizes; the step's two clips pass one after the other, because one alone takes 9 GB.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.media_files import tone, write_media

ROOT = Path(__file__).parents[2]
GIBIBYTES_NEEDED = 12
LISTS = {"trainSet.txt": ["aaaaaaaaaa1", "-bbbbbbbbb2"], "valSet.txt": ["c3", "d4"], "testSet.txt": ["e5", "f6"]}
SMALL = {
    "seeds": [0],
    "device": "cpu",
    "tables": ["made_up"],
    "defaults": {
        "backbone": {"model": "swinv2_base_window12_192.ms_in22k", "weights": {"source": "random"}},
        "training": {"epochs": 1, "batch_size": 1, "accumulate": 2},
    },
}
TABLE = {
    "title": "Made up",
    "task": "event_localization",
    "baseline": "lavish",
    "columns": ["metric", "trainable_params", "adapter_gmacs", "published"],
    "sections": [
        {"title": "Rows", "rows": [{"variant": "lavish", "set": {}, "published": ["ave_lavish_swinv2l"]}]},
    ],
}


def write_official_folder(root: Path) -> None:
    """Write 10-second videos of 28 classes in the official layout, with sound that depends on the class."""
    (root / "AVE").mkdir(parents=True)
    (root / "categories.txt").write_text("".join(f"Class {number}\n" for number in range(28)))
    lines = []
    for name, videos in LISTS.items():
        part = [f"Class {7 * index}&{video}&good&{index}&{8 + index}" for index, video in enumerate(videos)]
        (root / name).write_text("\n".join(part) + "\n")
        lines += part
        for index, video in enumerate(videos):
            sound = tone(10.0, 44100, 300.0 + 500 * index)
            write_media(root / "AVE" / f"{video}.mp4", times=tuple(np.arange(12) * 0.85), audio=sound, rate=44100)
    (root / "Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *lines]) + "\n")


def gibibytes_available() -> float:
    """Return how much memory is to be had; where Linux does not say, enough."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return GIBIBYTES_NEEDED
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", *arguments, "--directory", str(folder), "--cores", "1"),
            *("--configfile", str(folder / "config/paper.yaml"), str(folder / "small.yaml")),
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "config/tables/made_up.yaml").write_text(yaml.safe_dump(TABLE))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


@pytest.mark.skipif(gibibytes_available() < GIBIBYTES_NEEDED, reason=f"needs {GIBIBYTES_NEEDED} GiB of memory")
def test_from_an_official_folder_to_a_table(folder: Path) -> None:
    write_official_folder(folder / "data/AVE")
    result = snakemake(folder, "results/table_made_up.md")
    assert result.returncode == 0, result.stdout[-4000:]
    [run] = folder.glob("results/runs/event_localization-*")
    record = json.loads((run / "seed0/record.json").read_text())
    assert record["epochs"] == 1
    assert record["config"]["data"]["frame_size"] == 192
    assert record["config"]["adapter"]["options"]["latents"] == 2
    [epoch] = csv.DictReader((run / "seed0/history.csv").read_text().splitlines())
    assert math.isfinite(float(epoch["train_loss"]))
    assert json.loads((run / "cost.json").read_text())["trainable_params"] == 4951005
    text = (folder / "results/table_made_up.md").read_text()
    assert "81.1, test-selected" in text
    assert "not run" not in text
    frames = np.load(next(folder.glob("results/data/prepared/ave-*/train/frames.npy")), mmap_mode="r")
    assert frames.shape == (2, 10, 192, 192, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_message_says_what_a_cpu_would_take(folder: Path) -> None:
    write_official_folder(folder / "data/AVE")
    result = snakemake(folder, "results/table_made_up.md", "--config", "device=cuda")
    assert result.returncode == 1
    [message] = [line for line in result.stdout.splitlines() if "no GPU" in line]
    assert "On a CPU the training would take up to 1 minutes of one core" in message
    assert message.endswith("`--config device=cpu`.")
    assert not list(folder.glob("results/*"))


def test_without_the_data_one_message_says_where_to_get_it(folder: Path) -> None:
    result = snakemake(folder, "--dry-run", "results/table_made_up.md")
    assert result.returncode == 1
    message = [line for line in result.stdout.splitlines() if "data/AVE" in line]
    assert len(message) == 1
    assert "there is no folder data/AVE" in message[0]
    assert "ECCV 2018" in message[0]
    assert "lavish data check --task ave --root data/AVE" in message[0]
