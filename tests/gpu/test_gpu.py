"""What a GPU must agree on with a CPU; skipped without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lavish.config.schema import RunConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.runtime import fork_client
from lavish.training import loop
from lavish.training.device import autocast, place
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


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("recompute", ["none", "adapters", "blocks"])
def test_no_step_waits_for_the_gpu(precision, recompute, tmp_path, monkeypatch):
    step, taken = loop._step, []

    def watched(*arguments: Any) -> torch.Tensor:
        if taken:  # the first step loads kernels
            torch.cuda.set_sync_debug_mode("error")
        try:
            taken.append(step(*arguments))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return taken[-1]

    monkeypatch.setattr(loop, "_step", watched)
    for split in ("train", "val"):
        write_store(tmp_path / split)
    options = {"epochs": 2, "batch_size": 3, "precision": precision, "recompute": recompute, "capture": "none"}
    config = parse(RunConfig, run_values(training=options), "test")
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    train(RunInputs(config, 0, tmp_path, tmp_path / "vit.safetensors", device="cuda"), tmp_path / "run")
    assert len(taken) == 8


def step_of_an_encoder(precision: str, recompute: str) -> tuple[torch.Tensor, int]:
    """Return all gradients of a step of LAVISH on a ViT, and the most memory that was allocated beyond the model's."""
    from lavish.checks.method import randomise
    from lavish.models.backbones.build import build_backbone

    torch.manual_seed(0)
    spec = {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4}
    holder: Any = torch.nn.Module()
    holder.encoder = randomise(TwoStreamEncoder(build_backbone("vit", spec, 64), recompute=recompute)).train()
    place(holder, torch.device("cuda"), precision)
    generator = torch.Generator().manual_seed(1)
    images = {stream: torch.randn(16, 3, 64, 64, generator=generator).cuda() for stream in holder.encoder.streams}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with autocast(torch.device("cuda"), precision):
        features = holder.encoder(images)
    torch.stack([x.float().square().mean() for one in features.values() for x in one.stages]).sum().backward()
    gradients = torch.cat([p.grad.flatten() for p in holder.parameters() if p.grad is not None])
    return gradients, torch.cuda.max_memory_allocated() - before


def test_recomputing_takes_less_memory_for_the_same_gradients():
    (kept, none), (first, adapters), (second, blocks) = (
        step_of_an_encoder("float32", recompute) for recompute in ("none", "adapters", "blocks")
    )
    assert none > adapters > blocks
    for recomputed in (first, second):
        torch.testing.assert_close(recomputed, kept, rtol=1e-4, atol=1e-6)


def test_bfloat16_agrees_with_float32():
    (half, _), (exact, _) = (step_of_an_encoder(precision, "none") for precision in ("bf16", "float32"))
    assert torch.cosine_similarity(half, exact, dim=0) > 0.98


def test_frames_and_the_weights_that_read_them_are_laid_out_alike():
    from lavish.models.backbones.build import build_backbone

    holder: Any = torch.nn.Module()
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    holder.encoder = TwoStreamEncoder(build_backbone("vit", spec, 32), method="none")
    place(holder, torch.device("cuda"), "bf16")
    weight = holder.encoder.backbone.model.patch_embed.proj.weight
    assert weight.dtype == torch.bfloat16 and weight.is_contiguous(memory_format=torch.channels_last)


def test_a_batch_that_does_not_fit_is_one_message(tmp_path):
    for split in ("train", "val"):
        write_store(tmp_path / split, clips=4096)
    config = parse(RunConfig, run_values(training={"epochs": 1, "batch_size": 4096}), "test")
    provide_weights(config.backbone, tmp_path / "vit.safetensors")
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**27) / total)
    try:
        with pytest.raises(LavishError, match=r"a batch of 4096 does not fit on the GPU.*`training\.batch_size: 2048`"):
            train(RunInputs(config, 0, tmp_path, tmp_path / "vit.safetensors", device="cuda"), tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_jobs_are_forked_from_a_server_that_does_not_touch_the_gpu(tmp_path, monkeypatch):
    script = tmp_path / "bin/lavish"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom lavish.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv(fork_client.VARIABLE, "")
    for which in fork_client.THREADS:
        monkeypatch.setenv(f"{which}_THREADS", "1")
    for split in ("train", "val"):
        write_store(tmp_path / split)
    config = parse(RunConfig, run_values(), "test")
    weights = tmp_path / "vit.safetensors"
    provide_weights(config.backbone, weights)
    server = fork_client.start()
    assert server is not None
    files = ["--data", tmp_path, "--weights", weights, "--out", tmp_path / "run"]
    job = ["train", "--config", config.model_dump_json(), "--seed", "0", "--device", "cuda", *files]
    # Status 77 if the job were not forked.
    code = "import sys; from lavish.runtime import cpu_dispatch, fork_client; cpu_dispatch.limit(); "
    code += "status = fork_client.hand_over(sys.argv); sys.exit(77 if status is None else status)"
    for number in range(2):  # the second one after a process that has used the GPU
        command = [sys.executable, "-c", code, *map(str, job)]
        # Not what readline, which pytest imports, has added to the environment behind Python's back.
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "run/record.json").read_text())["gpu"]
        (tmp_path / "run").rename(tmp_path / f"run{number}")
    opened = [str(file.readlink()) for file in Path(f"/proc/{server.pid}/fd").iterdir()]
    assert not any("nvidia" in name for name in opened)
    assert "\nThreads:\t1\n" in Path(f"/proc/{server.pid}/status").read_text()
    server.stdin.close()
    server.wait(timeout=60)
