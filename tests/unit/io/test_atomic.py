"""Atomic writing: whole files or none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavish.io.atomic import replacing, write_bytes, write_json, write_text


def test_what_is_written_is_read_again(tmp_path: Path):
    write_bytes(tmp_path / "new" / "a.bin", b"\0\r\n")
    write_text(tmp_path / "a.txt", "é\r\n\u2028x\n")
    write_json(tmp_path / "a.json", {"a": [1.5, None]})
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"\0\r\n"
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n\u2028x\n".encode()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt", "new"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
