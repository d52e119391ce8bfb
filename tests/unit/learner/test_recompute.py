"""Recomputing changes what is kept in memory, and no number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lavish.checks.method import BACKBONES, SEGMENTS, SMALL_OPTIONS, Subject, images, randomise
from lavish.config.sources import built_in
from lavish.learner import recompute
from lavish.learner.encoder import TwoStreamEncoder

KINDS = ("adapters", "blocks")
METHODS = built_in("methods")
RANDOM: dict[str, dict[str, Any]] = {
    "av_moe": {"unimodal_attention": "heads", "router_noise": 0.1},
    "parallel": {"dropout": 0.3},
    "stg_cma": {"drop_path": 0.5},
}
"""Options that make methods draw random numbers in training."""


def encoder(method: str, backbone: str, kind: str, **options: Any) -> TwoStreamEncoder:
    options = SMALL_OPTIONS.get(method, {}) | RANDOM.get(method, {}) | options
    return randomise(Subject(method, backbone, options).encoder(recompute=kind)).train()


def loss_of(model: TwoStreamEncoder) -> Tensor:
    features = model(images(model), SEGMENTS)
    parts = [x.square().sum() for one in features.values() for x in (one.pooled, *one.stages)]
    return torch.stack(parts).sum() + (0 if model.auxiliary_loss is None else model.auxiliary_loss)


def trained(model: TwoStreamEncoder) -> dict[str, Tensor]:
    """Return losses, gradients, parameters, buffers and the state of random numbers after two steps of training."""
    torch.manual_seed(7)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(loss_of(model))
        losses[-1].backward()
        optimizer.step()
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    after = {"losses": torch.stack(losses).detach(), "random state": torch.get_rng_state()}
    return {**model.state_dict(), **gradients, **after}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", ["vit", "swinv2", "vit+ast"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_the_same_numbers(method: str, backbone: str, kind: str) -> None:
    expected = trained(encoder(method, backbone, "none"))
    found = trained(encoder(method, backbone, kind))
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_batch_norms_count_a_step_once_and_are_otherwise_themselves() -> None:
    model = encoder("lavish", "vit", "adapters")
    norms = recompute.batch_norms(model)
    kept = [norm.running_mean for norm in norms]
    loss_of(model).backward()
    assert norms and [int(norm.num_batches_tracked) for norm in norms] == [1] * len(norms)
    assert all(norm.running_mean is mean and mean.any() for norm, mean in zip(norms, kept, strict=True))


def kept_bytes(model: TwoStreamEncoder) -> int:
    """Return the size of the storages that a forward pass keeps for the backward pass, parameters apart."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, so that no other storage takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("backbone", ["vit", "swinv2"])
@pytest.mark.parametrize("method", ["av_moe", "cola", "compacter", "dg_sct", "lavish", "parallel", "sequential"])
def test_adapters_keep_less_and_blocks_keep_still_less(method: str, backbone: str) -> None:
    none, adapters, blocks = (kept_bytes(encoder(method, backbone, kind)) for kind in ("none", *KINDS))
    assert none > adapters > blocks


@pytest.mark.parametrize("method", METHODS)
def test_no_method_keeps_more(method: str) -> None:
    none, adapters, blocks = (kept_bytes(encoder(method, "vit", kind)) for kind in ("none", *KINDS))
    assert none >= adapters and none > blocks


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_recomputes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = encoder("lavish", "vit", kind).eval()
    monkeypatch.setattr(recompute, "checkpoint", lambda *_, **__: pytest.fail("an evaluation is recomputed"))
    with torch.no_grad():
        model(images(model), SEGMENTS)
    with torch.inference_mode():
        model(images(model), SEGMENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_runs_each_part_of_the_backbone_as_often_as_it_says(kind: str) -> None:
    model = encoder("lavish", "vit", kind)
    counts = {"attention": 0, "adapter": 0}

    def count(name: str) -> Any:
        return lambda *_: counts.update({name: counts[name] + 1})

    model.backbone.model.blocks[0].attn.register_forward_pre_hook(count("attention"))
    model.adapters.get_submodule("0_ffn_visual").down.register_forward_pre_hook(count("adapter"))
    loss_of(model).backward()
    assert counts == {"attention": 2 if kind == "blocks" else 1, "adapter": 2}
    assert BACKBONES["vit"]["depth"] == 3  # not only the last block
