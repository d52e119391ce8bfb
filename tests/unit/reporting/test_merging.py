"""`lavish merge`: what is copied, and what is refused before anything is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lavish.cli.main import main
from lavish.errors import LavishError
from lavish.io.checksums import sha256_of
from lavish.reporting import merging
from lavish.reporting.merging import merge
from lavish.reporting.records import read_run

SCORES = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.25]])


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def trained(seed: Path, weights: str) -> None:
    """Add the checkpoint of a training, and what its record says of it."""
    (seed / "best.safetensors").write_text(weights)
    (seed / "history.csv").write_text("epoch\n0\n")
    change(seed / "record.json", checkpoint=sha256_of(seed / "best.safetensors"), config={"method": "lavish"})


@pytest.fixture
def first(make_run: Any, tmp_path: Path) -> Path:
    """Results with seeds 0, 1 and 2 of a run."""
    run = make_run("first/runs/lavish-1", SCORES)
    for seed in range(3):
        trained(run / f"seed{seed}", f"weights of {seed}")
    return tmp_path / "first"


@pytest.fixture
def second(first: Path, tmp_path: Path) -> Path:
    """The same, as another machine might have made it."""
    return Path(shutil.copytree(first, tmp_path / "second"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_seeds_of_several_machines_come_together(first: Path, second: Path, tmp_path: Path) -> None:
    whole = files(first)
    shutil.rmtree(first / "runs/lavish-1/seed1")
    shutil.rmtree(second / "runs/lavish-1/seed2")
    counts = merge([first, second], tmp_path / "all")
    assert files(tmp_path / "all") == whole
    np.testing.assert_array_equal(read_run(tmp_path / "all/runs/lavish-1", [0, 1, 2]).scores, SCORES)
    assert counts == {
        "trainings": 3, "trainings there already": 1, "evaluations": 3, "evaluations there already": 1,
        "counts of operations": 1, "counts of operations there already": 1,
    }  # fmt: skip


def test_searches_come_along(first: Path, second: Path, tmp_path: Path) -> None:
    for results in (first, second):
        (results / "runs/lavish-1/tuning.json").write_text("{}")
        trial = results / "trials/lavish-2/trial0/seed1000/record.json"
        trial.parent.mkdir(parents=True)
        trial.write_text(json.dumps({"values": {"training.lr_adapter": 0.1}, "best_value": 0.5, "job_seconds": 1.0}))
    change(trial, job_seconds=2.0)
    counts = merge([first, second], tmp_path / "all")
    assert files(tmp_path / "all") == files(first)
    assert (counts["trials"], counts["trials there already"], counts["choices of searches"]) == (1, 1, 1)
    change(trial, best_value=0.6)
    with pytest.raises(LavishError, match="the values on validation differ"):
        merge([first, second], tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_what_is_there_stays_as_it_is(first: Path, second: Path) -> None:
    change(second / "runs/lavish-1/seed0/record.json", finished="later", wall_seconds=99.0)
    before = files(second)
    merge([first], second)
    assert files(second) == before


def test_an_evaluation_joins_the_training_that_is_there(first: Path, second: Path) -> None:
    whole = files(second)
    shutil.rmtree(second / "runs/lavish-1/seed1/test")
    assert merge([first], second)["evaluations"] == 1
    assert files(second) == whole


def test_unfinished_trainings_are_left_out(first: Path, tmp_path: Path) -> None:
    (first / "runs/lavish-1/seed1/record.json").unlink()
    counts = merge([first], tmp_path / "all")
    assert counts["trainings not finished"] == 1
    assert not (tmp_path / "all/runs/lavish-1/seed1").exists()


def test_an_interruption_leaves_nothing_half(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, copied = merging.shutil.copyfile, []

    def interrupted(source: Path, place: Path) -> None:
        copied.append(source)
        if len(copied) == 4:
            raise KeyboardInterrupt
        copy(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(merging.shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            merge([first], tmp_path / "all")
    assert copied[-1].name == "record.json", "the record comes last, and is not there"
    assert merge([first], tmp_path / "all")["trainings"] == 3
    assert files(tmp_path / "all") == files(first)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda seed: trained(seed, "others"), r"'checkpoint' of record\.json differ"),
        (lambda seed: change(seed / "record.json", config={}), r"'config' of record\.json differ"),
        (lambda seed: change(seed.parent / "cost.json", total_macs=1), "their contents differ"),
        (lambda seed: (seed / "best.safetensors").write_text("damaged"), r"best\.safetensors: missing or damaged"),
        (lambda seed: (seed / "best.safetensors").unlink(), r"best\.safetensors: missing or damaged"),
        (lambda seed: change(seed / "test/metrics.json", origin={"checkpoint": "1"}), "of another checkpoint than"),
        (lambda seed: change(seed / "test/metrics.json", value=0.9), "the two come from different evaluations"),
    ],
)
def test_contradictions_and_damage_are_refused_and_nothing_is_copied(
    edit: Any, message: str, first: Path, second: Path, tmp_path: Path
) -> None:
    edit(second / "runs/lavish-1/seed1")
    with pytest.raises(LavishError, match=message):
        merge([first, second], tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_two_evaluations_of_one_training_are_refused(first: Path, second: Path, make_run: Any, tmp_path: Path) -> None:
    make_run.evaluation(second / "runs/lavish-1/seed1", 1 - SCORES[1])
    with pytest.raises(LavishError, match="have one name, but the scores differ"):
        merge([first, second], tmp_path / "all")


def test_the_command(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(first), "--into", str(tmp_path / "all")]) == 0
    assert "     3 trainings\n" in capsys.readouterr().out
    assert main(["merge", str(tmp_path)]) == 1
    assert "runs: no such folder: give folders of results" in capsys.readouterr().err
    empty = tmp_path / "empty/runs"
    empty.mkdir(parents=True)
    assert main(["merge", str(first), str(empty.parent), "--into", str(tmp_path / "more")]) == 1
    assert f"{empty}: neither a training nor a cost.json in it" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()
