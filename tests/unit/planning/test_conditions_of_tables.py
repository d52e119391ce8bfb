"""Columns and figures of reliance: which evaluations a table needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lavish.config.hashing import canonical_json
from lavish.errors import LavishError
from lavish.planning.experiments import Experiments, load
from lavish.planning.tables.schema import ColumnKey

CONFIG, TABLE, CONDITIONS = Path("config/config.yaml"), Path("config/tables/small.yaml"), Path("config/conditions.yaml")
AVE, S4 = "event_localization", "segmentation_s4"
ROWS: list[dict[str, Any]] = [
    {"variant": "lavish", "set": {}},
    {"variant": "deaf", "set": {"modalities": "visual", "fusion": {"direction": "none"}}},
    {"variant": "blind", "set": {"modalities": "audio", "fusion": {"direction": "none"}}, "tasks": [AVE]},
    {
        "variant": "hears_by_encoder",
        "set": {"modalities": "visual", "fusion": {"direction": "none"}, "audio_encoder": {"use": "join"}},
        "tasks": [AVE],
    },
]
FIGURE = {"kind": "reliance", "title": "", "section": "All", "conditions": ["silence", "dark"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(__file__).parents[3]
    (tmp_path / "config/tables").mkdir(parents=True)
    for file in (CONFIG, CONDITIONS):
        shutil.copy(repository / file, tmp_path / file)
    monkeypatch.chdir(tmp_path)
    edit(CONFIG, tables=["small"])
    Path("config/published.csv").write_text("id,table,method,value\n")
    write("reliance:silence", "reliance:dark", f"metric@{S4}", f"reliance:silence:F_score@{S4}")


def write(*columns: str, **more: Any) -> None:
    table = {"title": "Small", "task": AVE, "baseline": "lavish", "columns": ["metric", *columns], **more}
    TABLE.write_text(yaml.safe_dump({**table, "sections": [{"title": "All", "rows": ROWS}]}))


def edit(file: Path, **values: Any) -> None:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values))


def refused() -> str:
    with pytest.raises(LavishError) as caught:
        load([CONFIG])
    return str(caught.value)


def asked(loaded: Experiments, evaluations: list[tuple[str, str]]) -> set[tuple[str, str, str]]:
    """Return the evaluations by variant, task and condition."""
    return {
        (label.variant, label.task, folder.removeprefix("test-").rpartition("-")[0])
        for run, folder in evaluations
        for label in loaded.labels
        if label.run == run
    }


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("reliance:silence", ColumnKey("reliance", None, None, "silence")),
        ("reliance:silence:F_score", ColumnKey("reliance", "F_score", None, "silence")),
        ("reliance:silence@s4", ColumnKey("reliance", None, "s4", "silence")),
        ("reliance:noise_0db:mIoU@s4", ColumnKey("reliance", "mIoU", "s4", "noise_0db")),
        ("mean:F_score@s4", ColumnKey("mean", "F_score", "s4")),
    ],
)
def test_a_column_names_its_condition_then_its_measure(text: str, key: ColumnKey) -> None:
    assert ColumnKey.of(text) == key


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("reliance", "column 'reliance': write reliance:condition, with a name of config/conditions.yaml"),
        ("reliance@segmentation_s4", "write reliance:condition"),
        ("relience:audio", "unknown column 'relience' (did you mean 'reliance'?)"),
        ("mean:silence:F_score", "only 'reliance' has a condition before its measure"),
        ("reliance:silense", "column 'reliance:silense': config/conditions.yaml has no 'silense' (did you mean 'sil"),
        ("reliance:silence:F_score", "task 'event_localization' has no measure 'F_score'"),
        (
            f"reliance:late_sound@{S4}",
            "a shift by 1 segment(s) does not change clips of task 'segmentation_s4', which have 1: use another",
        ),
    ],
)
def test_mistakes_in_columns_are_named(column: str, message: str) -> None:
    write(column)
    found = refused()
    assert found.startswith("config/tables/small.yaml:") and message in found


def test_mistakes_in_figures_and_conditions_are_named() -> None:
    write("reliance:audio", figures={"f": {**FIGURE, "conditions": ["silense"]}})
    assert "figure 'f': config/conditions.yaml has no 'silense' (did you mean 'silence'?)" in refused()
    write("reliance:audio", figures={"f": {**FIGURE, "measure": "acc"}})
    assert "figure 'f': task 'event_localization' has no measure 'acc'" in refused()
    write("reliance:audio")
    edit(CONDITIONS, audio={"title": "", "kind": "missing", "streem": "audio"})
    found = refused()
    assert found.startswith("config/conditions.yaml:")
    assert "unknown key 'audio.missing.streem' (did you mean 'stream'?)" in found
    CONDITIONS.unlink()
    assert "there is no config/conditions.yaml" in refused()


def test_tables_without_conditions_need_no_file_of_them() -> None:
    write()
    CONDITIONS.unlink()
    assert "conditions" not in load([CONFIG]).table("small").spec


def test_each_row_is_evaluated_under_the_conditions_of_its_tasks_that_it_notices() -> None:
    loaded = load([CONFIG])
    assert asked(loaded, loaded.table("small").evaluations) == {
        ("lavish", AVE, "silence"),
        ("lavish", AVE, "dark"),
        ("lavish", S4, "silence"),
        ("deaf", AVE, "dark"),
        ("blind", AVE, "silence"),
        ("hears_by_encoder", AVE, "silence"),
        ("hears_by_encoder", AVE, "dark"),
    }
    folders = {folder for _, folder in loaded.table("small").evaluations}
    assert folders == {f"test-{identity}" for identity in loaded.conditions}
    assert all(loaded.condition(identity).identity == identity for identity in loaded.conditions)


def test_a_figure_asks_for_its_own_conditions_only() -> None:
    conditions = ["silence", "blurred"]
    write("reliance:dark", figures={"f": {**FIGURE, "conditions": conditions}})
    loaded = load([CONFIG])
    found = asked(loaded, loaded.figure("f").evaluations)
    assert {condition for _, _, condition in found} == set(conditions)
    assert ("deaf", AVE, "blurred") in found and ("deaf", AVE, "silence") not in found
    assert {one for _, _, one in asked(loaded, loaded.table("small").evaluations)} == {"dark"}
    assert set(loaded.figure("f").spec["conditions"]) == set(conditions)


def test_conditions_change_no_run() -> None:
    with_conditions = set(load([CONFIG]).runs)
    write(f"metric@{S4}")
    assert set(load([CONFIG]).runs) == with_conditions


def test_an_edited_condition_has_other_folders_and_a_new_title_only_another_table() -> None:
    before = load([CONFIG]).table("small")
    edit(CONDITIONS, dark={"title": "Night", "kind": "darken", "factor": 0.1})
    titled = load([CONFIG]).table("small")
    assert titled.evaluations == before.evaluations
    assert canonical_json(titled.spec) != canonical_json(before.spec)
    edit(CONDITIONS, dark={"title": "Night", "kind": "darken", "factor": 0.2})
    edited = load([CONFIG]).table("small")
    changed = {folder.rpartition("-")[0] for _, folder in {*edited.evaluations} ^ {*before.evaluations}}
    assert changed == {"test-dark"}
    assert {run for run, _ in edited.evaluations} == {run for run, _ in before.evaluations}
