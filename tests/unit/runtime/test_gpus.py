"""Looking for GPUs without torch, with made-up device files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lavish.runtime import gpus


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, True),
        ("0", True),
        ("1,0", True),
        ("GPU-8932f937", True),
        ("MIG-GPU-8932f937/1/2", True),
        ("", False),
        ("-1", False),
        ("NoDevFiles", False),
    ],
)
def test_a_gpu_is_there_unless_it_is_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: bool
) -> None:
    monkeypatch.setattr(gpus, "FILES", ((str(tmp_path / "absent"), "nvidia-smi"), (str(tmp_path), "nvidia[0-9]*")))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (tmp_path / "nvidiactl").touch()  # of a driver without a GPU
    assert not gpus.gpu_is_visible()
    (tmp_path / "nvidia0").touch()
    assert gpus.gpu_is_visible() == expected


def test_torch_uses_no_hidden_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.usable_gpus() == 0
