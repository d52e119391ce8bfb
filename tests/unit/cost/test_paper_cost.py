"""The table of costs against what the paper prints, its public code gives and arithmetic says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from lavish.cost.counter import count, example_clips
from lavish.learner.build import build_model
from lavish.learner.uninitialised import skip_initialisation
from lavish.planning.experiments import load
from lavish.planning.identities import Run
from lavish.training.jobs import cost

ROOT = Path(__file__).parents[3]
with (ROOT / "tests/reference/expected_cost.csv").open(newline="", encoding="utf-8") as lines:
    EXPECTED = list(csv.DictReader(lines))
# Sizes of latent tokens change nothing of the frozen backbone, which is left out there to save time.
WHOLE = [variant for variant in dict.fromkeys(row["variant"] for row in EXPECTED) if not variant.startswith("latents")]
LATENTS = [row for row in EXPECTED if row["variant"].startswith("latents")]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def runs() -> dict[str, Run]:
    """Return the runs of the table of costs by variant."""
    table = load([Path("config/config.yaml")]).table("cost")
    rows = {row["variant"]: row for section in table.spec["sections"] for row in section["rows"]}
    folders = {variant: row["runs"][row["task"]]["folder"] for variant, row in rows.items()}
    return {variant: next(run for run in table.runs if run.folder == folder) for variant, folder in folders.items()}


@pytest.mark.parametrize("variant", WHOLE)
def test_whole_configurations(variant: str, tmp_path: Path) -> None:
    cost(runs()[variant].config, tmp_path / "cost.json")
    found = json.loads((tmp_path / "cost.json").read_text())
    for row in EXPECTED:
        if row["variant"] == variant:
            assert abs(found[row["field"]] - int(row["value"])) <= int(row["tolerance"]), row


@pytest.mark.parametrize("row", LATENTS, ids=lambda row: row["variant"])
def test_numbers_of_latent_tokens(row: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs()[row["variant"]].config
    with skip_initialisation():
        model = build_model(
            config, classes=["class"] * config.data.num_classes, vocabulary=0, statistics={}, weights=None
        )
    for branch in ("attention", "ffn"):
        monkeypatch.setattr(model.encoder.backbone, branch, lambda _, tokens: torch.zeros_like(tokens))
    found = count(model, example_clips(model, config.data), config.data.segments)
    assert abs(found[row["field"]] - int(row["value"])) <= int(row["tolerance"])


def test_every_row_of_the_ablation_is_counted() -> None:
    counted = [run.config for run in runs().values()]
    ablation = load([Path("config/config.yaml"), Path("config/paper.yaml")], official_folder()).table("ablation")
    for run in ablation.runs:
        if run.config.task.name != "event_localization":
            continue
        # What was measured of the material belongs to a run that is trained and not to one that is counted.
        data = run.config.data.model_copy(update={"sha256": None, "root": Path("data/AVE")})
        assert run.config.model_copy(update={"data": data}) in counted, run.name


def official_folder() -> dict[str, object]:
    """Return an override that lets the data set be any folder that exists."""
    data = {"root": str(ROOT / "tests/reference")}
    return {"tasks": {"event_localization": {"data": data}, "segmentation_s4": {"data": data}}}
