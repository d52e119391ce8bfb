"""How far a workflow is: one line from the events of its jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from statistics import fmean


class WorkflowProgress:
    """Counts jobs, and estimates the end from how long jobs of each rule have taken.

    Args:
        jobs: the rule of each job that will run, by its number.
        clock: seconds.
    """

    def __init__(self, jobs: Mapping[int, str], clock: Callable[[], float] = time.time) -> None:
        self.to_come, self.clock = dict(jobs), clock
        self.running: dict[int, tuple[str, float]] = {}
        self.done: dict[str, list[float]] = {}
        self.began = clock()

    def started(self, job: int) -> None:
        """Note the start of a job; a job that is started again counts once."""
        rule = self.to_come.pop(job, None) or self.running.get(job, ("", 0.0))[0]
        if rule:
            self.running[job] = (rule, self.clock())

    def finished(self, job: int) -> None:
        """Note the end of a job."""
        rule, since = self.running.pop(job, ("", 0.0))
        if rule:
            self.done.setdefault(rule, []).append(self.clock() - since)

    def seconds_left(self) -> float | None:
        """Return the estimate, or None while jobs of most kinds have not been seen.

        The work of all jobs that are not done, by the mean of their rule, over the mean number of jobs at a time.
        """
        now = self.clock()
        taken = {rule: fmean(seconds) for rule, seconds in self.done.items()}
        open_rules = [*self.to_come.values(), *(rule for rule, _ in self.running.values())]
        known = [rule for rule in open_rules if rule in taken]
        if not taken or len(known) < len(open_rules) / 2:
            return None
        other = fmean(taken.values())
        left = sum(taken.get(rule, other) for rule in self.to_come.values())
        left += sum(max(0.0, taken.get(rule, other) - (now - since)) for rule, since in self.running.values())
        spent = sum(map(sum, self.done.values())) + sum(now - since for _, since in self.running.values())
        return left / max(1.0, spent / max(now - self.began, 1e-9))

    def line(self) -> str:
        """Return the line, such as "12 of 49 jobs done, 2 running, 35 to come; about 6 min left, until 14:32"."""
        done = sum(map(len, self.done.values()))
        total = done + len(self.running) + len(self.to_come)
        text = f"{done} of {total} jobs done, {len(self.running)} running, {len(self.to_come)} to come"
        left = self.seconds_left()
        if left is None or done == total:
            return text
        until = time.strftime("%H:%M" if left < 43200 else "%a %H:%M", time.localtime(self.clock() + left))
        return f"{text}; about {_duration(left)} left, until {until}"


class ProgressHandler(logging.Handler):
    """Notes what Snakemake logs of its jobs. It writes nothing."""

    def __init__(self, progress: WorkflowProgress) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        event = _event(record)
        if event == "job_started":
            for job in getattr(record, "jobs", None) or ():
                self.progress.started(job)
        elif event == "job_finished":
            self.progress.finished(getattr(record, "job_id", -1))


class ProgressFormatter(logging.Formatter):
    """Formats as another formatter does, except for the line that says how many steps are done."""

    def __init__(self, inner: logging.Formatter, progress: WorkflowProgress) -> None:
        super().__init__()
        self.inner, self.progress = inner, progress

    def format(self, record: logging.LogRecord) -> str:
        return self.progress.line() if _event(record) == "progress" else self.inner.format(record)


def show_progress(logger: logging.Logger, jobs: Mapping[int, str]) -> None:
    """Let a logger of Snakemake print the line of :class:`WorkflowProgress` where it says how many steps are done.

    What is printed at all, such as with `--quiet`, stays with its handlers; those of logger plugins are not touched.
    """
    progress = WorkflowProgress(jobs)
    for handler in logger.handlers:
        if handler.name in ("DefaultStreamHandler", "DefaultLogFileHandler") and handler.formatter is not None:
            handler.setFormatter(ProgressFormatter(handler.formatter, progress))
    logger.addHandler(ProgressHandler(progress))


def _event(record: logging.LogRecord) -> str:
    return str(getattr(getattr(record, "event", None), "value", ""))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
