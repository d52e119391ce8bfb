"""What a GPU must agree on with a CPU; skipped without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.learner.encoder import TwoStreamEncoder
from lavish.training.jobs import RunInputs, evaluate, provide_weights, train
from tests.stores import run_values, write_store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]


def accuracy(tmp_path: Path, device: str, precision: str) -> float:
    root = tmp_path / "store"
    if not root.exists():
        for seed, (split, clips) in enumerate({"train": 24, "val": 12, "test": 12}.items()):
            write_store(root / split, clips=clips, seed=seed)
    options = {"epochs": 8, "batch_size": 5, "lr_adapter": 0.01, "lr_head": 0.01, "precision": precision}
    config = parse(RunConfig, run_values(training=options), "test")
    weights = tmp_path / "vit.safetensors"
    provide_weights(config.backbone, weights)
    out = tmp_path / f"{device}-{precision}"
    inputs = RunInputs(config, 0, root, weights, device=device)
    train(inputs, out)
    evaluate(inputs, "test", out)
    return json.loads((out / "test/metrics.json").read_text())["value"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_training_on_the_gpu_reaches_what_the_cpu_reaches(tmp_path, precision):
    assert abs(accuracy(tmp_path, "cuda", precision) - accuracy(tmp_path, "cpu", "float32")) <= 0.15


@pytest.mark.parametrize("latents", [2, 0])
def test_the_encoder_agrees_with_the_cpu(latents):
    from lavish.models.backbones.build import build_backbone

    torch.manual_seed(0)
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = TwoStreamEncoder(build_backbone("vit", spec, 32), options={"latents": latents}).eval()
    for parameter in encoder.adapters.parameters():
        if not parameter.detach().any():
            torch.nn.init.constant_(parameter, 0.3)
    images = {stream: torch.randn(3, 3, 32, 32) for stream in encoder.streams}
    with torch.no_grad():
        expected = {stream: features.pooled for stream, features in encoder(images).items()}
        encoder.cuda()
        found = encoder({stream: image.cuda() for stream, image in images.items()})
    for stream, pooled in expected.items():
        torch.testing.assert_close(found[stream].pooled.cpu(), pooled, atol=1e-3, rtol=1e-3)
