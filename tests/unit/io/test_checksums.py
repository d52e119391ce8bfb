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


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    calls: list[Path] = []
    monkeypatch.setattr(checksums, "fingerprint", lambda root: calls.append(root) or fingerprint(root))
    return calls


def test_a_folder_is_read_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, memory = counted(monkeypatch), tmp_path / "state/memory.json"
    first = Checksums(memory).of_folder(root)
    assert first == Checksums(memory).of_folder(root) == fingerprint(root)
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
    before = Checksums(memory).of_folder(root)
    edit(root)
    assert Checksums(memory).of_folder(root) == fingerprint(root) != before


def test_new_times_alone_change_no_checksum(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, memory = counted(monkeypatch), tmp_path / "memory.json"
    before = Checksums(memory).of_folder(root)
    os.utime(root / "list.txt", (1, 1))
    assert Checksums(memory).of_folder(root) == before
    assert len(calls) == 2


def test_files_and_a_damaged_memory(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory.json"
    memory.write_text("{")
    # sha256 of "one"
    assert Checksums(memory).of_file(root / "list.txt").startswith("7692c3ad3540bb80")
