"""MBT's bottleneck tokens against the equations written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.backbones.build import build_backbone

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
SWIN = {"img_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}


def encoder_of(name: str = "vit", *, chosen="all", direction="both", options=None) -> TwoStreamEncoder:
    torch.manual_seed(0)
    backbone = build_backbone(name, VIT if name == "vit" else SWIN, 16 if name == "vit" else 32)
    for norm in backbone.norms():
        torch.nn.init.ones_(norm.weight)
    encoder = TwoStreamEncoder(backbone, method="mbt", direction=direction, layers=chosen, options=options)
    with torch.no_grad():
        encoder.adapters.tokens.mul_(50)  # as large as the others
    return encoder.eval()


def images(side: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(2, 3, side, side, generator=generator) for stream in ("visual", "audio")}


@torch.no_grad()
@pytest.mark.parametrize("direction", ["both", "a2v", "v2a", "none"])
def test_equations(direction):
    encoder = encoder_of(direction=direction, options={"bottlenecks": 3})
    model, b = encoder.backbone.model, encoder.adapters.tokens
    x = {stream: encoder.backbone.embed(p) for stream, p in images().items()}
    for block in model.blocks[:2]:
        x = {stream: block(tokens) for stream, tokens in x.items()}
    carried = dict.fromkeys(x, b.expand(2, 3, 16))
    for block in model.blocks[2:]:
        longer = {s: block(torch.cat([t[:, :1], carried[s], t[:, 1:]], dim=1)) for s, t in x.items()}
        x = {s: torch.cat([t[:, :1], t[:, 4:]], dim=1) for s, t in longer.items()}
        carried = {s: t[:, 1:4] for s, t in longer.items()}
        average = (carried["visual"] + carried["audio"]) / 2
        for stream, letter in (("visual", "v"), ("audio", "a")):
            if direction == "both" or direction.endswith(letter):
                carried[stream] = average
    found = encoder(images())
    for stream, tokens in x.items():
        torch.testing.assert_close(found[stream].tokens, model.norm(tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("depth", "fused"), [(12, [8, 9, 10, 11]), (4, [2, 3]), (2, [0, 1])])
def test_default_is_the_last_third_of_the_blocks(depth, fused):
    backbone = build_backbone("vit", {**VIT, "depth": depth}, 16)
    assert [step["visual"] for step in TwoStreamEncoder(backbone, method="mbt").adapters.steps] == fused


@torch.no_grad()
def test_excluded_blocks_have_no_bottleneck_tokens():
    every, some = encoder_of(options={"layers": 3}), encoder_of(chosen=[1, 3], options={"layers": 3})
    assert [len(method.adapters.steps) for method in (every, some)] == [3, 2]
    assert not torch.allclose(every(images())["visual"].tokens, some(images())["visual"].tokens, atol=1e-5)


@torch.no_grad()
def test_tokens_pass_patch_merging_on_swin():
    encoder = encoder_of("swinv2", options={"layers": 4})
    first, second = encoder(images(32)), encoder({**images(32), "audio": torch.zeros(2, 3, 32, 32)})
    assert first["visual"].tokens.shape == (2, 16, 32)
    assert not torch.allclose(first["visual"].tokens, second["visual"].tokens, atol=1e-5)


def test_option_to_train_the_backbone():
    encoder = encoder_of(options={"train_backbone": True})
    sum((f.tokens * torch.randn(f.tokens.shape)).sum() for f in encoder(images()).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.backbone.parameters())
    assert [name for name, p in encoder_of().named_parameters() if p.requires_grad] == ["adapters.tokens"]


@pytest.mark.parametrize(
    ("chosen", "options", "message"),
    [
        ("all", {"layers": 5}, "has 4 blocks"),
        ("all", {"layers": 0}, "has 4 blocks"),
        ("first 2", {}, r"fusion\.layers"),
        ("all", {"layers": 1}, "single block exchanges nothing"),
        ("all", {"bottlenecks": 0}, "bottlenecks"),
    ],
)
def test_invalid_options(chosen, options, message):
    with pytest.raises(LavishError, match=message):
        encoder_of(chosen=chosen, options=options)
