"""`lavish merge`: runs that several machines made, in one folder of results."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lavish.errors import LavishError
from lavish.io.atomic import replacing
from lavish.io.checksums import sha256_of
from lavish.reporting.records import read_evaluation, read_record, seed_directories
from lavish.training.tuning import read_trial

_EQUAL = ("config", "seed", "recipe_version", "checkpoint")
"""Keys of two records that must agree."""


def merge(sources: Sequence[Path], target: Path) -> Counter[str]:
    """Copy finished trainings, evaluations, searches and counts of operations from folders of results into another one.

    Returns:
        How many of each were copied, were there already, or were left out because they are not finished.

    Raises:
        LavishError: a folder has no runs, a file is damaged, or the same training or evaluation has two results. Then
            nothing is copied.
    """
    plan = _Plan(target)
    for source in sources:
        runs = source / "runs"
        if not runs.is_dir():
            raise LavishError(f"{runs}: no such folder: give folders of results, which have a folder 'runs'")
        found = plan.counts.total()
        for run in sorted(path for path in runs.iterdir() if path.is_dir()):
            for folder in seed_directories(run).values():
                plan.add_training(folder)
            plan.add_file(run / "cost.json", "counts of operations")
            plan.add_file(run / "tuning.json", "choices of searches")
        for record in sorted(source.glob("trials/*/trial*/seed*/record.json")):
            plan.add_trial(record)
        if plan.counts.total() == found:
            raise LavishError(f"{runs}: neither a training nor a cost.json in it: give folders of results with runs")
    plan.carry_out()
    return plan.counts


class _Plan:
    """What is to be copied."""

    def __init__(self, results: Path) -> None:
        self.runs, self.trials = results / "runs", results / "trials"
        self.counts: Counter[str] = Counter()
        self._copies: dict[Path, Path] = {}
        """Source by target, folders and files."""

    def add_training(self, folder: Path) -> None:
        if not (folder / "record.json").exists():
            self.counts["trainings not finished"] += 1
            return
        record = read_record(folder).values
        checkpoint = folder / "best.safetensors"
        if not checkpoint.exists() or sha256_of(checkpoint) != record.get("checkpoint"):
            raise LavishError(f"{checkpoint}: missing or damaged, record.json names another file: train the run again")
        place = self.runs / folder.parent.name / folder.name
        other = self._there(place, place / "record.json")
        if other is None:
            self._copy("trainings", folder, place)
        else:
            values = read_record(other).values
            if odd := [key for key in _EQUAL if values.get(key) != record.get(key)]:
                raise _contradiction(folder, other, f"'{odd[0]}' of record.json")
            self.counts["trainings there already"] += 1
        for metrics in sorted(folder.glob("*/metrics.json")):
            self._add_evaluation(metrics.parent, record["checkpoint"], place)

    def _add_evaluation(self, folder: Path, checkpoint: str, training: Path) -> None:
        found = read_evaluation(folder.parent, folder.name)
        if found.origin.get("checkpoint", checkpoint) != checkpoint:
            raise LavishError(f"{folder / 'metrics.json'}: of another checkpoint than {folder.parent}: evaluate again")
        place = training / folder.name
        other = self._there(place, place / "metrics.json")
        if other is None:
            self._copy("evaluations", folder, place)
        else:
            if not np.array_equal(read_evaluation(other.parent, other.name).scores, found.scores):
                raise _contradiction(folder, other, "the scores")
            self.counts["evaluations there already"] += 1

    def add_file(self, file: Path, what: str) -> None:
        """Plan a file of a run that is the same on every machine."""
        place = self.runs / file.parent.name / file.name
        if not file.exists():
            return
        other = self._there(place, place)
        if other is None:
            self._copy(what, file, place)
        elif other.read_bytes() != file.read_bytes():
            raise _contradiction(file, other, "their contents")
        else:
            self.counts[f"{what} there already"] += 1

    def add_trial(self, record: Path) -> None:
        place = self.trials.joinpath(*record.parts[-4:])
        other = self._there(place, place)
        if other is None:
            self._copy("trials", record, place)
        else:
            one, two = read_trial(record), read_trial(other)
            if any(one[key] != two[key] for key in ("values", "best_value")):
                raise _contradiction(record, other, "the values on validation")
            self.counts["trials there already"] += 1

    def _there(self, place: Path, file: Path) -> Path | None:
        """Return what is to be copied to a place, or the place itself if the file that makes it whole is there."""
        return self._copies.get(place) or (place if file.exists() else None)

    def _copy(self, what: str, source: Path, place: Path) -> None:
        self._copies[place] = source
        self.counts[what] += 1

    def carry_out(self) -> None:
        """Copy everything; what is there is whole, whenever this is interrupted."""
        # Evaluations after the trainings whose folders they are in.
        for place, source in sorted(self._copies.items()):
            if source.is_file():
                with replacing(place) as temporary:
                    shutil.copyfile(source, temporary)
                continue
            # The record of a folder comes last: without it the result is not there.
            files = sorted(path for path in source.iterdir() if path.is_file())
            for file in sorted(files, key=lambda path: path.name in ("record.json", "metrics.json")):
                with replacing(place / file.name) as temporary:
                    shutil.copyfile(file, temporary)


def _contradiction(first: Path, second: Path, what: str) -> LavishError:
    return LavishError(
        f"{first} and {second} have one name, but {what} differ; machines need not agree to the last digit: keep one "
        "of the two. Nothing was copied"
    )
