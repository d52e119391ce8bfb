"""Configuration on the command line: JSON text, or the path of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.cli.arguments import read_values
from lavish.errors import LavishError


def test_values_come_from_text_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("a: 4e-6\n")
    assert read_values(str(path), "--config") == {"a": 4e-6}
    assert read_values(' {"a": 4e-6}', "--config") == {"a": 4e-6}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n"a": 2}', "--config, line 2: key 'a' is there twice: remove one"),
        ('{"a": 1', "--config: not valid JSON: Expecting ',' delimiter"),
        ("{" + '"a": {' * 100_000, "--config: not valid JSON: nested too deeply"),
        ("absent.yaml", "--config: no file 'absent.yaml' .give JSON text"),
    ],
)
def test_what_is_neither_is_named(text: str, message: str) -> None:
    with pytest.raises(LavishError, match=message):
        read_values(text, "--config")
