"""LoRA: its equation, the gradients of the first step, merged weights, options."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from lavish.checks.method import BACKBONES
from lavish.checks.method import small_backbone as build
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.learner.uninitialised import skip_initialisation
from lavish.models.backbones.vit import ViTBackbone

STREAMS = ("visual", "audio")


def encoder(backbone: str, **options) -> TwoStreamEncoder:
    torch.manual_seed(0)
    return TwoStreamEncoder(build(backbone), method="lora", options=options)


def moved(model: TwoStreamEncoder) -> TwoStreamEncoder:
    for parameter in model.adapters.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def images(model: TwoStreamEncoder) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {stream: torch.randn(2, model.backbone.in_channels, *model.backbone.image_size) for stream in STREAMS}


@torch.no_grad()
def with_weights_written_in(model: TwoStreamEncoder, name: str, stream: str, parts: dict[str, tuple[str, int]]):
    """Return the pooled features of a frozen backbone whose weights hold one stream's updates: the equation."""
    other = build(name)
    for block in range(other.num_blocks):
        for part, (layer, third) in parts.items():
            weight, _ = other.linear(block, layer)
            update = model.adapters.get_submodule(f"{block}_{part}_{stream}")
            rows = len(update.up.weight)
            change = torch.zeros_like(weight)
            # alpha / r = 4 / 2
            change[third * rows : (third + 1) * rows] = 4.0 / 2 * update.up.weight @ update.down.weight
            # Some layers are several maps side by side.
            maps = [x.weight for x in other._linears(block, layer)] if isinstance(other, ViTBackbone) else [weight]
            for own, difference in zip(maps, change.chunk(len(maps)), strict=True):
                own.add_(difference)
    return other(images(model)[stream])


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    "parts",
    [
        {"q": ("qkv", 0), "v": ("qkv", 2)},
        {"k": ("qkv", 1), "proj": ("proj", 0)},
        {"qkv": ("qkv", 0), "fc1": ("fc1", 0), "fc2": ("fc2", 0)},
    ],
    ids=" ".join,
)
def test_merged_and_unmerged_equal_the_equation(name, parts):
    model = moved(encoder(name, rank=2, alpha=4.0, layers=" ".join(parts))).eval()
    with torch.no_grad():
        before = {stream: x.pooled for stream, x in model(images(model)).items()}
        weights = {key: tensor.clone() for key, tensor in model.backbone.state_dict().items()}
        model.adapters.merge(model.backbones)
        merged = {stream: x.pooled for stream, x in model(images(model)).items()}
    for stream in STREAMS:
        expected = with_weights_written_in(model, name, stream, parts)
        torch.testing.assert_close(before[stream], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(merged[stream], expected, atol=1e-5, rtol=1e-4)
        assert not torch.equal(merged[stream], before[stream])  # by another way
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.backbone.state_dict().items())
    assert not any("merged" in key for key in model.state_dict())
    model.train()
    assert not any("merged" in key for key, _ in model.named_buffers())


@pytest.mark.parametrize("name", ["vit", "swinv2"])
def test_gradients_of_the_first_step(name):
    model = encoder(name)
    sum(x.tokens.square().sum() + x.pooled.sum() for x in model(images(model)).values()).backward()
    for key, parameter in model.adapters.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any() == key.endswith("up.weight"), key


def test_parameters_of_a_vit_b():
    with skip_initialisation(), torch.device("meta"):
        backbone = ViTBackbone(timm.create_model("vit_base_patch16_224", num_classes=0), "ViT-B/16")
        model = TwoStreamEncoder(backbone, method="lora", options={"rank": 16})
    assert sum(p.numel() for p in model.adapters.parameters()) == 2 * 12 * 49_152  # 4 r C a block and stream


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "q w"}, "there is no 'w'"),
        ({"layers": "q qkv"}, "updated twice"),
        ({"layers": "fc1 fc1"}, "updated twice"),
        ({"layers": " "}, "no layer is given"),
        ({"rank": 0}, "rank: 0"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(LavishError, match=message):
        encoder("vit", **options)


def test_only_chosen_blocks_are_updated():
    model = TwoStreamEncoder(build("vit"), method="lora", layers=[1])
    assert {name.split("_")[0] for name, _ in model.adapters.named_parameters()} == {"1"}
    assert (
        model.adapters.intercepted_layers("visual", 1) == {"qkv"}
        and not model.adapters.intercepted_layers("visual", 0)
        and not model.adapters.intercepted_layers("visual", None)
    )
