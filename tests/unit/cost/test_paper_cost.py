"""The cost table against the paper, its public code and arithmetic."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from lavish.cost.counter import count_macs, example_clips
from lavish.cost.job import count_run, count_run_parameters
from lavish.learner.uninitialised import uninitialised_backbones, uninitialised_model
from lavish.models.backbones.base import Backbone
from lavish.planning.experiments import load
from lavish.planning.identities import Run
from tests.avsbench_files import write_s4

ROOT = Path(__file__).parents[3]
with (ROOT / "tests/reference/expected_cost.csv").open(newline="", encoding="utf-8") as lines:
    EXPECTED = list(csv.DictReader(lines))
# Only the baseline is counted as a whole. Of the others, the parameters or the adapters' multiply-adds are expected.
BASELINE = "lavish"
OTHERS = [row for row in EXPECTED if row["variant"] != BASELINE]
PARAMETERS = dict.fromkeys(row["variant"] for row in OTHERS if row["field"].endswith("_params"))
ADAPTERS = [row["variant"] for row in OTHERS if row["field"] == "adapter_macs_without_norms"]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Return the runs of the cost table by variant."""
    table = load([ROOT / "config/config.yaml"]).table("cost")
    rows = {row["variant"]: row for section in table.spec["sections"] for row in section["rows"]}
    folders = {variant: row["runs"][row["task"]]["folder"] for variant, row in rows.items()}
    return {variant: next(run for run in table.runs if run.folder == folder) for variant, folder in folders.items()}


@pytest.fixture(scope="module")
def swin_large(runs: dict[str, Run]) -> Backbone:
    return uninitialised_backbones(runs[BASELINE].config)[0]


def check(variant: str, found: dict[str, Any]) -> None:
    for row in EXPECTED:
        if row["variant"] == variant and row["field"] in found:
            assert abs(found[row["field"]] - int(row["value"])) <= int(row["tolerance"]), row


def test_the_baseline(runs: dict[str, Run]) -> None:
    found = count_run(runs[BASELINE].config)
    assert {row["field"] for row in EXPECTED if row["variant"] == BASELINE} <= found.keys()
    check(BASELINE, found)


@pytest.mark.parametrize("variant", PARAMETERS)
def test_parameters(variant: str, runs: dict[str, Run]) -> None:
    config = runs[variant].config
    check(variant, count_run_parameters(config, *uninitialised_model(config)))


@pytest.mark.parametrize("variant", ADAPTERS)
def test_multiply_adds_of_adapters(
    variant: str, runs: dict[str, Run], swin_large: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = runs[variant].config
    model, _ = uninitialised_model(config, (swin_large, None))
    # Adapters cost the same whatever the frozen sublayers compute.
    for sublayer in ("attention", "ffn"):
        monkeypatch.setattr(swin_large, sublayer, lambda _, tokens, grid: torch.zeros_like(tokens))
    check(variant, count_macs(model, example_clips(model, config.data), config.data.segments))


def test_every_row_of_the_ablation_is_counted(runs: dict[str, Run], tmp_path: Path) -> None:
    counted = [run.config for run in runs.values()]
    ablation = load([Path("config/config.yaml"), Path("config/paper.yaml")], official_folders(tmp_path))
    table = ablation.table("ablation")
    assert "weights missing" in str(table.spec)  # of the separate audio backbone; its rows are checked by their costs
    for run in table.runs:
        if run.config.task.name != "event_localization":
            continue
        # The data's checksum is part of a run that is trained, not of one that is only counted.
        data = run.config.data.model_copy(update={"sha256": None, "root": Path("data/AVE")})
        assert run.config.model_copy(update={"data": data}) in counted, run.name


def official_folders(root: Path) -> dict[str, object]:
    """Return an override that names the smallest data sets in the official layouts."""
    write_s4(root / "s4")
    (root / "ave/AVE").mkdir(parents=True)
    lines = [f"{category}&{split}&good&0&10" for split, category in zip(("train", "val", "test"), "abc", strict=True)]
    (root / "ave/Annotations.txt").write_text("\n".join(["Category&VideoID&Quality&StartTime&EndTime", *lines]) + "\n")
    for split, line in zip(("train", "val", "test"), lines, strict=True):
        (root / f"ave/{split}Set.txt").write_text(f"{line}\n")
    roots = {"event_localization": root / "ave", "segmentation_s4": root / "s4"}
    return {"tasks": {task: {"data": {"root": str(folder)}} for task, folder in roots.items()}}
