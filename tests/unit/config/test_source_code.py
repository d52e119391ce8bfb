"""Digests of code: what an edit of a method, or of what it imports, changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lavish.config import source_code, sources
from lavish.config.schema import AdapterConfig
from lavish.config.source_code import code_digest
from lavish.config.sources import SourceError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package whose files are digested instead of the real ones."""
    copy = tmp_path / "lavish"
    shutil.copytree(Path(source_code.__file__).parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source_code, "_PACKAGE", copy)
    monkeypatch.setattr(sources, "_PACKAGE", copy)
    return copy


def digests() -> dict[str, str]:
    names = [("methods", name) for name in ("lavish", "lora", "bitfit")] + [("tasks", "segmentation")]
    return {name: code_digest(kind, name) for kind, name in names}


def edited(package: Path, file: str, change: Callable[[str], str]) -> list[str]:
    """Return whose digest an edit of a file changes."""
    before = digests()
    text = (package / file).read_text()
    (package / file).write_text(change(text))
    assert change(text) != text
    return [name for name, digest in digests().items() if digest != before[name]]


def with_a_statement(text: str) -> str:
    return f"{text}\nEDITED = True\n"


def test_comments_docstrings_and_layout_do_not_count(package: Path) -> None:
    file = "methods/lavish.py"
    assert not edited(package, file, lambda text: "# A comment.\n" + text.replace("\n\n", "\n\n\n"))
    assert not edited(package, file, lambda text: text.replace('''"""''', '''"""Another sentence. ''', 1))
    assert not edited(package, file, lambda text: f"{text}# the end\n")
    assert edited(package, file, lambda text: text.replace("attend(x, other)", "attend(other, x)", 1))


def test_a_line_of_a_method_counts_for_this_method_only(package: Path) -> None:
    assert edited(package, "methods/lavish.py", with_a_statement) == ["lavish"]


def test_what_a_task_says_for_the_plan_alone_does_not_count(package: Path) -> None:
    file = "tasks/segmentation.py"
    assert not edited(package, file, lambda text: text.replace('head_reads = "stages"', 'head_reads = "tokens"'))
    assert not edited(package, file, lambda text: text.replace('    head_reads = "tokens"\n', ""))
    # The name alone means nothing outside a class.
    assert edited(package, file, lambda text: f'{text}\nhead_reads = "stages"\n') == ["segmentation"]


def test_what_a_method_imports_counts(package: Path) -> None:
    assert edited(package, "methods/_shared/bottleneck.py", with_a_statement) == ["lavish"]
    assert edited(package, "metrics/masks.py", with_a_statement) == ["segmentation"]
    # Imported by the decoder that the task imports.
    assert edited(package, "models/resizing.py", with_a_statement) == ["segmentation"]


def test_bases_are_left_to_the_recipe_version(package: Path) -> None:
    assert not edited(package, "methods/base.py", with_a_statement)


def test_a_planned_job_with_other_code_is_refused(package: Path) -> None:
    planned = AdapterConfig(method="lora", code=code_digest("methods", "lora"))
    assert AdapterConfig.model_validate(planned.model_dump()) == planned
    edited(package, "methods/lora.py", with_a_statement)
    with pytest.raises(ValueError, match="the code of method 'lora' has changed since this job was planned"):
        AdapterConfig.model_validate(planned.model_dump())


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (")
    sources.add_file("methods", tmp_path / "broken.py")
    with pytest.raises(SourceError, match=r"broken\.py is no valid Python"):
        code_digest("methods", "broken")
    sources.forget_files()
