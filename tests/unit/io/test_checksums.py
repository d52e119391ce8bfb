"""Checksums that are remembered until a file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lavish.io import checksum_cache as checksums
from lavish.io.checksum_cache import Checksums
from lavish.io.fingerprint import fingerprint


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    (folder / "list.txt").write_text("one")
    (folder / "inner/clip.mp4").write_bytes(b"video")
    return folder


def listed(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def of_folder(memory: Path, root: Path, *, trusted: bool = False) -> str:
    return Checksums(memory, trusted=trusted).of_files(root, "all", lambda: listed(root))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    calls: list[Path] = []
    monkeypatch.setattr(checksums, "fingerprint", lambda root, files: calls.append(root) or fingerprint(root, files))
    return calls


def test_a_folder_is_read_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, memory = counted(monkeypatch), tmp_path / "state/memory.json"
    first = of_folder(memory, root)
    assert first == of_folder(memory, root) == fingerprint(root, listed(root))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: (root / "list.txt").write_text("another"),
        lambda root: (root / "inner/new.txt").write_text("new"),
        lambda root: (root / "inner/clip.mp4").unlink(),
        lambda root: (root / "list.txt").rename(root / "renamed.txt"),
    ],
    ids=["content", "new file", "lost file", "renamed file"],
)
def test_a_changed_folder_is_read_again(root: Path, tmp_path: Path, edit) -> None:
    memory = tmp_path / "memory.json"
    before = of_folder(memory, root)
    edit(root)
    assert of_folder(memory, root) == fingerprint(root, listed(root)) != before


def test_new_times_alone_change_no_checksum(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, memory = counted(monkeypatch), tmp_path / "memory.json"
    before = of_folder(memory, root)
    os.utime(root / "list.txt", (1, 1))
    assert of_folder(memory, root) == before
    assert len(calls) == 2


def test_a_trusted_cache_asks_for_no_file(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    first = of_folder(memory, root)
    (root / "list.txt").write_text("another")
    fail = lambda: pytest.fail("the files are listed")  # noqa: E731
    assert Checksums(memory, trusted=True).of_files(root, "all", fail) == first
    assert of_folder(memory, root) != first


def test_two_data_sets_in_a_folder(root: Path, tmp_path: Path) -> None:
    memory = Checksums(tmp_path / "memory.json")
    one = memory.of_files(root, "one", lambda: [root / "list.txt"])
    assert memory.of_files(root, "two", lambda: [root / "inner/clip.mp4"]) != one


def test_files_and_a_damaged_memory(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text("{")
    # sha256 of "one"
    assert Checksums(memory).of_file(root / "list.txt").startswith("7692c3ad3540bb80")
