"""Commands that read results run where only the packages of the group `light` are installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from lavish.config.hashing import canonical_json

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CALL = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Refuse())
from lavish.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
# What `dependencies` have and the group has not, by the names that are imported.
REFUSED = {
    "av", "fvcore", "huggingface_hub", "itables", "jinja2", "PIL", "psutil", "safetensors", "snakemake", "timm",
    "torch", "torchaudio", "torchvision", "tqdm", "vl_convert",
}  # fmt: skip


def call(*arguments: object, refused: frozenset[str] = frozenset(REFUSED - {"PIL"})) -> str:
    """Run a command without the packages; Pillow is there because matplotlib needs it."""
    code = CALL.format(refused=set(refused))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[=><~]", requirement)[0] for requirement in requirements}


def test_the_group_has_the_bounds_of_the_dependencies() -> None:
    group, all_of_them = PROJECT["dependency-groups"]["light"], PROJECT["project"]["dependencies"]
    assert set(group) - {"setuptools>=77"} <= set(all_of_them)
    installed_as = {"pillow": "PIL", "vl-convert-python": "vl_convert"}
    assert {installed_as.get(name, name) for name in names(all_of_them) - names(group)} == REFUSED


def test_its_lock_is_a_part_of_the_other() -> None:
    light, all_of_it = (
        set((ROOT / f).read_text().splitlines()) for f in ("requirements-light.lock", "requirements.lock")
    )
    assert light <= all_of_it
    assert names(PROJECT["dependency-groups"]["light"]) <= names([line for line in light if "==" in line])


@pytest.mark.parametrize("command", ["table", "figure", "compare", "show", "merge"])
def test_the_command_runs(command: str, table_root: Path, table_spec: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "table.json"
    spec.write_text(canonical_json(table_spec))
    if command == "table":
        call("table", "--table", spec, "--out", tmp_path / "made")
        assert "81.1" in (tmp_path / "made.md").read_text()
    elif command == "figure":
        call("figure", "--table", spec, "--figure", "cost", "--out", tmp_path / "made.svg")
        assert "<svg" in (tmp_path / "made.svg").read_text()
    elif command == "compare":
        reference = ROOT / "results/reference"
        assert "identical" in call("compare", reference, reference)
    elif command == "show":
        assert "accuracy" in call("show", table_root / "full").lower()
    else:
        run = tmp_path / "other/runs/event_localization-0a1b2c3d"
        run.mkdir(parents=True)
        (run / "cost.json").write_bytes((table_root / "full/cost.json").read_bytes())
        assert "1 counts of operations" in call("merge", tmp_path / "other", "--into", tmp_path / "results")
        assert (tmp_path / "results/runs" / run.name / "cost.json").is_file()


def test_what_trains_says_that_a_package_is_missing() -> None:
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        call("check-method", "lavish")
