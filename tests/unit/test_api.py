"""The public Python API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lavish
from lavish.errors import LavishError

SCORES = np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [1.0, 1.0, 0.25]])


def test_importing_and_listing_does_not_import_torch() -> None:
    code = "import lavish, sys; lavish.available_methods(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_available_names() -> None:
    assert "lavish" in lavish.available_methods()
    assert "event_localization" in lavish.available_tasks()


def test_load_results(make_run: Any) -> None:
    run: Path = make_run("run", SCORES)
    frame = lavish.load_results(run.parent)
    assert frame["seed"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(frame["value"], SCORES.mean(axis=1))
    assert set(frame["trainable_params"]) == {170_000}
    assert "measures.loss" in frame


def test_load_results_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="is not a folder"):
        lavish.load_results(tmp_path / "none")


def test_compare(make_run: Any) -> None:
    a, b = make_run("a", SCORES), make_run("b", SCORES / 2)
    assert lavish.compare(a, b).difference == pytest.approx(SCORES.mean() / 2)


def test_compare_without_common_seeds(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match="no seed in common"):
        lavish.compare(make_run("a", SCORES), tmp_path / "none")
