"""What holds for every adapter on every backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lavish.adapters.base import adapter_class
from lavish.encoder import TwoStreamEncoder


def pictures(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(batch, 3, 32, 32, generator=generator) for stream in ("visual", "audio")}


def open_gates(encoder: TwoStreamEncoder) -> None:
    """Move every zero-initialised parameter away from zero, so that nothing is switched off."""
    for parameter in encoder.adapters.parameters():
        if not parameter.detach().any():
            nn.init.constant_(parameter, 0.3)


def outputs(encoder: TwoStreamEncoder) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {stream: features.tokens for stream, features in encoder.eval()(pictures()).items()}


def test_disabled_or_zero_gated_adapters_equal_the_frozen_backbone(backbone, method):
    frozen = outputs(TwoStreamEncoder(backbone, method="none"))
    adapted = TwoStreamEncoder(backbone, method=method)
    for stream, tokens in outputs(adapted).items():
        assert torch.equal(tokens, frozen[stream])
    open_gates(adapted)
    assert any(not torch.equal(tokens, frozen[stream]) for stream, tokens in outputs(adapted).items())


@pytest.mark.parametrize("arrangement", ["parallel", "sequential"])
@pytest.mark.parametrize("direction", ["both", "a2v", "v2a", "none"])
def test_only_declared_parameters_get_gradients(backbone, method, direction, arrangement):
    encoder = TwoStreamEncoder(backbone, method=method, direction=direction, arrangement=arrangement).train()
    open_gates(encoder)
    weights = {stream: torch.randn(2, backbone.feature_dim) for stream in encoder.streams}
    sum((f.pooled * weights[stream]).sum() for stream, f in encoder(pictures()).items()).backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == name.startswith("adapters."), name


@pytest.mark.parametrize(
    ("direction", "changes"),
    [("both", {"visual", "audio"}), ("a2v", {"visual"}), ("v2a", {"audio"}), ("none", set())],
)
def test_direction_says_what_crosses(backbone, method, direction, changes):
    encoder = TwoStreamEncoder(backbone, method=method, direction=direction).eval()
    open_gates(encoder)
    first = outputs(encoder)
    if not adapter_class(method).crosses:
        changes = set()
    for changed, other in (("visual", "audio"), ("audio", "visual")):
        with torch.no_grad():
            second = encoder({**pictures(), changed: torch.zeros(2, 3, 32, 32)})[other].tokens
        assert (not torch.allclose(second, first[other], atol=1e-6)) == (other in changes)


def test_training_leaves_the_backbone_as_it_was(backbone, method):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    encoder = TwoStreamEncoder(backbone, method=method).train()
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        sum(features.pooled.square().sum() for features in encoder(pictures()).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_single_stream_is_the_other_removed(backbone, method):
    encoder = TwoStreamEncoder(backbone, streams=("visual",), method=method).eval()
    open_gates(encoder)
    assert set(encoder({"visual": pictures()["visual"]})) == {"visual"}
    assert all(key.endswith("visual") for key in encoder.adapters)


def test_saved_and_loaded_is_the_same(backbone, method):
    torch.manual_seed(3)
    encoder = TwoStreamEncoder(backbone, method=method)
    open_gates(encoder)
    torch.manual_seed(4)
    other = TwoStreamEncoder(backbone, method=method)
    other.adapters.load_state_dict(encoder.adapters.state_dict())
    for stream, tokens in outputs(other).items():
        assert torch.equal(tokens, outputs(encoder)[stream])


def test_half_precision_stays_close(backbone, method):
    encoder = TwoStreamEncoder(backbone, method=method)
    open_gates(encoder)
    exact = outputs(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs(encoder)
    for stream, tokens in half.items():
        error = (tokens.float() - exact[stream]).norm() / exact[stream].norm()
        assert error < 0.1
