"""The first call of make: what a machine lacks is one message; what is installed is what the lock says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

# A Python that answers for the checks and makes an environment of stubs; `FAIL` is what pip says instead of installing.
PYTHON = f"""#!/bin/sh
case "$*" in
  *version_info*) exit ${{OLD:-0}} ;;
  --version) echo "Python 3.9.2" ;;
  *"import venv"*) exit ${{NO_VENV:-0}} ;;
  *disk_usage*) echo ${{FREE:-100}} ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"
    printf '#!/bin/sh\\necho "uv $*" >> calls.txt\\n' > "$3/bin/uv"
    chmod +x "$3/bin/uv" ;;
  "-m pip"*) echo "pip $*" >> calls.txt; [ -z "$FAIL" ] || {{ echo "$FAIL" >&2; exit 1; }} ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in (
        "Makefile",
        "requirements.lock",
        "requirements-light.lock",
        "pyproject.toml",
        "workflow/envs/build.sh",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    stub = tmp_path / "stub-python"
    stub.write_text(PYTHON)
    stub.chmod(0o755)
    return tmp_path


def make(
    clone: Path, *arguments: str, python: str = "./stub-python", **environment: str
) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments, f"PYTHON={python}"]
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "HTTPS_PROXY")  # of a `make test` that runs this test
    variables = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(
        command, cwd=clone, env={"FAIL": "", **variables, **environment}, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("environment", "python", "message"),
    [
        ({}, "no-such-python", "there is no 'no-such-python' here: install Python 3.11 or newer"),
        ({"OLD": "1"}, "./stub-python", "'./stub-python' is Python 3.9.2, lavish needs Python 3.11 or newer"),
        ({"NO_VENV": "1"}, "./stub-python", "has no module venv: install it"),
        ({"FREE": "3"}, "./stub-python", ".venv needs 6 GB and 3 GB are free in"),
        (
            {"FAIL": "Name or service not known"},
            "./stub-python",
            "packages cannot be fetched: no network, or a network that",
        ),
        (
            {"FAIL": "ProxyError('Cannot connect to proxy.')", "HTTPS_PROXY": "http://gate:3128"},
            "./stub-python",
            "packages cannot be fetched: the proxy (HTTPS_PROXY is 'http://gate:3128') does not let pip through",
        ),
    ],
)
def test_what_is_missing_is_one_message(clone: Path, environment: dict[str, str], python: str, message: str) -> None:
    done = make(clone, "environment", python=python, **environment)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: *** [")]
    assert len(said) == 1 and message in said[0], done.stderr
    assert (
        not (clone / "calls.txt").exists() or "uv" not in (clone / "calls.txt").read_text().splitlines()[-1].split()[0]
    )


def test_the_size_is_said_before_anything_is_fetched(clone: Path) -> None:
    done = make(clone, "environment", FAIL="Name or service not known")
    assert "fetches and installs up to 6 GB" in done.stdout


@pytest.mark.parametrize(("torch", "cuda"), [("cuda", True), ("cpu", False)])
def test_the_lock_is_installed(clone: Path, torch: str, cuda: bool) -> None:
    done = make(clone, "environment", f"TORCH={torch}")
    assert done.returncode == 0, done.stderr
    calls = (clone / "calls.txt").read_text()
    assert "--requirement .venv/wanted.txt" in calls and "--no-deps" in calls
    wanted = (clone / ".venv/wanted.txt").read_text()
    assert "torch==" in wanted
    assert ("nvidia-cublas==" in wanted, "triton==" in wanted, "cuda-toolkit==" in wanted) == (cuda,) * 3
    again = make(clone, "environment")
    assert "Building" not in again.stdout and again.returncode == 0
