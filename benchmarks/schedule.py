"""What would run when on a number of cores: a dry run with Snakemake's own choice of jobs and with measured durations.

python benchmarks/schedule.py --cores 8 results/table_ablation.md            # further options are Snakemake's
python benchmarks/schedule.py --cores 8 results/table_ablation.md --seconds composed/ave=59 train=20

Durations are those of the calls that made the results (`.snakemake/metadata`). `--seconds` replaces them by rule or by
part of an output's name; the first that fits counts. They hold for one worker process; a job with more takes a second
and its part of the rest.
"""

from __future__ import annotations

import argparse
import heapq
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from snakemake import cli, utils
from snakemake.scheduling.job_scheduler import JobScheduler

ALONE = 1.0
"""Seconds of a job in which its worker processes do nothing: it reads lists and starts them."""
FEW = 6
"""Jobs of a rule that are listed one by one."""


def noted_seconds() -> dict[str, float]:
    """Return the seconds that one worker process would have taken for the job of each log file."""
    seconds = {}
    for path in Path(".snakemake/metadata").rglob("*"):
        note = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if note.get("log") and note.get("endtime"):
            workers = int((re.search(r"--jobs (\d+)", note["shellcmd"] or "") or ["", "1"])[1])
            seconds[note["log"][0]] = ALONE + (note["endtime"] - note["starttime"] - ALONE) * workers
    return seconds


def simulate(scheduler: Any, given: dict[str, float]) -> bool:
    """Stand in for the loop of Snakemake's scheduler: jobs end after their duration, in no time."""
    dag, noted = scheduler.workflow.dag, noted_seconds()
    rules = {job.rule.name for job in dag.needrun_jobs()}

    def fits(key: str, job: Any) -> bool:
        return key == job.rule.name if key in rules else any(key in output for output in job.output)

    def duration(job: Any) -> float:
        seconds = next((value for key, value in given.items() if fits(key, job)), None)
        if seconds is None and job.log:
            if str(job.log[0]) not in noted:
                sys.exit(f"no call has made {job.output[0]}: make it, or say --seconds {job.rule.name}=<number>")
            seconds = noted[str(job.log[0])]
        if job.threads > 1 and seconds:
            seconds = ALONE + max(0.0, seconds - ALONE) / job.threads
        return seconds or 0.0

    waiting, running, now = set(dag.needrun_jobs()), [], 0.0
    spans: dict[str, list[tuple[float, float, Any]]] = defaultdict(list)
    while waiting or running:
        unfinished = waiting.union(job for *_, job in running)
        ready = {job for job in waiting if not unfinished & set(dag.dependencies[job])}
        for job in scheduler.job_selector(ready) if ready else []:
            waiting.remove(job)
            spans[job.rule.name].append((now, now + duration(job), job))
            heapq.heappush(running, (spans[job.rule.name][-1][1], job.jobid, job))
        now, _, job = heapq.heappop(running)
        scheduler._free_resources(job)

    print(f"{'start':>6} {'end':>6} threads  job")
    for rule, jobs in spans.items():
        for start, end, job in jobs if len(jobs) <= FEW else []:
            print(f"{start:6.0f} {end:6.0f} {job.threads:7}  {rule} {' '.join(job.wildcards)}")
        if len(jobs) > FEW:
            start, end = min(jobs, key=lambda one: one[0])[0], max(one[1] for one in jobs)
            print(f"{start:6.0f} {end:6.0f} {jobs[0][2].threads:7}  {rule}: {len(jobs)} jobs")
    if spans["train"]:
        print(f"the first training starts after {min(start for start, *_ in spans['train']):.0f} s")
    print(f"everything is there after {now:.0f} s")
    return True


def main() -> None:
    """Plan with Snakemake as for a folder without results, and print the schedule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seconds", nargs="+", default=[], metavar="NAME=SECONDS")
    options, arguments = parser.parse_known_args()
    given = {name: float(value) for name, _, value in (one.partition("=") for one in options.seconds)}
    JobScheduler.schedule = lambda scheduler: simulate(scheduler, given)
    utils.available_cpu_count = lambda: sys.maxsize  # the workflow takes no more cores than the machine has
    cli.main([*arguments, "--dry-run", "--forceall", "--quiet", "all"])


if __name__ == "__main__":
    main()
