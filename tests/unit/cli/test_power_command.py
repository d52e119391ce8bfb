"""`lavish power`: how many seeds or clips a table needs, from its results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lavish.cli.main import main
from lavish.planning.experiments import load
from lavish.provenance import RECIPE_VERSION
from lavish.reporting.power import minimum_detectable_difference, needed, power
from lavish.reporting.records import read_run
from lavish.reporting.statistics import paired_test

TASK = "event_localization"


@pytest.fixture
def file(table_spec: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table_spec))
    return path


def answered(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["power", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["power", *map(str, arguments)]) == 1
    return capsys.readouterr().err


def line(text: str, label: str) -> list[str]:
    """Return the cells of a row."""
    found = next(line for line in text.splitlines() if line.startswith(f"{label} "))
    return [cell.strip() for cell in found.removeprefix(label).split("  ") if cell.strip()]


def test_each_row_has_its_own_numbers(file: Path, table_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = answered(capsys, file, "--difference", 4)
    assert text.startswith(
        "Accuracy: a true difference of 4 points to 'LAVISH', with 80 % power (two-sided test at 5 %"
    )
    assert "Seeds, at 80 clips    Clips, at 3 seeds" in text
    baseline = read_run(table_root / "full", (0, 1, 2)).scores
    for label, name in (("no cross-modal attention", "no_fusion"), ("frozen backbone", "frozen")):
        of = paired_test(read_run(table_root / name, (0, 1, 2)).scores, baseline).components
        counts = [needed(0.04, of, what) for what in ("seeds", "units")]
        assert line(text, label) == [
            f"{100 * power(0.04, of):.0f} %",
            f"{100 * minimum_detectable_difference(of):.1f}",
            *("none" if count is None else f"{count:,}" for count in counts),
        ]
    assert text.count("frozen backbone") == 1  # although it is in two sections
    assert "audio → visual: not run: seed0/record.json is missing" in text


def test_no_number_of_clips_suffices(file: Path, make_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scores = 0.5 + np.array([[0.0], [0.1], [-0.1]]) + 0.01 * np.random.default_rng(0).standard_normal((3, 80))
    spec = json.loads(file.read_text())
    spec["sections"][0]["rows"][1]["runs"][TASK]["folder"] = str(make_run("seeds", scores))
    file.write_text(json.dumps(spec))
    text = answered(capsys, file, "--difference", 1)
    assert "a true difference of 1 point to" in text
    assert line(text, "no cross-modal attention")[-1] == "none"
    assert "none: no number suffices (up to 4,096 seeds or 16,777,216 clips)" in text
    assert "none" not in answered(capsys, file, "--difference", 60)


def test_another_measure_than_that_of_the_columns(
    table_spec: dict[str, Any], make_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, s4 = np.random.default_rng(0), "segmentation_s4"
    for row in table_spec["sections"][0]["rows"]:
        scores = generator.random((3, 30))
        threshold = {"mIoU_validation_threshold": generator.random((3, 30))}
        folder = make_run(f"s4_{row['variant']}", scores, metric="mIoU", columns=threshold)
        row["runs"][s4] = {"folder": str(folder)}
    del table_spec["sections"][1]
    text = json.dumps(table_spec | {"columns": ["metric", "difference", f"difference@{s4}"]})
    assert answered(capsys, text, "--difference", 2).count("a true difference of 2 points") == 2
    assert answered(capsys, text, "--difference", 2, "--task", s4).startswith("mIoU, segmentation s4:")
    found = answered(capsys, text, "--difference", 2, "--measure", "mIoU_validation_threshold")
    assert found.startswith("mIoU validation threshold, segmentation s4: a true difference of 2 points")
    assert "Seeds, at 30 clips" in found
    same = answered(capsys, text, "--difference", 2, "--measure", "accuracy")
    assert same == answered(capsys, text, "--difference", 2, "--task", TASK)


def test_a_table_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Path(__file__).parents[3]
    (tmp_path / "config/tables").mkdir(parents=True)
    shutil.copy(repository / "config/published.csv", tmp_path / "config")
    config = yaml.safe_load((repository / "config/config.yaml").read_text())
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(config | {"tables": ["small"], "seeds": [0, 1, 2]}))
    rows = [
        {"variant": "lavish", "label": "LAVISH", "set": {}},
        {"variant": "avish", "label": "AVISH", "set": {"adapter": {"options": {"latents": 0}}}},
    ]
    table = {"title": "Small", "task": TASK, "baseline": "lavish", "columns": ["metric", "difference"]}
    (tmp_path / "config/tables/small.yaml").write_text(
        yaml.safe_dump({**table, "sections": [{"title": "All", "rows": rows}]})
    )
    monkeypatch.chdir(tmp_path)
    assert "not run: seed0/record.json is missing): make the table first" in refused(capsys, "small", "--difference", 1)
    for number, run in enumerate(load([Path("config/config.yaml")]).table("small").runs):
        make_run(run.folder, np.random.default_rng(number).random((3, 40)))
        for path in Path(run.folder).glob("seed*/record.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe_version": RECIPE_VERSION}))
    text = answered(capsys, "small", "--difference", 1)
    assert len(line(text, "AVISH")) == 4
    for name in ("config/tables/small.yaml", "results/table_small.md"):
        assert answered(capsys, name, "--difference", 1) == text
    assert "has no table 'smal' (did you mean 'small'?)" in refused(capsys, "smal", "--difference", 1)


def test_what_cannot_be_answered_is_said(
    file: Path, table_spec: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--difference 0: give a positive number" in refused(capsys, file, "--difference", 0)
    assert "--difference nan: give a positive number" in refused(capsys, file, "--difference", "nan")
    wrong = refused(capsys, file, "--difference", 1, "--measure", "acuracy")
    assert "table 'ablation' has no measure 'acuracy' (did you mean 'accuracy'?)" in wrong
    assert "has no task 'avqa' (one of: event_localization)" in refused(
        capsys, file, "--difference", 1, "--task", "avqa"
    )
    one = json.dumps(table_spec | {"seeds": [0]})
    assert "has one seed, which says nothing about others" in refused(capsys, one, "--difference", 1)
    costs = json.dumps(table_spec | {"columns": ["trainable_params"]})
    assert "has no column of differences" in refused(capsys, costs, "--difference", 1)
    file.write_text("[]")
    assert "table.json: not the JSON object of a table" in refused(capsys, file, "--difference", 1)
