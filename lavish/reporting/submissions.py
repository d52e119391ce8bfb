"""`lavish submit-check`: whether a folder of configuration and records can be published as a result.

Everything is parsed and compared; nothing of a submission is executed. docs/submitting.md describes the folder.
"""

from __future__ import annotations

import csv
import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pydantic import Field

from lavish.config.schema import Config, RunConfig
from lavish.config.source_code import code_digest
from lavish.config.sources import available
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.io.atomic import write_text
from lavish.io.checksums import sha256_of
from lavish.io.yaml_files import read_yaml
from lavish.planning.identities import Identities
from lavish.planning.run_labels import read_labels
from lavish.provenance import RECIPE_VERSION
from lavish.reporting.records import RunResult, read_cost, read_run, seed_directories

DESCRIPTION = "submission.yaml"
CHECKSUMS = "SHA256SUMS"
MIN_SEEDS = 3
MAX_BYTES = 20 * 10**6
"""Of one file: records and predictions are small, checkpoints are not part of a submission."""


class Submission(Config):
    """What submission.yaml says."""

    title: str = Field(min_length=3, description="What was measured, in one line.")
    authors: list[str] = Field(min_length=1, description="Who made it.")
    date: datetime.date = Field(description="When the last run was finished.")
    description: str = Field(min_length=20, description="What the rows compare, and what came out.")
    configuration: list[Path] = Field(
        min_length=1, description="Configuration files and tables that make the runs, in this folder."
    )
    tables: list[Path] = Field(min_length=1, description="CSV files of the tables, in this folder.")
    methods: list[Path] = Field(
        default_factory=list, description="Files of methods and tasks from outside the package, in this folder."
    )
    test_selected: list[str] = Field(
        default_factory=list, description="Runs whose checkpoint was selected on the test split (`select_on: test`)."
    )


def check(folder: Path, *, published: bool = False) -> list[str]:
    """Return what is wrong with a submission, one line each; none if it can be published.

    Args:
        folder: of the submission.
        published: it was published earlier. Its runs are not named anew, because the code and the keys of the
            configuration may have changed since.

    Raises:
        LavishError: there is no such folder, or its description cannot be read.
    """
    if not folder.is_dir():
        raise LavishError(f"there is no folder {folder}: give the folder of a submission (docs/submitting.md)")
    submission = _description(folder)
    found = [*_files(folder, submission), *_checksums(folder)]
    runs: dict[str, RunResult] = {}
    for run in sorted(path for path in (folder / "results/runs").glob("*") if path.is_dir()):
        try:
            runs[run.name] = _read(run)
            found += _run(run, runs[run.name], submission)
            if not published:
                found += _identity(run, runs[run.name], submission)
        except LavishError as error:
            found.append(str(error))
    if not runs and not found:
        found.append(f"{folder / 'results/runs'}: no runs: copy their records there")
    for name in sorted(set(submission.test_selected) - runs.keys()):
        found.append(f"{folder / DESCRIPTION}: key 'test_selected' names {name}, which is no run of this folder")
    for table in submission.tables:
        if (folder / table).is_file():
            try:
                found += _table(folder, folder / table, runs)
            except (csv.Error, KeyError, ValueError) as error:
                found.append(f"{folder / table}: not the CSV file of a table ({error}): copy results/table_<name>.csv")
    return found


def seal(folder: Path) -> Path:
    """Write the checksums of all files of a submission and return their file.

    Raises:
        LavishError: they are there already: what is published is not edited.
    """
    path = folder / CHECKSUMS
    if path.exists():
        raise LavishError(
            f"{path}: exists already: a published submission is never edited, make another one; if this is a draft, "
            "remove the file first"
        )
    _description(folder)
    write_text(path, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in _names(folder)))
    return path


def _description(folder: Path) -> Submission:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise LavishError(f"{path}: missing: describe the submission there (docs/submitting.md)")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise LavishError(f"{path}: not a mapping of keys to values")
    return parse(Submission, values, str(path))


def _names(folder: Path) -> list[str]:
    """Return all files but the checksums, relative to the folder."""
    files = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in files if path != folder / CHECKSUMS)


def _files(folder: Path, submission: Submission) -> Iterator[str]:
    for key in ("configuration", "tables", "methods"):
        for name in getattr(submission, key):
            if name.is_absolute() or ".." in name.parts or not (folder / name).is_file():
                yield f"{folder / DESCRIPTION}: key '{key}': there is no file {name} in this folder"
    for name in _names(folder):
        path = folder / name
        if path.is_symlink():
            yield f"{path}: a link: copy the file itself"
        elif path.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".pkl") or path.stat().st_size > MAX_BYTES:
            yield f"{path}: checkpoints and files above {MAX_BYTES // 10**6} MB are no part of a submission: remove it"


def _checksums(folder: Path) -> Iterator[str]:
    path = folder / CHECKSUMS
    if not path.is_file():
        yield f"{path}: missing: `lavish submit-check --seal {folder}` writes it when everything else is there"
        return
    known: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        entry = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if not entry or PurePosixPath(entry[2]).is_absolute() or ".." in PurePosixPath(entry[2]).parts:
            yield f"{path}, line {number}: not a checksum and the name of a file in this folder"
        else:
            known[entry[2]] = entry[1]
    names = _names(folder)
    for name in names:
        if name not in known:
            yield f"{folder / name}: not in {CHECKSUMS}: a published submission is never edited, make another one"
        elif not (folder / name).is_symlink() and sha256_of(folder / name) != known[name]:
            yield f"{folder / name}: differs from {CHECKSUMS}: a published submission is never edited, make another one"
    for name in sorted(known.keys() - set(names)):
        yield f"{folder / name}: missing, but in {CHECKSUMS}: restore it"


