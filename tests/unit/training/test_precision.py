"""Mixed precision on a CPU, and what TF32 is allowed to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lavish.checks.method import SEGMENTS, SMALL_OPTIONS, Subject, images, randomise
from lavish.config.schema import RunConfig, TrainingConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.training import device
from lavish.training.jobs import RunInputs, _device
from tests.stores import run_values

CPU = torch.device("cpu")


def encoder(method: str, backbone: str) -> TwoStreamEncoder:
    return randomise(Subject(method, backbone, SMALL_OPTIONS.get(method, {})).encoder()).train()


def placed(model: TwoStreamEncoder, precision: str) -> TwoStreamEncoder:
    holder: Any = nn.Module()
    holder.encoder = model
    device.place(holder, CPU, precision)
    return model


def trained(model: TwoStreamEncoder, precision: str) -> tuple[Tensor, Tensor]:
    """Return the loss and all gradients of a step."""
    with device.autocast(CPU, precision):
        features = model(images(model), SEGMENTS)
    loss = torch.stack([x.float().square().mean() for one in features.values() for x in one.stages]).sum()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("backbone", ["vit", "swinv2"])
@pytest.mark.parametrize("method", ["lavish", "bitfit", "lora"])
def test_weights_that_are_cast_once_give_the_numbers_of_autocast(method: str, backbone: str) -> None:
    once, each_step = (
        trained(placed(encoder(method, backbone), "bf16"), "bf16"),
        trained(encoder(method, backbone), "bf16"),
    )
    assert all(torch.equal(*pair) for pair in zip(once, each_step, strict=True))


@pytest.mark.parametrize("backbone", ["vit", "swinv2"])
@pytest.mark.parametrize("method", ["lavish", "lora"])
def test_bfloat16_agrees_with_float32(method: str, backbone: str) -> None:
    (loss, gradient), (expected, exact) = (
        trained(placed(encoder(method, backbone), precision), precision) for precision in ("bf16", "float32")
    )
    # bfloat16 has 8 bits: 0.4 % in each of some ten roundings on the way.
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.98
    assert abs(gradient.norm() / exact.norm() - 1) < 0.1


@pytest.mark.parametrize("backbone", ["vit", "swinv2"])
def test_what_is_trained_and_norms_stay_in_float32(backbone: str) -> None:
    model = placed(encoder("lavish", backbone), "bf16")
    frozen = model.backbone
    products = {
        id(layer.weight)
        for name, layer in frozen.model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and "cpb_mlp" not in name
    }
    types = {id(p) in products: set() for p in frozen.parameters()}
    for parameter in frozen.parameters():
        if parameter.ndim > 1:
            types[id(parameter) in products].add(parameter.dtype)
    assert types == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {p.dtype for norm in frozen.norms() for p in norm.parameters()} == {torch.float32}
    assert {t.dtype for t in model.adapters.state_dict().values()} == {torch.float32, torch.int64}
    assert {p.dtype for p in placed(encoder("full_finetuning", backbone), "bf16").parameters()} == {torch.float32}
    assert {p.dtype for p in placed(encoder("lavish", backbone), "float32").parameters()} == {torch.float32}


@pytest.mark.parametrize(("tf32", "expected"), [(False, "ieee"), (True, "tf32")])
def test_tf32_is_off_unless_asked_for(tf32: bool, expected: str) -> None:
    backends: Any = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    config = parse(RunConfig, run_values(training={"tf32": tf32} if tf32 else {}), "test")
    for part in parts:
        part.fp32_precision = "ieee" if tf32 else "tf32"
    _device(RunInputs(config, 0, SimpleNamespace(), SimpleNamespace()))
    assert [part.fp32_precision for part in parts] == [expected] * 3
    device.choose("cpu", 1)  # jobs without a run, and the tests after this one
    assert [part.fp32_precision for part in parts] == ["ieee"] * 3


@pytest.mark.parametrize("fast", [True, False])
def test_a_cpu_without_bfloat16_says_that_it_is_slow(fast: bool, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast, raising=False)
    for precision in ("float32", "bf16"):
        device.check_device(CPU, TrainingConfig(precision=precision))
    said = capsys.readouterr().err
    assert ("training.cpu_dispatch is 'avx2': set it to 'native'" in said) != fast
    with pytest.raises(LavishError, match=r"training\.precision: fp16 is for GPUs"):
        device.check_device(CPU, TrainingConfig(precision="fp16"))
    device.check_device(torch.device("cuda"), TrainingConfig(precision="fp16", compile=True))
