"""Files that a code host, a catalogue or a tool reads: they are valid, and name what exists."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
# Configuration names packages, never where they are fetched from: that is a machine's own setting.
HOSTS = ("pypi" + ".org", "pythonhosted" + ".org", "download.pytorch" + ".org", "npmjs" + ".org", "anaconda" + ".org")


def strings(value: object) -> list[str]:
    """Return all strings in nested values."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else [str(value)]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_of_the_makefile(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"name", "permissions", "jobs"} <= values.keys() and True in values  # YAML reads the key `on` as true
    named = []
    for job in values["jobs"].values():
        assert job["runs-on"] and job["steps"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        named += job.get("strategy", {}).get("matrix", {}).get("target", [])
        for step in job["steps"]:
            named += re.findall(r"\bmake ([a-z-]+)", step.get("run", ""))
    assert named and set(named) <= targets


def test_every_check_runs_on_pull_requests() -> None:
    values = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())
    assert "pull_request" in values[True]
    assert {"check", "test", "smoke", "submissions"} <= set(values["jobs"]["make"]["strategy"]["matrix"]["target"])


def test_issue_forms() -> None:
    forms = [path for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml") if path.name != "config.yml"]
    assert len(forms) >= 3
    for form in forms:
        values = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= values.keys()
        kinds = {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        for item in values["body"]:
            assert item["type"] in kinds
            assert item["type"] == "markdown" or (item["id"] and item["attributes"]["label"])


def test_hooks_are_programs_of_the_environment() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]:
        program = Path(hook["entry"].split()[0])
        assert program.parent == Path(".venv/bin") and f"\n{program.name}==" in lock


def test_the_files_that_cite_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    deposit = json.loads((ROOT / ".zenodo.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert deposit["title"] == citation["title"]
    assert set(deposit["keywords"]) == set(citation["keywords"])
    assert deposit["license"] == citation["license"] == project["license"]
    assert citation["version"] == project["version"]


def test_the_catalogue_finds_what_it_expects() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["report"] and usage["software-stack-deployment"]["conda"]
    for path in ("workflow/Snakefile", "config/config.yaml", "config/README.md", "LICENSE", "README.md"):
        assert (ROOT / path).is_file()


def test_the_image_is_built_from_files_that_exist() -> None:
    text = (ROOT / "Containerfile").read_text()
    sources = re.findall(r"^COPY (\S+) ", text, re.MULTILINE)
    assert sources and all((ROOT / source).exists() for source in sources)
    left_out = (ROOT / ".containerignore").read_text().split()
    assert {".venv*", ".docs", ".demo"} <= set(left_out)


def test_the_badges_say_what_the_project_says() -> None:
    badges = runpy.run_path(str(ROOT / "docs/site/badges.py"))["badges"]()
    assert badges
    for name, text in badges.items():
        assert (ROOT / f"docs/site/{name}.svg").read_text() == text, "run docs/site/badges.py"
        assert f"docs/site/{name}.svg" in (ROOT / "README.md").read_text()


def test_no_file_names_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    if listed.returncode or not files:
        pytest.skip("not a git checkout")
    small = [path for path in files if path.is_file() and path.stat().st_size < 2**20]
    found = [path for path in small if any(host.encode() in path.read_bytes() for host in HOSTS)]
    assert found == []
