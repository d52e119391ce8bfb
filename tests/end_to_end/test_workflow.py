"""All steps through Snakemake on real mp4 files: from nothing to a table, killed in the middle and taken up again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from lavish.config.conditions import Noise, Silence
from lavish.data.store.conditions import disturb
from lavish.data.store.store import SplitStore

ROOT = Path(__file__).parents[2]
TABLE = "results/table_small.md"
SMALL = {
    "seeds": [0, 1],
    "tables": ["small"],
    "tasks": {"event_localization": {"data": {"compose": {"clips": {"train": 32, "val": 16, "test": 16}}}}},
    "defaults": {
        "data": {"compose": {"assets": {"instances": {"train": 4, "val": 2, "test": 2}}}},
        "backbone": {"weights": {"recipe": {"instances": 4, "samples": 64, "epochs": 1}}},
        "backbones": {"audio": {"weights": {"recipe": {"instances": 4, "samples": 64, "epochs": 1}}}},
        "audio_encoder": {"weights": {"recipe": {"instances": 4, "samples": 64, "epochs": 1}}},
        "training": {"epochs": 2},
    },
}
ROWS = [
    {"variant": "lavish", "set": {}},
    {"variant": "frozen", "set": {"adapter": {"method": "none"}}, "published": ["ave_frozen_swinv2l"]},
    {"variant": "encoder", "set": {"audio_encoder": {"use": "join"}}},
    {"variant": "own_backbone", "set": {"backbones": {"use": "separate"}}},
]
COLUMNS = [
    "metric", "difference", "reliance:noise_0db", "reliance:swapped_pictures", "trainable_params", "total_params",
    "adapter_gmacs", "total_gmacs", "published",
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "snakemake", *arguments, "--directory", str(folder), "--cores", "2"]
    return subprocess.Popen(
        [*command, "--configfile", str(folder / "small.yaml")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *arguments: str) -> str:
    process = start(folder, *arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("workflow")
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    table = {
        "title": "Small",
        "task": "event_localization",
        "baseline": "lavish",
        "columns": COLUMNS,
        "sections": [{"title": "Rows", "rows": ROWS}],
        "figures": {
            "small": {"kind": "metric_against_cost", "title": "Small figure", "section": "Rows"},
            "small_reliance": {
                "kind": "reliance",
                "title": "Reliance",
                "section": "Rows",
                "conditions": ["noise_0db", "audio"],
            },
        },
    }
    (folder / "config/tables/small.yaml").write_text(yaml.safe_dump(table))
    run(folder)
    return folder


def test_the_table_is_whole(finished):
    text = (finished / TABLE).read_text()
    assert "nan" not in text.lower()
    assert "not run" not in text
    for row in ROWS:
        assert row["variant"] in text
    assert "77.9" in text  # published, beside ours
    for figure in ("small", "small_reliance"):
        assert (finished / f"results/figures/{figure}.svg").stat().st_size > 1000
    assert len(list(finished.glob("results/runs/*/seed*/test/metrics.json"))) == 8


def test_rows_are_evaluated_under_conditions(finished):
    lines = list(csv.DictReader((finished / TABLE.replace(".md", ".csv")).read_text().splitlines()))
    for line in lines:
        for name in ("noise_0db", "swapped_pictures"):
            under = [
                json.loads(next((finished / folder).glob(f"test-{name}-*/metrics.json")).read_text())
                for folder in line["runs"].split(";")
            ]
            mean = sum(one["value"] for one in under) / len(under)
            assert float(line[f"reliance_{name}_difference"]) == pytest.approx(mean - float(line["mean"]), abs=1e-6)
    assert any(float(line["reliance_swapped_pictures_difference"]) != 0 for line in lines)


def test_a_sound_that_a_condition_leaves_as_it_is_has_the_log_mels_of_the_store(finished):
    [split] = finished.glob("results/data/prepared/*/test")
    store, disturbed = SplitStore(split), SplitStore(split)
    disturb(disturbed, Noise(title="", kind="noise", snr_db=1000, seed=0), {})
    np.testing.assert_array_equal(disturbed.log_mels[:], store.log_mels)
    silent = SplitStore(split)
    disturb(silent, Silence(title="", kind="silence"), {})
    assert (silent.log_mels[:] <= store.log_mels).all()


def test_jobs_are_forked_from_the_fork_server(finished):
    logs = [*finished.glob("results/logs/train/*.log"), *finished.glob("results/logs/cost/*.log")]
    assert len(logs) == 12
    assert not [log for log in logs if "not run by the fork server" in log.read_text()]


def test_nothing_is_done_twice(finished):
    assert "Nothing to be done" in run(finished)


def test_a_frozen_row_reads_features_and_ends_with_the_bytes_of_one_that_computes_them(finished):
    folders = {path.parent for path in finished.glob("results/runs/*/seed*/record.json") if _reads_features(path)}
    assert len(folders) == 2  # the seeds of one row
    names = ("best.safetensors", "history.csv", "test/predictions.parquet")
    reading = {path: path.read_bytes() for folder in folders for path in (folder / name for name in names)}
    for folder in folders:
        shutil.rmtree(folder)
    (finished / TABLE).unlink()
    run(finished, "--config", "cache_features=none")
    assert not any(_reads_features(folder / "record.json") for folder in folders)
    assert {path: path.read_bytes() for path in reading} == reading


def _reads_features(record: Path) -> bool:
    return bool(json.loads(record.read_text())["frozen_features"])


def test_a_killed_run_goes_on_and_ends_with_the_same_table(finished):
    whole = (finished / TABLE).read_bytes()
    hashes = {path: path.read_bytes() for path in finished.glob("results/runs/*/seed*/best.safetensors")}
    shutil.rmtree(finished / "results/runs")
    (finished / TABLE).unlink()

    process = start(finished)
    deadline = time.monotonic() + 120
    while not list(finished.glob("results/runs/*/seed*/resume.safetensors")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (finished / TABLE).exists()

    run(finished)
    assert (finished / TABLE).read_bytes() == whole
    for path, content in hashes.items():
        assert path.read_bytes() == content


def test_a_truncated_clip_is_left_out_by_name_and_too_many_stop_the_step(finished):
    [media] = finished.glob("results/data/composed/*/AVE")
    lists = (media.parent / "valSet.txt").read_text().splitlines()
    victim = media / f"{lists[0].split('&')[1]}.mp4"
    content = victim.read_bytes()
    [store] = finished.glob("results/data/prepared/*/val")
    target = str((store / "store.json").relative_to(finished))
    try:
        victim.write_bytes(content[:200])
        shutil.rmtree(store)
        process = start(finished, target)
        output, _ = process.communicate(timeout=300)
        assert process.returncode != 0
        assert "1 of 16 clips cannot be used" in output, output[-3000:]
        assert victim.stem in output
    finally:
        victim.write_bytes(content)
        run(finished, target)
