"""Compiled modules compute the same; here without a compiler for GPUs, by torch's tracing alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from lavish.checks.method import SEGMENTS, SMALL_OPTIONS, Subject, images, randomise
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder


def trained(model: TwoStreamEncoder) -> dict[str, Tensor]:
    """Return the features, gradients and buffers of a step."""
    torch.manual_seed(7)
    features = model(images(model), SEGMENTS)
    parts = [x.square().sum() for one in features.values() for x in (one.pooled, *one.stages)]
    (torch.stack(parts).sum() + (0 if model.auxiliary_loss is None else model.auxiliary_loss)).backward()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**{stream: one.pooled for stream, one in features.items()}, **gradients, **dict(model.named_buffers())}


@pytest.mark.parametrize("recompute", ["none", "adapters"])
@pytest.mark.parametrize("method", ["lavish", "dg_sct", "av_moe", "lora"])
def test_compiled_modules_compute_the_same(method: str, recompute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    subject = Subject(method, "vit", SMALL_OPTIONS.get(method, {}))
    plain, compiled = (
        randomise(subject.encoder(recompute=recompute, compiled=compiled)).train() for compiled in (False, True)
    )
    assert list(compiled.state_dict()) == list(plain.state_dict())
    expected, found = trained(plain), trained(compiled)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_without_a_compiler_it_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    with pytest.raises(LavishError, match=r"training.compile is true, but Triton.* set it to false"):
        Subject("lavish", "vit", {}).encoder(compiled=True)
