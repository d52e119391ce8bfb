"""A full disk and a folder that cannot be written are one message each, and nothing finished is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lavish.cli.main import storage_problem
from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.training.jobs import provide_weights
from tests.stores import run_values, write_store


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options of a training apart from --out."""
    root = tmp_path_factory.mktemp("store")
    for seed, split in enumerate(("train", "val")):
        write_store(root / split, seed=seed)
    provide_weights(parse(RunConfig, run_values(), "test").backbone, root / "vit.safetensors")
    config = json.dumps(run_values(training={"epochs": 40, "batch_size": 5, "patience": 40}))
    return ["--config", config, "--seed", "0", "--data", str(root), "--weights", str(root / "vit.safetensors")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 512 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def train(inputs: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lavish", "train", *inputs, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_full_disk_is_one_message_and_the_training_goes_on_later(inputs: list[str], disk: Path) -> None:
    out = disk / "run"
    filler = disk / "filler"
    room = os.statvfs(disk)
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 60_000))  # for a few files of the training
    failed = train(inputs, out)
    assert failed.returncode == 1
    message = failed.stderr.rpartition("lavish train: ")[2]
    assert "no space left on device: free some room and call it again" in message
    assert "Traceback" not in failed.stderr
    assert not list(out.glob("*.partial"))
    filler.unlink()
    assert train(inputs, out).returncode == 0
    assert (out / "record.json").is_file()


def test_a_read_only_folder_is_one_message(inputs: list[str], disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    failed = train(inputs, disk / "run")
    assert failed.returncode == 1
    assert f"lavish train: {disk / '.run.lock'}: read-only file system: make it writable" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.npy"), "out.npy: no space left on device: free some"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "no space left on device: free some"),
        (OSError("[Errno 30] Read-only file system: 'table.parquet'"), "read-only file system: make it writable"),
        (OSError(errno.ENOSPC, "full", "source", None, "copy"), "copy: no space left on device: free some"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out"), "out: permission denied: make it accessible"),
    ],
)
def test_what_libraries_raise_is_understood(error: Exception, message: str) -> None:
    assert (storage_problem(error) or "").startswith(message)


@pytest.mark.parametrize("error", [ValueError("wrong"), FileNotFoundError(errno.ENOENT, "missing", "file")])
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert storage_problem(error) is None
