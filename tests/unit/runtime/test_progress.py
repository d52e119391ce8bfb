"""The line that says how far a workflow is."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from lavish.runtime.progress import ProgressFormatter, ProgressHandler, WorkflowProgress, show_progress


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def progress(**counts: int) -> WorkflowProgress:
    rules = [rule for rule, count in counts.items() for _ in range(count)]
    return WorkflowProgress(dict(enumerate(rules)), Clock())


def after(one: WorkflowProgress, seconds: float) -> None:
    one.clock.now += seconds


def test_counts() -> None:
    one = progress(train=5)
    assert one.line() == "0 of 5 jobs done, 0 running, 5 to come"
    one.started(0)
    one.started(1)
    one.finished(0)
    assert one.line().startswith("1 of 5 jobs done, 1 running, 3 to come")


def test_the_end_is_estimated_by_rule_and_by_jobs_at_a_time() -> None:
    one = progress(train=6, cost=2)
    assert one.seconds_left() is None
    for job in (0, 1):
        one.started(job)
    after(one, 60)
    one.finished(0)
    one.finished(1)
    assert one.seconds_left() == pytest.approx((4 * 60 + 2 * 60) / 2)  # nothing is known of the rule `cost` yet
    one.started(6)
    after(one, 2)
    one.finished(6)
    assert one.seconds_left() == pytest.approx((4 * 60 + 2) / (122 / 62))


def test_what_runs_counts_with_the_rest_of_its_time() -> None:
    one = progress(train=2)
    one.started(0)
    after(one, 100)
    one.finished(0)
    one.started(1)
    after(one, 70)
    assert one.seconds_left() == pytest.approx(30)
    after(one, 900)
    assert one.seconds_left() == 0


def test_no_estimate_from_jobs_of_other_kinds() -> None:
    one = progress(cost=1, train=9)
    one.started(0)
    after(one, 1)
    one.finished(0)
    assert one.seconds_left() is None and "left" not in one.line()


def test_no_estimate_at_the_end() -> None:
    one = progress(train=1)
    one.started(0)
    after(one, 5)
    one.finished(0)
    assert one.line() == "1 of 1 jobs done, 0 running, 0 to come"


def test_a_repeated_job_is_one_job() -> None:
    one = progress(train=2)
    one.started(0)
    one.started(0)
    assert one.line() == "0 of 2 jobs done, 1 running, 1 to come"


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds: int, text: str) -> None:
    one = progress(train=2)
    one.started(0)
    after(one, seconds)
    one.finished(0)
    assert f"about {text} left, until " in one.line()


def record(event: str, **values: object) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, "text of Snakemake", None, None)
    made.__dict__.update(event=SimpleNamespace(value=event), **values)
    return made


def test_events_of_snakemake() -> None:
    one = progress(train=3)
    handler = ProgressHandler(one)
    handler.emit(record("job_started", jobs=[0, 2]))
    handler.emit(record("job_finished", job_id=2))
    handler.emit(record("job_finished", job_id=99))
    assert one.line().startswith("1 of 3 jobs done, 1 running, 1 to come")


def test_only_the_line_of_progress_is_replaced() -> None:
    formatter = ProgressFormatter(logging.Formatter("%(message)s"), progress(train=1))
    assert formatter.format(record("progress")) == "0 of 1 jobs done, 0 running, 1 to come"
    assert formatter.format(record("job_info")) == "text of Snakemake"


def test_handlers_of_plugins_are_not_touched() -> None:
    logger = logging.Logger("snakemake")
    own, plugin = logging.StreamHandler(), logging.StreamHandler()
    own.name = "DefaultStreamHandler"
    for handler in (own, plugin):
        handler.setFormatter(logging.Formatter())
        logger.addHandler(handler)
    show_progress(logger, {0: "train"})
    assert isinstance(own.formatter, ProgressFormatter)
    assert type(plugin.formatter) is logging.Formatter
