"""Methods that train the backbone's own parameters, and SSF behind its layers."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
from torch import nn

from lavish.checks.method import BACKBONES
from lavish.checks.method import small_backbone as build
from lavish.learner.encoder import TwoStreamEncoder
from lavish.learner.uninitialised import skip_initialisation
from lavish.models.backbones.swin import SwinV2Backbone, WindowedBackbone
from lavish.models.backbones.vit import ViTBackbone

TUNED = ("bitfit", "norm_tuning", "full_finetuning")


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def of(method: str, name: str, **arguments) -> TwoStreamEncoder:
    return TwoStreamEncoder(build(name), method=method, **arguments)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_trained(name):
    parameters = dict(build(name).named_parameters())
    norms = {n for n in parameters if "norm" in n}
    assert {n.removeprefix("backbone.") for n in trained(of("norm_tuning", name))} == norms
    biases = {n for n in parameters if n.endswith("bias")}
    assert {n.removeprefix("backbone.") for n in trained(of("bitfit", name))} == biases
    assert {n.removeprefix("backbone.") for n in trained(of("full_finetuning", name))} == set(parameters)


@pytest.mark.parametrize("method", TUNED)
@pytest.mark.parametrize(
    ("name", "last", "inside"),
    [("vit", 3, ("norm", "blocks.2")), ("swinv2", 4, ("norm", "layers.1.blocks.1"))],
)
def test_parts_go_with_blocks(method, name, last, inside):
    whole, first = set(trained(of(method, name))), set(trained(of(method, name, layers="first 1")))
    ended = set(trained(of(method, name, layers="last 1")))
    rest = set(trained(of(method, name, layers=list(range(1, last - 1)))))
    assert first | rest | ended == whole and len(first) + len(rest) + len(ended) == len(whole)
    prefixes = tuple(f"backbone.model.{part}." for part in inside)
    assert ended and all(n.startswith(prefixes) for n in ended)
    assert ("backbone.model.patch_embed.proj.bias" in first) == (method != "norm_tuning")
    merging = {n for n in whole if "downsample" in n}
    assert merging == {n for n in rest if "downsample" in n}


@pytest.mark.parametrize(
    ("kind", "name", "method", "number"),
    [
        # 12 blocks of 11 C, the patch embedding's C and the last norm's C
        (ViTBackbone, "vit_base_patch16_224", "bitfit", 12 * 11 * 768 + 2 * 768),
        (ViTBackbone, "vit_base_patch16_224", "norm_tuning", 12 * 4 * 768 + 2 * 768),
        # ViT-B/16 has 86,567,656 parameters, 769,000 of them in its classifier of 1000 classes
        (ViTBackbone, "vit_base_patch16_224", "full_finetuning", 86_567_656 - 769_000),
        (ViTBackbone, "vit_base_patch16_224", "ssf", 2 * (12 * 22 * 768 + 4 * 768)),
        # Swin-V2-L: 4 C in blocks of four widths; norms of embedding and merging; the last
        (
            SwinV2Backbone,
            "swinv2_large_window12to16_192to256",
            "norm_tuning",
            4 * (2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536) + 2 * (192 + 384 + 768 + 1536 + 1536),
        ),
        (
            SwinV2Backbone,
            "swinv2_large_window12to16_192to256",
            "bitfit",
            10 * (2 * 192 + 2 * 384 + 18 * 768 + 2 * 1536) + 24 * 512 + 2 * 192 + 384 + 768 + 1536 + 1536,
        ),
    ],
)
def test_numbers_of_large_backbones(kind, name, method, number):
    with skip_initialisation(), torch.device("meta"):
        backbone = kind(timm.create_model(name, num_classes=0), name)
        backbone.freeze(stochastic_depth=False, tune_norms=False)
        model = TwoStreamEncoder(backbone, method=method)
    assert sum(p.numel() for p in trained(model).values()) == number


@pytest.mark.parametrize("name", ["vit", "swin", "swinv2", "htsat"])
def test_every_parameter_of_the_backbone_gets_a_gradient(name):
    model = of("full_finetuning", name)
    shape = (2, model.backbone.in_channels, *model.backbone.image_size)
    images = {stream: torch.randn(shape) for stream in ("visual", "audio")}
    generator = torch.Generator().manual_seed(0)
    loss = sum((x.tokens * torch.randn(x.tokens.shape, generator=generator)).sum() for x in model(images).values())
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in trained(model).values())


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_ssf_written_into_the_layers_is_the_same(name):
    """Scale and shift behind linear maps and norms can be folded into their own weights: SSF's equation."""
    torch.manual_seed(0)
    model = of("ssf", name, streams=("audio",)).eval()
    for parameter in model.adapters.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    other = build(name)
    modules = dict(other.model.named_modules())
    swin = isinstance(other, WindowedBackbone)
    outside = {"patch_embed": "patch_embed.norm" if swin else "patch_embed.proj", "norm": "norm"}
    folded = {f"None_{part}_audio": modules[path] for part, path in outside.items()}
    blocks = other.blocks if swin else other.model.blocks
    for index, block in enumerate(blocks):
        parts = {"norm1": block.norm1, "norm2": block.norm2, "proj": block.attn.proj, "fc2": block.mlp.fc2}
        if isinstance(other, ViTBackbone):  # some layers are several maps side by side
            parts |= {layer: tuple(other._linears(index, layer)) for layer in ("fc1", "qkv")}
        else:
            parts |= {"fc1": block.mlp.fc1, "qkv": block.attn.qkv}
        folded |= {f"{index}_{part}_audio": layer for part, layer in parts.items()}
    edited = {key.rpartition(".")[0] for key, _ in model.adapters.named_parameters()}
    assert edited == set(folded)
    for key, layer in folded.items():
        ssf = model.adapters.get_submodule(key)
        if isinstance(layer, nn.Identity):  # the norm is behind the pooling here
            ssf.scale.fill_(1), ssf.shift.fill_(0)
            continue
        maps = layer if isinstance(layer, tuple) else (layer,)
        scales, shifts = ssf.scale.chunk(len(maps)), ssf.shift.chunk(len(maps))
        for part, scale in zip(maps, scales, strict=True):
            part.weight.mul_(scale.view(-1, *[1] * (part.weight.dim() - 1)))
        biases = [part.bias for part in maps]
        if key.split("_")[1] == "qkv" and getattr(blocks[int(key[0])].attn, "q_bias", None) is not None:
            attention = blocks[int(key[0])].attn
            biases = [attention.q_bias, attention.k_bias, attention.v_bias]
            scales, shifts = ssf.scale.chunk(3), ssf.shift.chunk(3)
        for part, bias, scale, shift in zip(itertools.cycle(maps), biases, scales, shifts, strict=False):
            if bias is None:
                part.bias = nn.Parameter(shift.clone())
            else:
                bias.mul_(scale).add_(shift)
    images = torch.randn(2, other.in_channels, *other.image_size)
    torch.testing.assert_close(model({"audio": images})["audio"].tokens, other.encode(images), atol=1e-4, rtol=1e-3)


def test_ssf_goes_with_chosen_blocks():
    names = {name.split(".")[0] for name, _ in of("ssf", "vit", layers="last 1").adapters.named_parameters()}
    assert {name.rpartition("_")[0] for name in names} == {
        "None_norm", "2_norm1", "2_qkv", "2_proj", "2_norm2", "2_fc1", "2_fc2"
    }  # fmt: skip


def test_ssf_keeps_small_scales_in_half_precision():
    model = of("ssf", "vit")
    part = model.adapters.get_submodule("0_qkv_audio")
    with torch.no_grad():
        part.scale.fill_(1.001), part.shift.fill_(-1.0)
    features = torch.full((1, 1, 48), 1.0, dtype=torch.bfloat16)
    out = part(features)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), torch.full((1, 1, 48), 0.001), rtol=1e-2, atol=0)
