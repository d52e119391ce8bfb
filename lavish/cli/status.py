"""`lavish status`: how far a workflow and its trainings are, from the files that they write."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout, UnixFileLock
from safetensors import SafetensorError, safe_open

from lavish.errors import LavishError
from lavish.planning.run_labels import read_labels
from lavish.reporting.records import MissingResult, read_evaluation, read_record, seed_directories

_JOBS = re.compile(r"^\d+ of \d+ jobs done.*$", re.MULTILINE)
# The bar of tqdm, and what lavish/training/loop.py adds to it.
_EPOCHS = re.compile(r"epochs:\s+\d+%\|[^|]*\| (\d+)/(\d+) \[([^\]]*)\]")
_TAIL = 64 * 1024


@dataclass(frozen=True)
class Training:
    """A training and how far it is."""

    name: str
    state: str
    """`done`, `running`, `interrupted` or `not begun`."""
    details: str


def status(results: Path) -> str:
    """Return what is done, what runs and what is to come, as text.

    Args:
        results: folder of results, or the folder that Snakemake runs in.

    Raises:
        LavishError: it has no runs.
    """
    if not (results / "runs").is_dir() and (results / "results/runs").is_dir():
        results /= "results"
    if not (results / "runs").is_dir():
        raise LavishError(f"{results}: no folder 'runs': nothing has begun here, or this is another folder")
    labels: dict[str, str] = {}
    for label in read_labels(results / "runs/index.csv"):
        labels.setdefault(label.run, f"{label.table}: {label.label}")
    trainings = [
        _training(results, folder, labels.get(run.name, ""))
        for run in sorted(path for path in (results / "runs").iterdir() if path.is_dir())
        for folder in seed_directories(run).values()
    ]
    begun = {training.name.split("/")[0] for training in trainings}
    missing = [Training(run, "not begun", text) for run, text in sorted(labels.items()) if run not in begun]
    lines = [_workflow(results)]
    for state in ("running", "interrupted", "done", "not begun"):
        of_state = [one for one in (*trainings, *missing) if one.state == state]
        if of_state:
            lines += ["", f"{'Runs' if state == 'not begun' else 'Trainings'} {state}: {len(of_state)}"]
            lines += [f"  {one.name:<40} {one.details}" for one in of_state]
    return "\n".join(lines)


def _workflow(results: Path) -> str:
    """Return the last line that the newest call of Snakemake wrote about its jobs."""
    folder = results.parent / ".snakemake"
    logs = sorted((folder / "log").glob("*.snakemake.log"))
    found = _JOBS.findall(_tail(logs[-1])) if logs else []
    line = found[-1] if found else "no job has ended yet" if logs else "no log of Snakemake"
    if _held(folder / "lavish.lock"):
        return f"Workflow running: {line}"
    return f"Workflow not running; its last call: {re.sub('; about .*', '', line)}"


def _training(results: Path, folder: Path, label: str) -> Training:
    name = f"{folder.parent.name}/{folder.name}"
    text = f"  ({label})" if label else ""
    if (folder / "record.json").is_file():
        record = read_record(folder)
        value = f"{record.metric} {record.best_value:.4f} on {record.selected_on}"
        try:
            value += f", {read_evaluation(folder, 'test').value:.4f} on test"
        except MissingResult:
            value += ", not evaluated"
        return Training(name, "done", f"{record.epochs} epochs, {value}{text}")
    running = _held(folder.parent / f".{folder.name}.lock")
    log = results / "logs/train" / f"{folder.parent.name}-{folder.name}.log"
    bars = _EPOCHS.findall(_tail(log)) if running and log.is_file() else []
    if bars:
        epoch, epochs, rest = bars[-1]
        # After the time that has passed and is left: the loss, the metric, clips/s.
        numbers = [part.strip() for part in rest.split(",")[1:] if "=" in part]
        progress = ", ".join([f"epoch {epoch} of {epochs}", *numbers])
    else:
        epoch = _saved_epoch(folder / "resume.safetensors")
        progress = "no epoch has ended yet" if epoch is None else f"epoch {epoch} is saved"
    return Training(name, "running" if running else "interrupted", progress + text)


def _saved_epoch(path: Path) -> int | None:
    """Return the epoch in the header of the resumable state; None if there is none."""
    try:
        with safe_open(path, framework="numpy") as state:
            return int(json.loads((state.metadata() or {})["progress"])["epoch"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _held(lock: Path) -> bool:
    """Return whether a process holds a lock file. It is not made if it does not exist."""
    if not lock.exists():
        return False
    try:
        with UnixFileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # of another user
        return False


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return file.read().decode(errors="replace")
