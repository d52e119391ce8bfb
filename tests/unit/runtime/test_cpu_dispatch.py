"""Kernels are chosen for the same instructions on every machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.io.checksums import sha256_of
from lavish.runtime.cpu_dispatch import VARIABLE, VARIABLES, limit
from lavish.training.jobs import provide_weights
from tests.stores import run_values, write_store

# What stands for two machines: libraries that may use all that this processor has, and old instructions only.
MACHINES = ({}, {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "SSE4_2"})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("store")
    for seed, (split, clips) in enumerate({"train": 12, "val": 6}.items()):
        write_store(root / split, clips=clips, seed=seed)
    weights = root / "vit.safetensors"
    provide_weights(parse(RunConfig, run_values(), "test").backbone, weights)
    return root, weights


def train(inputs: tuple[Path, Path], out: Path, machine: dict[str, str], dispatch: str) -> dict:
    """Train in a process of its own, as the workflow does, and return the record."""
    data, weights = inputs
    training = {"epochs": 2, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01, "cpu_dispatch": dispatch}
    config = json.dumps(run_values(training=training), separators=(",", ":"))
    command = [sys.executable, "-m", "lavish", "train", "--config", config, "--seed", "0"]
    command += ["--data", str(data), "--weights", str(weights), "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    subprocess.run(command, env={**environment, **machine}, check=True)
    return json.loads((out / "record.json").read_text())


def test_two_levels_give_equal_bytes_unless_the_run_lifts_the_limit(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoints: dict[str, list[str]] = {"avx2": [], "native": []}
    for dispatch, found in checkpoints.items():
        for number, machine in enumerate(MACHINES):
            out = tmp_path / f"{dispatch}{number}"
            record = train(inputs, out, machine, dispatch)
            found.append(sha256_of(out / "best.safetensors"))
            limits = record["machine"]["cpu_dispatch"]
            if dispatch == "avx2":
                assert (limits["ONEDNN_MAX_CPU_ISA"], limits["ATEN_CPU_CAPABILITY"]) == ("AVX2", "avx2")
    assert len(set(checkpoints["avx2"])) == 1
    # `native` drops what the environment says, too: this processor's instructions, whatever they are.
    assert len(set(checkpoints["native"])) == 1


def test_the_levels_of_this_test_differ(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    """Without the limit, the second machine's trainings end with other numbers."""
    found = set()
    for number, machine in enumerate(MACHINES):
        out = tmp_path / str(number)
        found.add(train(inputs, out, {**machine, VARIABLE: "native"}, "native")["best_value"])
        found.add(sha256_of(out / "best.safetensors"))
    assert len(found) > 2


def test_the_record_tells_machines_apart(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    machine = train(inputs, tmp_path / "run", {}, "avx2")["machine"]
    assert machine["cpu_dispatch"]["torch"]
    if Path("/proc/cpuinfo").exists():
        assert "fpu" in machine["cpu_flags"].split() or "fp" in machine["cpu_flags"].split()


def test_the_limit_overrides_the_shell_and_native_leaves_it() -> None:
    environ = {"ONEDNN_MAX_CPU_ISA": "SSE41"}
    limit(environ)
    assert environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    native = {"ONEDNN_MAX_CPU_ISA": "SSE41", VARIABLE: "native"}
    limit(native)
    assert native["ONEDNN_MAX_CPU_ISA"] == "SSE41"
