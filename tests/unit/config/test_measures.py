"""What a task says of its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.config.measures import Measure
from lavish.config.options import add_source, task_measures
from lavish.config.sources import SourceError
from tests.external import TASK


@pytest.fixture(autouse=True)
def forget_files():
    from lavish.config import sources

    yield
    sources.forget_files()


def measures_of(folder: Path, metric: str, measures: str = "()") -> dict[str, Measure]:
    path = folder / "labels.py"
    path.write_text(TASK.replace('metric = Measure("accuracy")', f"metric = {metric}\n    measures = {measures}"))
    return task_measures(add_source("tasks", path))


def test_unit_limits_direction_and_threshold_are_read_from_the_source(tmp_path: Path) -> None:
    found = measures_of(
        tmp_path,
        'Measure("distance", "m", limits=(0.0, None), higher_is_better=False)',
        '(measures.Measure("F_score", threshold="selection"), Measure(name="SI_SDR", unit="dB", limits=(None, None)))',
    )
    assert list(found) == ["distance", "F_score", "SI_SDR"]  # the metric first
    assert found["distance"] == Measure("distance", "m", (0.0, None), False)
    assert found["F_score"].threshold == "selection"
    assert found["SI_SDR"].limits == (None, None)


@pytest.mark.parametrize(
    ("metric", "measures", "message"),
    [
        ('"accuracy"', "()", r"'accuracy' is no measure: write Measure\('<name>'\)"),
        ('Measure("accuracy")', '("top_5",)', "'top_5' is no measure"),
        ('Measure("accuracy")', "[]", r"`measures` is \[\]: write a tuple"),
        ('Measure("accuracy", direction="up")', "()", "unexpected keyword argument 'direction'"),
        ('Measure("accuracy", limits=(1.0, 0.0))', "()", "the limits 1 and 0 are not in ascending order"),
        ('Measure("top 5")', "()", "'top 5' is none"),
        ("Measure(NAME)", "()", "malformed node"),
    ],
)
def test_what_is_no_measure_is_one_message_with_the_file(
    tmp_path: Path, metric: str, measures: str, message: str
) -> None:
    with pytest.raises(SourceError, match=f"labels.py.*{message}"):
        measures_of(tmp_path, metric, measures)


def test_a_task_without_a_metric_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.py"
    path.write_text(TASK.replace('metric = Measure("accuracy")', "pass"))
    with pytest.raises(SourceError, match=r"labels.py: the class sets no `metric`"):
        task_measures(add_source("tasks", path))


def test_the_direction_decides_what_is_better_and_nothing_is_better_than_no_number() -> None:
    accuracy, distance = Measure("accuracy"), Measure("distance", "m", (0.0, None), higher_is_better=False)
    assert accuracy.better(0.8, 0.7)
    assert not accuracy.better(0.7, 0.7)
    assert distance.better(0.7, 0.8)
    assert not accuracy.better(float("nan"), 0.0)
    assert not distance.better(float("nan"), 9.0)
