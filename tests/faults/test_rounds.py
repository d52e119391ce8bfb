"""Faults at random moments of a small workflow: a round ends with the results of a workflow that no fault has met.

`make test-faults ROUNDS=200 SEED=0` plays many. A round draws everything from its own seed, which is its number in the
test's name: `make test-faults ROUNDS=1 SEED=17` plays round 17 again. `FAULTS="terminated interrupted"` draws from
these faults alone.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from faults import Hung, possible_faults
from filelock import FileLock
from rounds import PRODUCTS, Lost, Reference, Round, begin, compare, make_reference, play, read_reference

ROUNDS = int(os.environ.get("ROUNDS", "10"))
SEED = int(os.environ.get("SEED", "0"))
FAULTS = os.environ.get("FAULTS", "").split()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="faults are injected on Linux")


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    """Made once for all processes of the test session."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "faults"
    with FileLock(f"{folder}.lock"):
        if (folder / "durations.json").exists():
            return read_reference(folder)
        return make_reference(folder)


@pytest.mark.parametrize("seed", range(SEED, SEED + ROUNDS))
def test_a_fault_changes_no_result(seed: int, reference: Reference, tmp_path: Path, record_property) -> None:
    faults = possible_faults(tmp_path)
    one = Round.draw(seed, FAULTS or sorted(faults))
    print(one)
    record_property("stage", one.stage)
    record_property("fault", one.fault)
    outcome = "other results"
    try:
        came_to = play(one, faults[one.fault], reference, tmp_path)
        outcome = "equal"
        record_property("came to", came_to)
    except (Hung, Lost) as problem:
        outcome = type(problem).__name__.lower()
        raise
    finally:
        record_property("outcome", outcome)


def test_other_missing_and_further_results_are_noticed(reference: Reference, tmp_path: Path) -> None:
    workflow = tmp_path / "workflow"
    shutil.copytree(reference.folder, workflow, symlinks=True)
    assert not compare(reference.folder, workflow)
    [best, *_] = sorted(workflow.glob("results/runs/*/seed0/best.safetensors"))
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    best.with_name("history.csv").unlink()
    best.with_name("resume.safetensors.partial").touch()
    folder = best.parent.relative_to(workflow)
    assert compare(reference.folder, workflow) == [
        f"differs: {folder / 'best.safetensors'}",
        f"left over: {folder / 'resume.safetensors.partial'}",
        f"missing: {folder / 'history.csv'}",
    ]


@pytest.mark.parametrize("stage", PRODUCTS)
def test_a_round_begins_without_the_products_of_its_stage(stage: str, reference: Reference, tmp_path: Path) -> None:
    begin(stage, reference, tmp_path / "workflow")
    assert not [path for pattern in PRODUCTS[stage] for path in (tmp_path / "workflow/results").glob(pattern)]
    assert all(any(reference.folder.glob(f"results/{pattern}")) for pattern in PRODUCTS[stage])
