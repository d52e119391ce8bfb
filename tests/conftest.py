"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of shared material (reference tensors, real media); tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LAVISH_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared material at {folder} (set LAVISH_SHARED)")
    return folder
