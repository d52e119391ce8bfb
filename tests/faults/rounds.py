"""Rounds of a small workflow: from the files before a stage, through a fault in it, to the whole results."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from faults import Call, Fault, Hung, kill, mount, unmount

from tests.records import steady

ROOT = Path(__file__).parents[2]

CONFIG = {
    "seeds": [0, 1],
    "tables": ["small"],
    "tuning": {"trials": 2},
    "tasks": {"event_localization": {"data": {"compose": {"clips": {"train": 12, "val": 6, "test": 6}}}}},
    "defaults": {
        "data": {"compose": {"assets": {"instances": {"train": 2, "val": 1, "test": 1}}}},
        "backbone": {"weights": {"recipe": {"instances": 2, "samples": 32, "epochs": 2}}},
        "audio_encoder": {"weights": {"recipe": {"instances": 2, "samples": 32, "epochs": 1}}},
        "training": {"epochs": 3},
    },
}
TABLE = {
    "title": "Small",
    "task": "event_localization",
    "baseline": "lavish",
    "tuned": True,
    "columns": ["metric", "difference", "trainable_params", "total_gmacs"],
    "sections": [
        {
            "title": "Rows",
            "rows": [
                {"variant": "lavish", "set": {}},
                {"variant": "frozen", "set": {"adapter": {"method": "none"}}},
                {"variant": "encoder", "set": {"audio_encoder": {"use": "join"}}},
            ],
        }
    ],
    "figures": {"small": {"kind": "metric_against_cost", "title": "Small figure", "section": "Rows"}},
}

# The products of each stage's jobs, below results/. A round begins with those of the stages that come before its own.
PRODUCTS = {
    "compose": ["data/composed/*"],
    "pretrain": ["weights/*"],
    "prepare": ["data/prepared/*"],
    "encode": ["data/features/*"],
    "trial": ["trials/*/trial*/seed*"],
    "choose": ["runs/*/tuning.json"],
    "train": ["runs/*/seed*/best.safetensors", "runs/*/seed*/history.csv", "runs/*/seed*/record.json"],
    "evaluate": ["runs/*/seed*/test"],
    "cost": ["runs/*/cost.json"],
    "table": ["table_*", "figures/*", "site"],
}
DEPENDENT = {
    "compose": ["prepare", "encode", "trial", "choose", "train", "evaluate", "cost"],
    "pretrain": ["encode", "trial", "choose", "train", "evaluate", "cost"],
    "prepare": ["encode", "trial", "choose", "train", "evaluate", "cost"],
    "encode": ["trial", "choose", "train", "evaluate", "cost"],
    "trial": ["choose", "train", "evaluate", "cost"],
    "choose": ["train", "evaluate", "cost"],
    "train": ["evaluate"],
}

# Stages of six jobs: those that run side by side when all are told to end.
SIX_JOBS = ["trial", "train", "evaluate"]

# Seconds after which a call counts as hung; it takes a quarter of this when the machine does nothing else.
LIMIT = 240


@dataclass(frozen=True)
class Reference:
    """A finished workflow that no fault has met, and the seconds that each stage took."""

    folder: Path
    durations: dict[str, float]


@dataclass(frozen=True)
class Round:
    """What a round draws from its seed."""

    seed: int
    stage: str
    fault: str
    moment: float
    """In [0, 1.1), as a part of the stage's duration."""
    started: int
    """Jobs of the stage that have started before the moment counts."""

    @classmethod
    def draw(cls, seed: int, faults: list[str]) -> Round:
        rng = random.Random(seed)
        fault = rng.choice(faults)
        side_by_side = fault in ("terminated", "interrupted")
        stage = rng.choice(SIX_JOBS if side_by_side else list(PRODUCTS))
        return cls(seed, stage, fault, 1.1 * rng.random(), 6 if side_by_side else 1)


class Lost(Exception):
    """Results of finished jobs were made again, or are gone."""


