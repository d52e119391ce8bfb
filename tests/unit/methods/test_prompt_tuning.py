"""Prompt tuning: the sequence with prompts on ViT and Swin V2."""

from __future__ import annotations

import pytest
import torch

from lavish.checks.method import small_backbone as build
from lavish.learner.encoder import TwoStreamEncoder


def encoder(name: str, **arguments) -> TwoStreamEncoder:
    torch.manual_seed(0)
    options = {"length": 3, "depth": arguments.pop("depth", "deep")}
    return TwoStreamEncoder(build(name), method="prompt_tuning", options=options, streams=("visual",), **arguments)


def test_initialisation():
    prompts = encoder("vit").adapters.prompts["0_visual"]
    bound = (6 / (3 * 8 * 8 + 16)) ** 0.5
    assert prompts.shape == (3, 16)
    assert 0.8 * bound < prompts.abs().max() <= bound


@torch.no_grad()
@pytest.mark.parametrize("depth", ["deep", "shallow"])
def test_sequence_of_a_vit(depth):
    model = encoder("vit", depth=depth)
    blocks, images = model.backbone.model.blocks, torch.randn(2, 3, 32, 32)
    x = model.backbone.embed(images)
    classes, rest = x[:, :1], x[:, 1:]
    prompts = model.adapters.prompts
    added = prompts["0_visual"].repeat(2, 1, 1)
    for index, block in enumerate(blocks):
        if depth == "deep":
            added = prompts[f"{index}_visual"].repeat(2, 1, 1)
        classes, added, rest = block(torch.cat([classes, added, rest], dim=1)).split([1, 3, 16], dim=1)
    expected = model.backbone.model.norm(torch.cat([classes, rest], dim=1))
    features = model({"visual": images})["visual"]
    torch.testing.assert_close(features.tokens, expected, atol=1e-5, rtol=1e-4)
    assert len(prompts) == (3 if depth == "deep" else 1)


@pytest.mark.parametrize("depth", ["deep", "shallow"])
def test_windows_of_swin_include_prompts_in_every_stage(depth):
    model = encoder("swinv2", depth=depth)
    images = torch.randn(2, 3, 32, 32)
    features = model({"visual": images})["visual"]
    assert features.tokens.shape == (2, 16, 32)
    assert [tuple(m.shape) for m in features.maps()] == [(2, 16, 8, 8), (2, 32, 4, 4)]
    assert {name: tuple(p.shape) for name, p in model.adapters.prompts.items()} == (
        {f"{block}_visual": (3, 16 if block < 2 else 32) for block in range(4)}
        if depth == "deep"
        else {"0_visual": (3, 16)}
    )
    features.tokens.square().sum().backward()
    assert all(p.grad.any() for p in model.adapters.parameters())


@pytest.mark.parametrize(("depth", "prompts"), [("deep", [1, 2]), ("shallow", [1])])
def test_only_chosen_blocks_have_prompts(depth, prompts, monkeypatch):
    model = encoder("swinv2", depth=depth, layers=[1, 2])
    assert list(model.adapters.prompts) == [f"{block}_visual" for block in prompts]
    lengths: list[int] = []
    whole = model.backbone.attention
    monkeypatch.setattr(model.backbone, "attention", lambda i, x, grid: lengths.append(x.shape[1]) or whole(i, x))
    model({"visual": torch.randn(1, 3, 32, 32)})
    assert lengths == [64, 64 + 3, 16 + 3, 16]
