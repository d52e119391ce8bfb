"""What the documentation shows works: commands, configurations, Python blocks, and the site with its links."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from harness import ROOT, Workflow, snakemake

import lavish
from lavish.cli.main import _parser
from lavish.config.schema import RunConfig, WorkflowConfig
from lavish.config.validation import parse
from lavish.planning.experiments import load
from lavish.reporting.submissions import Submission

PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob(".github/**/*.md")]
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the page and the text of each fenced block in a language."""
    return [
        (page, re.sub(r"^ {0,3}", "", block, flags=re.MULTILINE) if indent else block)
        for page, text in TEXTS.items()
        for indent, block in re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    ]


def commands(program: str) -> list[list[str]]:
    """Return the words of each line of code that calls a program."""
    found = []
    for text in TEXTS.values():
        for line in re.findall(rf"^(?:    )?({program} .*)$", text, re.MULTILINE):
            command = re.split(r"\s#|\s{5,}", re.sub(r"<[^>]*>", "x", line))[0]
            if "..." not in command:
                found.append(shlex.split(command)[1:])
    return found


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in commands("lavish")])
def test_commands_of_lavish_are_accepted(words: list[str]) -> None:
    _parser().parse_args(words)


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in commands("snakemake")])
def test_targets_and_files_of_snakemake_exist(words: list[str]) -> None:
    tables = {path.stem for path in ROOT.glob("config/tables/*.yaml")} | {"presence"}  # of the page on tasks
    figures = {
        name
        for path in ROOT.glob("config/tables/*.yaml")
        for name in yaml.safe_load(path.read_text()).get("figures", ())
    }
    for word in words:
        if found := re.fullmatch(r"results/table_(\w+)\.\w+", word):
            assert found[1] in tables
        elif found := re.fullmatch(r"results/figures/(\w+)\.svg", word):
            assert found[1] in figures
        elif word.startswith("config/"):
            assert (ROOT / word).is_file()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for text in TEXTS.values() for name in re.findall(r"(?:^ *|`)make ([a-z-]+)", text, re.MULTILINE)}
    assert {"table", "docs"} <= named <= targets


CONFIGURATIONS = [(page, yaml.safe_load(text)) for page, text in blocks("yaml")]


@pytest.mark.parametrize(
    "values",
    [pytest.param(values, id=page) for page, values in CONFIGURATIONS if isinstance(values, dict)],
)
def test_configurations_are_valid(values: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", "config")
    if "method_paths" in values or "event_presence" in values or "sections" in values:
        return  # files and tables of other tests
    if "authors" in values:
        parse(Submission, values, "page")
        return
    if not values.keys() <= WorkflowConfig.model_fields.keys():
        assert values.keys() <= RunConfig.model_fields.keys()
        values = {"defaults": values, "tables": ["cost"]}
    elif values.keys() & RunConfig.model_fields.keys():
        values = {"defaults": values, "tables": ["cost"]}
    Path("mine.yaml").write_text(yaml.safe_dump(values))
    load([Path("config/config.yaml"), Path("mine.yaml")])


def test_packages_are_valid_toml() -> None:
    assert [tomllib.loads(text)["project"]["entry-points"] for _, text in blocks("toml")]


def test_the_page_on_tasks(tmp_path: Path) -> None:
    """Its task, configuration and table are planned, trained and evaluated."""
    page = TEXTS["docs/adding_a_task.md"]
    code = re.search(r"`lavish/tasks/event_presence\.py`:\n\n```python\n(.*?)```", page, re.DOTALL)
    settings, table = [text for name, text in blocks("yaml") if name == "docs/adding_a_task.md"]
    workflow = Workflow.with_default_configuration(tmp_path)
    assert code
    (tmp_path / "event_presence.py").write_text(code[1])
    workflow.write("config/tables/presence.yaml", yaml.safe_load(table))
    tasks = {**workflow.read("config/config.yaml")["tasks"], **yaml.safe_load(settings)}
    workflow.change("config/config.yaml", tables=["presence"], tasks=tasks, task_paths=["event_presence.py"])
    small = yaml.safe_load((ROOT / "config/smoke.yaml").read_text())
    small = {key: small[key] for key in ("seeds", "defaults")}
    small["tasks"] = {"event_presence": {"data": {"compose": {"clips": {"train": 16, "val": 8, "test": 8}}}}}
    small["defaults"]["training"] = {"epochs": 1}
    small["defaults"]["backbone"]["weights"] = {"source": "random"}
    workflow.write("small.yaml", small)
    options = ["--directory", str(tmp_path), "--cores", "1", "--configfile", str(tmp_path / "small.yaml")]
    result = snakemake("results/table_presence.md", *options)
    assert result.returncode == 0, result.stdout[-4000:]
    assert "whole clips" in (tmp_path / "results/table_presence.md").read_text().lower()


def test_python_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All compile, and the conversion of a data set's list runs; the others are run by tests of what they show."""
    monkeypatch.chdir(tmp_path)
    Path("vggsound.csv").write_text("-a,30,drum,train\nb,0,flute,test\n")
    for _, text in blocks("python"):
        entry = text.startswith(" ")  # of a dictionary
        code = compile(f"{{{text}}}" if entry else text, "block", "exec")
        if "vggsound.csv" in text:
            exec(code, {})
    with Path("clips.csv").open(newline="") as table:
        assert list(csv.DictReader(table))[1] == {"path": "videos/b_000000.mp4", "label": "flute", "split": "test"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    pages = folder / ".docs/pages"
    subprocess.run([sys.executable, "docs/site/stage.py", str(pages)], cwd=ROOT, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'docs/site'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "No issues found" in output and "griffe" not in output and "Warning" not in output, output
    return folder / ".docs/site"


def test_the_site_has_every_page(site: Path) -> None:
    expected = {page for page in TEXTS if page.startswith("docs/") and page != "docs/decisions/README.md"}
    assert not [page for page in expected if not (site / page).with_suffix(".html").is_file()]


def test_formulas_are_rendered(site: Path) -> None:
    formulas = len(re.findall(r"\$\$.*?\$\$", TEXTS["docs/methods.md"], re.DOTALL))
    page = (site / "docs/methods.html").read_text()
    assert page.count("<math") >= formulas > 10
    assert "$$" not in page and "arithmatex" not in page


def test_the_reference_has_signatures_and_docstrings(site: Path) -> None:
    page = (site / "docs/api_reference.html").read_text()
    for name in lavish.__all__:
        assert f'id="lavish.api.{name}"' in page
    assert "paired" in page and ":class:" not in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    outside = re.compile(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]+"')
    assert not [found for page in site.rglob("*.html") for found in outside.findall(page.read_text())]


def test_pages_can_be_searched(site: Path) -> None:
    assert "MUSIC-AVQA" in json.dumps(json.loads((site / "search.json").read_text()), ensure_ascii=False)