def start(folder: Path, output: Path, cores: int = 2) -> Call:
    """Call Snakemake in a folder; what it prints goes to a file outside, because the folder's disk may be full."""
    # The workflow takes no more cores than the machine has, and a shell's background processes ignore interrupts.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from snakemake import cli, utils; utils.available_cpu_count = lambda: {cores}; cli.main()"
    )
    command = [sys.executable, "-c", code, "--directory", str(folder), "--cores", str(cores)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--configfile", str(folder / "small.yaml")],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Call(process, folder, output)


def wait(call: Call) -> int:
    """Return the exit status of a call; Hung if it does not end in time."""
    try:
        return call.process.wait(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        call.kill_all()
        raise Hung(call.output.read_text()[-4000:]) from None


def make_reference(folder: Path) -> Reference:
    """Run the workflow once without a fault."""
    workflow = folder / "whole"
    shutil.copytree(ROOT / "config", workflow / "config")
    (workflow / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    (workflow / "config/tables/small.yaml").write_text(yaml.safe_dump(TABLE))
    call = start(workflow, folder / "whole.txt")
    began: dict[str, float] = {}
    while call.process.poll() is None:
        for stage in PRODUCTS.keys() - began.keys():
            if any((workflow / "results/logs" / stage).glob("*")):
                began[stage] = time.time()
        time.sleep(0.02)
    assert call.process.returncode == 0, call.output.read_text()[-4000:]
    durations = {stage: max(0.3, max(_mtimes(workflow, stage)) - began[stage]) for stage in PRODUCTS}
    (folder / "durations.json").write_text(json.dumps(durations))
    return Reference(workflow, durations)


def read_reference(folder: Path) -> Reference:
    """Return the reference that another process has made."""
    return Reference(folder / "whole", json.loads((folder / "durations.json").read_text()))


def _mtimes(workflow: Path, stage: str) -> list[float]:
    return [path.stat().st_mtime for pattern in PRODUCTS[stage] for path in (workflow / "results").glob(pattern)]


def play(one: Round, fault: Fault, reference: Reference, folder: Path) -> str:
    """Play a round in an empty folder; return what the call that met the fault came to.

    Raises:
        Hung: a call did not end.
        Lost: the second call made results again that the first one, or the files it began with, already had.
        AssertionError: the results differ from the reference's.
    """
    workflow = folder / "workflow"
    workflow.mkdir()
    if one.fault == "full_disk":
        assert mount(workflow, 64 << 20)
    try:
        return _play(one, fault, reference, workflow)
    finally:
        for name in ("first.txt", "last.txt"):
            path = workflow.with_name(name)
            if path.exists():
                print(f"--- {name}\n{path.read_text(errors='replace')[-3000:]}")
        kill([one for one in psutil.process_iter() if _works_in(one, workflow)])
        unmount(workflow)
        shutil.rmtree(workflow)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


def _play(one: Round, fault: Fault, reference: Reference, workflow: Path) -> str:
    begin(one.stage, reference, workflow)
    before = {path: path.stat() for path in results(workflow)}
    call = start(workflow, workflow.with_name("first.txt"), max(2, one.started))
    deadline = time.monotonic() + LIMIT
    logs = workflow / "results/logs" / one.stage
    while call.process.poll() is None and len(list(logs.glob("*"))) < one.started:
        if time.monotonic() > deadline:
            call.kill_all()
            raise Hung("no job of the stage was started")
        time.sleep(0.01)
    time.sleep(one.moment * reference.durations[one.stage])
    ended = call.process.poll() is not None
    finished = finished_outputs(workflow)
    with fault(call, random.Random(one.seed)):
        status = wait(call)
    kept = {path: path.stat() for path in {*before, *finished, *finished_outputs(workflow)} if path.exists()}
    if missing := sorted({*before, *finished} - kept.keys()):
        raise Lost(f"gone after the fault: {missing}")

    last = start(workflow, workflow.with_name("last.txt"))
    if status := wait(last):
        raise AssertionError(f"the uninterrupted call ended with status {status}")
    made_again = [path for path, was in kept.items() if not path.exists() or path.stat().st_ino != was.st_ino]
    if made_again:
        raise Lost(f"made again: {made_again}")
    differences = compare(reference.folder, workflow)
    assert not differences, differences
    return "the workflow had ended before" if ended else f"exit status {call.process.returncode}"


def begin(stage: str, reference: Reference, workflow: Path) -> None:
    """Copy the reference without what the stage and those that depend on it have made."""
    shutil.copytree(reference.folder, workflow, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(workflow / "results/logs")
    for removed in {stage, "table", *DEPENDENT.get(stage, [])}:
        for pattern in PRODUCTS[removed]:
            for path in (workflow / "results").glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    # Snakemake's notes on what has been removed.
    for path in (workflow / ".snakemake/metadata").glob("*"):
        if not (workflow / base64.urlsafe_b64decode(path.name).decode()).exists():
            path.unlink()


_REMADE = ("results/table_", "results/figures", "results/site")


def finished_outputs(workflow: Path) -> set[Path]:
    """Return the outputs of the jobs that Snakemake has noted as finished or failed, apart from tables, figures, page.

    They are remade in a moment, and whenever a record is newer.
    """
    notes = (workflow / ".snakemake/metadata").glob("*")
    names = {base64.urlsafe_b64decode(note.name).decode() for note in notes}
    return {workflow / name for name in names if not name.startswith(_REMADE)}


def results(workflow: Path) -> list[Path]:
    """Return the files of all jobs, without logs and what readers have noted about the state of a store's files."""
    folder = workflow / "results"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "verified.json"]
    return sorted(path for path in files if path.relative_to(folder).parts[0] != "logs")


def compare(whole: Path, workflow: Path) -> list[str]:
    """Return how the results in `workflow` differ from those in `whole`."""
    ours = {path.relative_to(workflow): path for path in results(workflow)}
    theirs = {path.relative_to(whole): path for path in results(whole)}
    differences = [f"left over: {name}" for name in ours.keys() - theirs.keys()]
    differences += [f"missing: {name}" for name in theirs.keys() - ours.keys()]
    differences += [
        f"differs: {name}" for name in ours.keys() & theirs.keys() if _content(ours[name]) != _content(theirs[name])
    ]
    return sorted(differences)


def _content(path: Path) -> object:
    """Return the content of a file; of records and the page, without the times in them."""
    if path.suffix == ".html":
        return re.sub(r"<td class=\"number\">\d+ s</td>", "", path.read_text())
    return steady(json.loads(path.read_bytes())) if path.suffix == ".json" else path.read_bytes()
