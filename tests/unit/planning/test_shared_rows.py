"""Sections whose rows are those of another table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavish.errors import LavishError
from lavish.planning.experiments import load

CONFIG = Path("config/config.yaml")
AVE, S4, MS3 = "event_localization", "segmentation_s4", "segmentation_ms3"
METHODS: list[dict[str, Any]] = [
    {"variant": "lavish", "label": "LAVISH", "set": {}},
    {"variant": "lora", "set": {"adapter": {"method": "lora"}}, "set_by_task": {S4: {"training": {"epochs": 2}}}},
    {"variant": "bitfit", "set": {"adapter": {"method": "bitfit"}}, "tasks": [AVE]},
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config/tables").mkdir(parents=True)
    shutil.copy(Path(__file__).parents[3] / CONFIG, tmp_path / CONFIG)
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(CONFIG.read_text())
    CONFIG.write_text(yaml.safe_dump(values | {"tables": ["first", "second"]}))
    Path("config/published.csv").write_text("id\n")
    write("first", ["metric", f"metric@{S4}"], {"title": "Methods", "rows": METHODS})


def write(name: str, columns: list[str], *sections: dict[str, Any], **more: Any) -> None:
    table = {"title": name, "task": AVE, "baseline": "lavish", "columns": columns, "sections": list(sections), **more}
    Path(f"config/tables/{name}.yaml").write_text(yaml.safe_dump(table))


def refused(*sections: dict[str, Any], columns: tuple[str, ...] = ("metric", f"metric@{S4}")) -> str:
    write("second", list(columns), *sections)
    with pytest.raises(LavishError) as caught:
        load([CONFIG])
    return str(caught.value)


SHARED = {"title": "Methods", "rows_of": "first"}


def runs(table: str) -> dict[tuple[str, str], str]:
    sections = load([CONFIG]).table(table).spec["sections"]
    return {
        (row["label"], task): run["folder"]
        for section in sections
        for row in section["rows"]
        for task, run in row["runs"].items()
    }


def test_equal_rows_are_equal_runs() -> None:
    write("second", ["metric", "metric@segmentation_s4"], SHARED)
    assert runs("second") == runs("first")
    assert len(load([CONFIG]).runs) == 5


def test_rows_keep_the_tasks_that_they_have_there() -> None:
    own = {"title": "Ours", "rows": [{"variant": "lavish", "label": "LAVISH", "set": {}}]}
    write("second", ["metric", f"metric@{MS3}", f"metric@{S4}"], own, SHARED)
    found = runs("second")
    assert {task for label, task in found if label == "LAVISH"} == {AVE, S4, MS3}
    assert {(label, task) for label, task in found if label != "LAVISH"} == {
        ("lora", AVE),
        ("lora", S4),
        ("bitfit", AVE),
    }
    assert {key: folder for key, folder in found.items() if key[1] != MS3} == runs("first")


def test_a_row_that_another_section_there_defines_is_taken_with_its_definition() -> None:
    budget = {"title": "Budget", "rows": [{"variant": "lora", "label": "LoRA"}]}
    write("first", ["metric"], {"title": "Methods", "rows": METHODS[:2]}, budget)
    own = {"title": "Ours", "rows": [{"variant": "lavish", "set": {}}]}
    write("second", ["metric"], own, {**SHARED, "title": "Budget"})
    assert runs("second")["LoRA", AVE] == runs("first")["lora", AVE]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            [{**SHARED, "rows_of": "frist"}],
            "key 'rows_of': there is no config/tables/frist.yaml (did you mean 'first'?)",
        ),
        (
            [{**SHARED, "title": "Method"}],
            "section 'Method': key 'rows_of': table 'first' has no section of this title (did you mean 'Methods'?)",
        ),
        ([{**SHARED, "rows": METHODS}], "give either `rows` or `rows_of`"),
        ([{"title": "Methods"}], "give either `rows` or `rows_of`"),
        (
            [{"title": "Ours", "rows": [{"variant": "lora", "set": {"adapter": {"method": "bitfit"}}}]}, SHARED],
            "section 'Methods': key 'rows_of': row 'lora': is defined above with other changes: rename one of the two",
        ),
        (
            [{"title": "Ours", "rows": [{"variant": "lavish", "set": {}, "tasks": [AVE]}]}, SHARED],
            "row 'lavish': is defined above without the task 'segmentation_s4': add it to `tasks` there",
        ),
    ],
)
def test_rows_that_cannot_be_taken_are_named(sections: list[dict[str, Any]], message: str) -> None:
    found = refused(*sections)
    assert found.startswith("config/tables/second.yaml:") and message in found


def test_rows_of_no_common_task_are_named() -> None:
    own = {"title": "Ours", "rows": [{"variant": "ours", "set": {}}]}
    write("second", [f"metric@{MS3}"], own, SHARED, task=MS3)
    table = yaml.safe_load(Path("config/tables/second.yaml").read_text()) | {"task": MS3, "baseline": "ours"}
    Path("config/tables/second.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(LavishError, match="row 'lavish': is not run on a task of this table's columns"):
        load([CONFIG])


def test_rows_are_not_taken_over_two_tables_or_from_another_configuration() -> None:
    write("third", ["metric", f"metric@{S4}"], SHARED)
    assert "table 'third' takes these rows from 'first': name that one" in refused({**SHARED, "rows_of": "third"})
    Path("config/other.yaml").write_text("seeds: [0]")
    write("first", ["metric"], {"title": "Methods", "rows": METHODS}, configuration="other")
    assert "has `configuration: other`, and this one none" in refused(SHARED)
