"""Mean ranks, probability of improvement and PPT against closed forms and simulation, and their columns."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MEASURES
from scipy import stats

from lavish.errors import LavishError
from lavish.reporting.across_tasks import average_ranks, averaged, mean_ranks, ppt, probability_of_improvement
from lavish.reporting.comparison import parse_spec
from lavish.reporting.statistics import interval, resampled_means
from lavish.reporting.tables import write_table

AVE, S4, THRESHOLD = "event_localization", "segmentation_s4", "mIoU_validation_threshold"


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(8)


def test_ties_share_the_average_of_their_ranks() -> None:
    np.testing.assert_array_equal(average_ranks([0.7, 0.9, 0.7, 0.1]), [2.5, 1, 2.5, 4])
    np.testing.assert_array_equal(average_ranks([0.1 + 0.2, 0.3]), [1.5, 1.5])  # not equal in the last bit
    np.testing.assert_array_equal(average_ranks([[1, 5], [2, 5]]), [[2, 1.5], [1, 1.5]])


def test_the_mean_rank_is_over_tasks(generator: np.random.Generator) -> None:
    difficulty = generator.standard_normal((2, 50))
    first = [mean + difficulty[0] + np.zeros((3, 1)) for mean in (0.1, 0.2, 0.3)]
    second = [mean + difficulty[1] + np.zeros((3, 1)) for mean in (0.1, 0.3, 0.2)]
    # Rows that differ by as much on every clip and seed have certain ranks, although each mean is uncertain.
    assert mean_ranks([first, second]) == [(3, 3, 3), (1.5, 1.5, 1.5), (1.5, 1.5, 1.5)]


def test_equal_rows_tie_in_every_draw(generator: np.random.Generator) -> None:
    scores = generator.random((3, 40))
    assert mean_ranks([[scores, scores.copy(), scores + 1]]) == [(2.5, 2.5, 2.5), (2.5, 2.5, 2.5), (1, 1, 1)]


def test_resampled_means_have_the_interval_of_the_mean(generator: np.random.Generator) -> None:
    scores = generator.random((4, 60))
    found = interval(scores, draws=2000, seed=3)
    low, high = np.quantile(resampled_means(scores, 0.95, 2000, 3), (0.025, 0.975))
    assert (low, high) == pytest.approx((found.low, found.high))


def test_intervals_of_mean_ranks_cover_the_true_ones(generator: np.random.Generator) -> None:
    means, true, trials = np.array([0.0, 0.03, 0.06]), np.array([3, 2, 1]), 40
    covered = np.zeros(3)
    for _ in range(trials):
        clips = 0.4 * generator.standard_normal((2, 1, 100))
        tasks = [
            [
                mean + of_task + 0.03 * generator.standard_normal((5, 1)) + 0.25 * generator.standard_normal((5, 100))
                for mean in means
            ]
            for of_task in clips
        ]
        ends = np.array(mean_ranks(tasks))
        covered += (ends[:, 1] <= true) & (true <= ends[:, 2])
    assert (covered / trials >= 0.9).all()


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties() -> None:
    assert probability_of_improvement([1, 2, 3], [2, 2, 2])[0] == 0.5
    assert probability_of_improvement([1, 3], [2, 2, 0])[0] == pytest.approx(4 / 6)
    expected = stats.mannwhitneyu([1, 2, 2, 5], [0, 2, 3]).statistic / 12
    assert probability_of_improvement([1, 2, 2, 5], [0, 2, 3])[0] == pytest.approx(expected)
    found, low, high = probability_of_improvement([3, 4], [1, 2])
    assert (found, high) == (1, 1) and 0 < low < 0.5
    assert probability_of_improvement([1, 2], [3, 4]) == pytest.approx((0, 0, 1 - low))


@pytest.mark.parametrize(("difference", "spread"), [(0.0, 1.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.5)])
def test_its_estimate_and_interval_agree_with_normal_seeds(
    generator: np.random.Generator, difference: float, spread: float
) -> None:
    true = stats.norm.cdf(difference / np.hypot(1, spread))
    trials = [
        probability_of_improvement(difference + generator.standard_normal(5), spread * generator.standard_normal(5))
        for _ in range(400)
    ]
    assert np.mean([found for found, _, _ in trials]) == pytest.approx(true, abs=0.025)
    assert 0.92 <= np.mean([low <= true <= high for _, low, high in trials]) <= 0.995


def test_an_average_over_tasks_is_more_certain_than_each() -> None:
    one = probability_of_improvement([3, 4, 5], [1, 2, 6])
    assert averaged([one]) == pytest.approx(one)
    found, low, high = averaged([one] * 4)
    assert found == pytest.approx(one[0])
    assert (found - low, high - found) == pytest.approx(((one[0] - one[1]) / 2, (one[2] - one[0]) / 2))


def test_ppt_is_the_performance_without_parameters_and_falls_with_them() -> None:
    assert ppt(0.8, 0) == 0.8
    assert ppt(0.8, 1e7) == pytest.approx(0.8 * np.exp(-np.log10(2)))
    assert ppt(0.8, 9e7) == pytest.approx(0.8 / np.e)


# --- columns ---


@pytest.fixture
def spec(make_run: Any, generator: np.random.Generator) -> dict[str, Any]:
    """Two tasks with three rows; a fourth is run on one of them, and one is repeated under another name."""
    clips = generator.random((2, 80))
    rows = {"lavish": (0.0, 0.0), "better": (0.1, 0.1), "mixed": (0.05, -0.1)}
    for name, (ave, s4) in rows.items():
        noise = 0.01 * generator.standard_normal((2, 3, 80))
        make_run(f"ave_{name}", 0.2 + 0.5 * clips[0] + ave + noise[0])
        values = 0.2 + 0.5 * clips[1] + s4 + noise[1]
        make_run(f"s4_{name}", 1 - values, metric="mIoU", columns={"mIoU_validation_threshold": values})

    def row(variant: str, label: str, of: str, *tasks: str) -> dict[str, Any]:
        folders = {AVE: f"ave_{of}", S4: f"s4_{of}"}
        runs = {task: {"folder": str(make_run.root / folders[task])} for task in tasks or (AVE, S4)}
        return {"variant": variant, "label": label, "task": AVE, "runs": runs}

    return {
        "name": "two", "title": "Two tasks", "task": AVE, "titles": {AVE: "AVE", S4: "S4"}, "measures": MEASURES,
        "baseline": "lavish", "seeds": [0, 1, 2],
        "columns": ["metric", f"metric:{THRESHOLD}@{S4}", "mean_rank", "probability_of_improvement", "ppt"],
        "sections": [{"title": "Rows", "rows": [
            row("lavish", "LAVISH", "lavish"), row("better", "Better", "better"), row("mixed", "Mixed", "mixed"),
            row("ave", "One task", "better", AVE), row("again", "Mixed again", "mixed"),
            row("absent", "Absent", "absent"),
        ]}],
    }  # fmt: skip


def written(spec: dict[str, Any], folder: Path) -> tuple[str, dict[str, dict[str, str]]]:
    write_table(spec, folder / "table")
    lines = csv.DictReader((folder / "table.csv").read_text().splitlines())
    return (folder / "table.md").read_text(), {line["label"]: line for line in lines}


def test_rows_with_results_on_all_tasks_are_summarised(spec: dict[str, Any], tmp_path: Path) -> None:
    text, lines = written(spec, tmp_path)
    # The measure of each task's first column, not its metric, which orders S4 the other way.
    assert [lines[label]["mean_rank"] for label in ("Better", "LAVISH", "Mixed")] == ["1.0", "2.5", "2.5"]
    assert lines["Better"]["mean_rank_high"] == "1.0"
    assert lines["Mixed again"]["mean_rank"] == "2.5", "a run is ranked once"
    assert lines["Better"]["probability_of_improvement"] == "1.0"
    assert lines["Mixed"]["probability_of_improvement"] == "0.5"
    assert lines["LAVISH"]["probability_of_improvement"] == ""
    low = averaged([probability_of_improvement([2, 2, 2], [1, 1, 1])] * 2)[1]
    assert float(lines["Better"]["probability_of_improvement_low"]) == pytest.approx(low, rel=1e-6)
    mean = (float(lines["Better"]["event_localization_mean"]) + float(
        lines["Better"]["segmentation_s4_mIoU_validation_threshold_mean"])) / 2  # fmt: skip
    assert float(lines["Better"]["ppt"]) == pytest.approx(ppt(mean, 170_000), rel=1e-6)
    assert lines["One task"]["mean_rank"] == lines["One task"]["ppt"] == lines["Absent"]["mean_rank"] == ""
    assert "| not run: seed0/record.json is missing |" in text.split("Absent")[1].split("\n")[0].replace("  ", "")


def test_notes_say_how_little_the_tasks_tell(spec: dict[str, Any], tmp_path: Path) -> None:
    text, _ = written(spec, tmp_path)
    assert "Mean rank: of the 3 different rows with results on all tasks" in text
    assert "by Accuracy (AVE) and mIoU validation threshold (S4)" in text
    assert "another on both has p = 0.50 in a two-sided sign test over tasks, and p < 0.05 needs six tasks" in text
    assert text.count("sign test") == 1
    least = probability_of_improvement([2, 2, 2], [1, 1, 1])[1]
    assert f"a row that wins all 9 pairs on a task has [{least:.2f}, 1]" in text
    assert "M exp(-log10(N / 10⁷ + 1))" in text and "0.17 M, lowers M by 0.7 %" in text


def test_rows_of_other_clips_are_not_ranked(spec: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    make_run("ave_mixed", np.full((3, 80), 0.5), clips=[f"other{index}" for index in range(80)])
    text, lines = written(spec, tmp_path)
    assert lines["Mixed"]["mean_rank"] == ""
    assert "not ranked: other test clips than the baseline" in text
    assert lines["LAVISH"]["mean_rank"] == "2.0"


def test_summaries_without_any_result(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["sections"][0]["rows"] = [{**spec["sections"][0]["rows"][-1], "variant": "lavish"}]
    _, lines = written(spec, tmp_path)
    assert lines["Absent"]["mean_rank"] == lines["Absent"]["ppt"] == ""


def test_one_task_tells_nothing_of_others(spec: dict[str, Any], tmp_path: Path) -> None:
    spec["columns"] = ["metric", "probability_of_improvement"]
    text, lines = written(spec, tmp_path)
    assert "One task: nothing is known about others." in text
    assert lines["One task"]["probability_of_improvement"] == "1.0"


@pytest.mark.parametrize(
    ("column", "message"),
    [(f"mean_rank@{S4}", "it summarises all tasks of the table: remove '@"), ("ppt:F_score", "have a measure")],
)
def test_a_summary_has_neither_a_task_nor_a_measure(spec: dict[str, Any], column: str, message: str) -> None:
    spec["columns"].append(column)
    with pytest.raises(LavishError, match=message):
        parse_spec(spec)
