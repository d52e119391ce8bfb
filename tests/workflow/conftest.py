"""Fixtures of the workflow tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Workflow


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """The small workflow after a call that made everything. Do not change it: take a copy."""
    workflow = Workflow.with_small_table(tmp_path_factory.mktemp("finished"))
    result = workflow.call()
    assert result.returncode == 0, result.stdout
    (workflow.folder / "output.txt").write_text(result.stdout)
    return workflow


@pytest.fixture
def edited(finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of the finished workflow, to edit its configuration."""
    return finished.copy(tmp_path)