def _read(run: Path) -> RunResult:
    """Read the trainings of all seeds, their evaluations on the test split, and the costs."""
    seeds = list(seed_directories(run))
    if not seeds:
        raise LavishError(f"{run}: no seed<k>/: copy the records of its trainings")
    read_cost(run)
    return read_run(run, seeds)


def _run(run: Path, result: RunResult, submission: Submission) -> Iterator[str]:
    """Check one run against the protocol and its name."""
    if len(result.seeds) < MIN_SEEDS:
        yield f"{run}: {len(result.seeds)} seeds, but the protocol needs at least {MIN_SEEDS}: train more"
    configs = [record.values.get("config") for record in result.records]
    if any(config != configs[0] for config in configs):
        yield f"{run}: the configurations of its seeds differ: one of the records is of another run"
    for record, seed in zip(result.records, result.seeds, strict=True):
        path = run / f"seed{seed}/record.json"
        for key in ("checkpoint", "data", "weights", "versions", "git"):
            if not record.values.get(key):
                yield f"{path}: key '{key}' is missing: train again with this version"
        if (record.values.get("git") or {}).get("dirty"):
            yield f"{path}: made with uncommitted changes of the code: commit them, and train again"
    on_test = [record.selected_on for record in result.records if record.selected_on == "test"]
    listed = run.name in submission.test_selected
    if on_test and not listed:
        yield (
            f"{run}: its checkpoints were selected on the test split: name it below 'test_selected' in {DESCRIPTION}, "
            "or select on validation"
        )
    if listed and not on_test:
        yield (
            f"{run}: named below 'test_selected' in {DESCRIPTION}, but its checkpoints were selected on "
            f"{result.records[0].selected_on}"
        )


def _identity(run: Path, result: RunResult, submission: Submission) -> Iterator[str]:
    """Check that the name of a run follows from the configuration in its records."""
    path, values = run / f"seed{result.seeds[0]}/record.json", result.records[0].values
    if values.get("recipe_version") != RECIPE_VERSION:
        yield (
            f"{path}: key 'recipe_version' is {values.get('recipe_version')}, but this version has {RECIPE_VERSION}: "
            "its numbers are not comparable with those of today; train again"
        )
        return
    recorded = values.get("config") or {}
    sources = [(recorded.get(kind) or {}).get("source") for kind in ("adapter", "task")]
    checksums = {sha256_of(run.parents[2] / file) for file in submission.methods if (run.parents[2] / file).is_file()}
    for source in filter(None, sources):
        if source.get("sha256") not in checksums:
            yield f"{path}: made with {source.get('path')}: put this file into the folder and name it below 'methods'"
    if any(sources):
        return  # the digest of such a file is only known where it is loaded
    for kind, section, key in (("methods", "adapter", "method"), ("tasks", "task", "name")):
        own = recorded.get(section) or {}
        if own.get("code") and own.get(key) in available(kind) and own["code"] != code_digest(kind, own[key]):
            yield (
                f"{path}: made with other code of '{own[key]}' than this version has: submit the change of the code "
                "first, and train with what was merged"
            )
            return
    config = parse(RunConfig, recorded, str(path))
    identities = Identities()
    identities.needs_inputs = False  # checksums of data and weights are those of the record
    planned = identities.run(config)
    if planned.name != run.name:
        yield f"{run}: its records are of the run {planned.name}: the folder was renamed, or a record was edited"
    if config.select_on != result.records[0].selected_on:
        yield f"{path}: key 'selected_on' contradicts 'config.select_on': train again"
    if config.tuning is not None and not (run / "tuning.json").is_file():
        yield f"{run / 'tuning.json'}: missing: the run was tuned, copy the choice of its search"


def _table(folder: Path, path: Path, runs: dict[str, RunResult]) -> Iterator[str]:
    """Check the values of a table against the records, and that test-selected rows are marked."""
    tasks = {label.run: label.task for label in read_labels(folder / "results/runs/index.csv")}
    markdown = path.with_suffix(".md")
    text = markdown.read_text(encoding="utf-8") if markdown.is_file() else ""
    if not text:
        yield f"{markdown}: missing: copy the table as it is printed, with its notes"
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        names = dict.fromkeys(PurePosixPath(one).parent.name for one in row["runs"].split(";") if one)
        where = f"{path}, row '{row['label']}'"
        for name in names:
            if name not in runs:
                yield f"{where}: its run {name} is not in results/runs/ or not readable: copy its records"
                continue
            result, task = runs[name], tasks.get(name, "")
            prefix = f"{task}_" if f"{task}_mean" in row else ""
            for seed, value in zip(result.seeds, result.scores.mean(axis=1), strict=True):
                printed = row.get(f"{prefix}seed{seed}")
                if not printed or not math.isclose(float(printed), value, rel_tol=1e-5, abs_tol=1e-6):
                    yield f"{where}: {prefix}seed{seed} is {printed or 'missing'}, but the predictions give {value:.7g}"
            if result.records[0].selected_on == "test" and (
                "test" not in row["selected_on"] or not _marked(text, row["label"])
            ):
                yield f"{where}: selected on the test split, but not marked (†): write the table again"


def _marked(text: str, label: str) -> bool:
    """Return whether the row of a label in a Markdown table has the mark of selection on the test split."""
    cell = re.escape(label.replace("|", r"\|"))
    return re.search(rf"^\| {cell}[^|]*†", text, re.MULTILINE) is not None
