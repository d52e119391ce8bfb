"""Tables refuse records that contradict them, and say where rows were made in another environment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lavish.errors import LavishError
from lavish.provenance import RECIPE_VERSION
from lavish.reporting.tables import write_table

PLANNED = {"training": {"epochs": 5, "lr_adapter": 0.01}, "adapter": {"method": "lavish", "code": "abc"}}
MADE = {
    "recipe_version": RECIPE_VERSION,
    "config": {**PLANNED, "data": {"root": "somewhere"}},
    "versions": {"torch": "2.11.0", "timm": "1.0.19"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "machine": {"processor": "AMD EPYC", "cpu_dispatch": {"torch": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}},
}

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def spec(table_root: Path, table_spec: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The table over a copy of its runs, with records as the workflow writes them."""
    shutil.copytree(table_root, tmp_path / "runs")
    for section in table_spec["sections"]:
        for row in section["rows"]:
            for run in row["runs"].values():
                run["folder"] = str(tmp_path / "runs" / Path(run["folder"]).name)
                run["config"] = PLANNED
    for file in (tmp_path / "runs").rglob("record.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | MADE))
    return table_spec


def edit(tmp_path: Path, run: str, change: Edit, file: str = "record.json") -> None:
    path = tmp_path / "runs" / run / "seed1" / file
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def table(spec: dict[str, Any], tmp_path: Path) -> str:
    write_table(spec, tmp_path / "table")
    return (tmp_path / "table.md").read_text()


def test_rows_made_alike_have_no_note(spec: dict[str, Any], tmp_path: Path) -> None:
    text = table(spec, tmp_path)
    assert "made alike" not in text
    assert "uncommitted" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["config"]["training"].update(epochs=99), "key 'config.training.epochs' is 99"),
        (lambda record: record["config"]["adapter"].update(code="def"), "key 'config.adapter.code' is 'def'"),
        (lambda record: record.update(recipe_version=1), "key 'recipe_version' is 1"),
        (lambda record: record.update(epochs=99), "key 'epochs' is 99"),
        (lambda record: record.update(best_epoch=3), "key 'epochs' is 3 with the best epoch 3"),
    ],
)
def test_a_record_that_contradicts_its_run_is_refused(
    spec: dict[str, Any], tmp_path: Path, change: Edit, message: str
) -> None:
    edit(tmp_path, "frozen", change)
    with pytest.raises(LavishError) as error:
        table(spec, tmp_path)
    assert str(error.value).startswith(str(tmp_path / "runs/frozen/seed1/record.json"))
    assert message in str(error.value)


def test_keys_that_the_configuration_has_got_or_lost_since_are_no_contradiction(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    edit(tmp_path, "frozen", lambda record: record["config"].update(former=1))
    edit(tmp_path, "frozen", lambda record: record["config"]["training"].pop("lr_adapter"))
    table(spec, tmp_path)


def test_metrics_of_another_training_are_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "frozen", lambda record: record.update(checkpoint="one"))
    edit(tmp_path, "frozen", lambda metrics: metrics.update(origin={"checkpoint": "other"}), "test/metrics.json")
    with pytest.raises(LavishError, match=r"of the checkpoint with sha256 other, but record.json is of one"):
        table(spec, tmp_path)


def test_an_evaluation_with_other_frozen_weights_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "frozen", lambda record: record.update(weights={"sha256": "one"}))
    edit(tmp_path, "frozen", lambda it: it.update(origin={"weights": {"sha256": "other"}}), "test/metrics.json")
    with pytest.raises(LavishError, match=r"of the frozen weights with sha256 other, but record.json is of one"):
        table(spec, tmp_path)


def test_other_versions_devices_and_kernels_are_said_by_row(spec: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "frozen", lambda record: record["versions"].update(torch="2.9.0"))
    edit(tmp_path, "no_fusion", lambda record: record.update(device="NVIDIA H100"))
    edit(tmp_path, "no_fusion", lambda record: record["machine"]["cpu_dispatch"].update(torch="AVX512"))
    text = table(spec, tmp_path)
    assert "torch 2.11.0, but 2.9.0 in 'frozen backbone'" in text
    assert "device cpu, but NVIDIA H100 in 'no cross-modal attention'" in text
    assert "CPU kernels AVX2 (limited to AVX2), but AVX512 (limited to AVX2) in 'no cross-modal attention'" in text
    assert "timm" not in text
    assert "2.9.0" in (tmp_path / "table.tex").read_text()


def test_an_evaluation_elsewhere_is_said_too(spec: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "frozen", lambda metrics: metrics.update(origin={"device": "NVIDIA H100"}), "test/metrics.json")
    assert "device cpu, but NVIDIA H100 in 'frozen backbone'" in table(spec, tmp_path)


def test_uncommitted_changes_are_said_by_row(spec: dict[str, Any], tmp_path: Path) -> None:
    edit(tmp_path, "frozen", lambda record: record["git"].update(dirty=True))
    assert "Made with uncommitted changes of the code: 'frozen backbone'." in table(spec, tmp_path)
