"""What the command line does with terminals, pipes and errors of any kind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lavish.cli.main import main


def lavish(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "lavish", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "h\u00e9 \u732b"
    folder.mkdir()
    save_file({"weight": torch.ones(2)}, folder / "w.safetensors")
    return folder / "w.safetensors"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"h\\xe9 \\u732b"),
        ({"PYTHONIOENCODING": "cp1252"}, b"h\xe9 \\u732b"),
        ({"PYTHONIOENCODING": "utf-8"}, "h\u00e9 \u732b".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"w.safetensors"),
    ],
)
def test_output_in_any_encoding(weights: Path, environment: dict[str, str], shown: bytes) -> None:
    done = lavish("weights", "check", str(weights), **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown in done.stdout
    failed = lavish("weights", "check", str(weights.with_name("absent.safetensors")), **environment)
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"lavish weights check: no weights at ")
    assert failed.stderr.count(b"\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["weights", "check"]])
def test_a_reader_that_is_gone_ends_a_command_quietly(weights: Path, arguments: list[str], unbuffered: str) -> None:
    command = [sys.executable, "-m", "lavish", *arguments, *([str(weights)] if arguments != ["--help"] else [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    # argparse does not tell of a help text that it cannot write.
    assert process.returncode in ((0, 141) if arguments == ["--help"] else (141,))
    assert errors == b""


def test_output_that_cannot_be_stored_is_one_message(weights: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "lavish", "weights", "check", str(weights)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("lavish weights check: no space left on device")
    assert done.stderr.count("\n") == 1


def fail(*_: object) -> None:
    raise ValueError("not foreseen:\n\u732b")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A command that fails in a way that nothing has foreseen; temporary files are in `tmp_path`."""
    monkeypatch.setattr("lavish.models.weights.inspect_weights", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return ["weights", "check", "w.safetensors"]


def test_an_unexpected_error_is_one_line_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, broken: list[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(broken) == 1
    (file,) = tmp_path.glob("lavish-*.txt")
    assert capsys.readouterr().err == (
        "lavish weights check: unexpected ValueError: not foreseen: \u732b; please report it with the command and "
        f"{file}\n"
    )
    kept = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in kept
    assert "in fail" in kept


def test_an_unexpected_error_is_in_the_log_with_its_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, broken: list[str]
) -> None:
    assert main(broken) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("lavish weights check: unexpected ValueError: not foreseen: \u732b; please report it")
    assert not list(tmp_path.glob("lavish-*"))


def test_a_broken_pipe_to_another_process_is_not_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: list[str]
) -> None:
    def fail(_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr("lavish.models.weights.inspect_weights", fail)
    monkeypatch.setattr("lavish.cli.main._nobody_reads", lambda: False)
    assert main(broken) == 1
    assert "unexpected BrokenPipeError" in capsys.readouterr().err


def test_a_folder_below_a_file_is_one_message(capsys: pytest.CaptureFixture[str], weights: Path) -> None:
    for command in (
        ["data", "unpack", str(weights)],
        ["weights", "fetch", "--config", "{}"],
        ["prepare", "--config", "{}", "--root", ".", "--split", "train"],
        ["compose", "--config", "{}"],
        ["cost", "--config", "{}"],
        ["table", "--table", "{}"],
        ["figure", "--table", "{}", "--figure", "f"],
    ):
        assert main([*command, "--out", str(weights / "out")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{weights}: file exists: remove it, or give another path" in error
