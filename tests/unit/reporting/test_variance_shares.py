"""The ratio of variances of paired rows by simulation, and its column."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.reporting.tables import write_table
from lavish.reporting.variance_shares import variance_ratio, widening


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_the_interval_covers_the_true_ratio_of_paired_rows(correlation: float) -> None:
    generator = np.random.default_rng(4)
    covariance = [[0.3, correlation * 0.3**0.5], [correlation * 0.3**0.5, 1.0]]
    pairs = generator.multivariate_normal([5, 1], covariance, (1500, 5))
    found = np.array([variance_ratio(pair[:, 0], pair[:, 1]) for pair in pairs])
    covered = (found[:, 1] <= 0.3) & (found[:, 2] >= 0.3)
    assert covered.mean() == pytest.approx(0.95, abs=0.02)


def test_the_interval_is_the_inversion_of_pitman_and_morgans_test() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal(6), generator.standard_normal(6)
    ratio, low, high = variance_ratio(x, y)
    assert ratio == pytest.approx(x.var(ddof=1) / y.var(ddof=1))
    for end in (low, high):
        # With the ratio at an end of its interval, sums and differences of the scaled pairs correlate with p = 0.05.
        scaled = y * math.sqrt(end)
        r = np.corrcoef(x + scaled, x - scaled)[0, 1]
        assert abs(r) * math.sqrt(4 / (1 - r**2)) == pytest.approx(2.7764451, rel=1e-6)  # Student's t, 4 degrees


def test_special_cases() -> None:
    assert variance_ratio([2, 2, 2], [1, 2, 4]) == (0, 0, 0)
    assert all(map(math.isnan, variance_ratio([1, 2, 4], [2, 2, 2])))
    ratio, *ends = variance_ratio([0, 2], [0, 1])
    assert ratio == 4 and all(map(math.isnan, ends))
    assert variance_ratio([1, 2, 4], [2, 4, 8]) == pytest.approx((0.25, 0.25, 0.25))  # each pair says the same
    with pytest.raises(ValueError, match="cannot be paired"):
        variance_ratio([1, 2], [1, 2, 3])


def written(spec: dict[str, Any], folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    write_table(spec, folder / "table")
    lines = csv.DictReader((folder / "table.csv").read_text().splitlines())
    return (folder / "table.md").read_text(), {line["variant"]: line for line in lines}


def test_shares_are_of_the_baselines_variance(
    table_spec: dict[str, Any], make_run: Any, draw_scores: Any, tmp_path: Path
) -> None:
    table_spec["columns"] = ["metric", "variance_share"]
    scores = draw_scores(1.6, 0)
    still = make_run("still", np.tile(scores[0], (3, 1)))
    table_spec["sections"][0]["rows"].append(
        {"variant": "still", "label": "Still", "task": "event_localization",
         "runs": {"event_localization": {"folder": str(still)}}}
    )  # fmt: skip
    text, lines = written(table_spec, tmp_path)
    assert lines["still"]["variance_share"] == "0.0"
    assert lines["still"]["std"] == "0.0"
    assert float(lines[table_spec["baseline"]]["variance_share"]) == 1
    other = next(line for name, line in lines.items() if name in ("frozen", "no_fusion") and line["std"])
    expected = (float(other["std"]) / float(lines[table_spec["baseline"]]["std"])) ** 2
    assert float(other["variance_share"]) == pytest.approx(expected, rel=1e-5)
    assert float(other["variance_share_low"]) < expected < float(other["variance_share_high"])
    wide = f"[{100 / widening(3):.0f}, {100 * widening(3):.0f}]"
    assert f"for independent rows the interval of a share of 100 % is {wide}" in text


def test_one_seed_has_no_variance(table_spec: dict[str, Any], tmp_path: Path) -> None:
    table_spec.update(columns=["variance_share"], seeds=[0])
    text, lines = written(table_spec, tmp_path)
    assert {line["variance_share"] for line in lines.values()} == {""}
    assert "Fewer than three seeds give no interval." in text
