"""The device of these tests: a GPU, or without one what LAVISH_GPU_TESTS_ON names, with which they can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.gpu.small import CLIPS
from tests.stores import write_stores_of_tasks

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # trainings set it, but it is read at the first product


@pytest.fixture(scope="session")
def device() -> str:
    name = os.environ.get("LAVISH_GPU_TESTS_ON", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return name


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store for each task."""
    folder = tmp_path_factory.mktemp("stores")
    write_stores_of_tasks(folder, CLIPS)
    return folder
