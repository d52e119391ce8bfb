"""Deviations of runs that replicate published practice."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.planning import identities
from lavish.planning.experiments import load
from lavish.planning.published_practice import deviations
from tests.stores import run_values

ROOT = Path(__file__).parents[3]
BACKBONE = run_values()["backbone"]
DEFAULTS = {"latents": 2, "latent_init": "uniform", "norm_after": True, "gate": "both", "gate_order": "norm_first"}


def of(**changes: object) -> list[str]:
    return deviations(parse(RunConfig, run_values(**changes), "test"))


def adapter(**options: object) -> dict[str, object]:
    return {"method": "lavish", "options": {**DEFAULTS, **options}}


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"backbone": {**BACKBONE, "stochastic_depth": True}}, "stochastic depth"),
        ({"backbone": {**BACKBONE, "positions": "linear"}}, "stretched as a sequence"),
        ({"adapter": adapter(latent_init="zeros")}, "start at zero"),
        ({"adapter": adapter(gate_order="gate_first")}, "before the last norm"),
        ({"adapter": adapter(gate="visual")}, "only the visual adapters"),
        ({"adapter": adapter(unimodal_activation=False), "fusion": {"direction": "a2v"}}, "no activation"),
    ],
)
def test_each_option_is_one_deviation(changes: dict[str, object], phrase: str) -> None:
    [found] = of(**changes)
    assert phrase in found


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": adapter()},
        {"adapter": {"method": "none"}},
        {"adapter": adapter(latent_init="zeros", latents=1)},
        {"adapter": adapter(gate_order="gate_first", norm_after=False)},
        {"adapter": adapter(unimodal_activation=False)},
    ],
)
def test_options_that_change_no_number_are_no_deviation(changes: dict[str, object]) -> None:
    assert not of(**changes)


def test_rows_of_the_paper_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(identities, "_listed_files", lambda _, root: root.iterdir())
    overrides = {"tasks": {"event_localization": {"data": {"root": "tests/reference"}}}}
    table = load([Path("config/config.yaml"), Path("config/paper.yaml")], overrides).table("paper_ave")
    every = {row["variant"]: row for section in table.spec["sections"] for row in section["rows"]}
    # Files of weights that are not there concern their own rows only.
    missing = {variant for variant, row in every.items() if row["missing"]}
    assert missing == {"lavish_separate_audio", "dg_sct", "av_moe", "cola"}
    rows = {variant: row["runs"]["event_localization"] for variant, row in every.items() if variant not in missing}
    marked = {variant for variant, row in rows.items() if row["deviations"]}
    assert marked == {
        "v1_stochastic_depth",
        "v1_as_published",
        "v1_zero_latents",
        "v1_visual_gate",
        "v1_gate_first",
        "no_fusion_linear",
        "vit_b_linear_positions",
    }
    assert {variant for variant, row in rows.items() if row["select_on"] == "test"} == {
        "v1_selected_on_test",
        "v1_as_published",
    }
