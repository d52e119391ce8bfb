"""STG-CMA against its equations written out, its published parameter counts, and windowed backbones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods.base import ForwardContext
from lavish.methods.stg_cma import StgCma
from lavish.models.backbones.build import build_backbone
from tests.unit.methods.sites import method_context

SEGMENTS = 3
STREAMS = ("visual", "audio")
VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
SWIN = {"img_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}


def moved(method: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return method.eval()


def sizes(widths: list[int], depths: list[int], heads: list[int], windowed: bool) -> SimpleNamespace:
    """Return what the method reads of a backbone: one stage or several."""
    stage = [index for index, depth in enumerate(depths) for _ in range(depth)]
    return SimpleNamespace(
        widths=tuple(widths[index] for index in stage),
        num_blocks=sum(depths),
        scale_depths=tuple(depths),
        stage_ends=tuple(sum(depths[: index + 1]) - 1 for index in range(len(depths))),
        windowed=windowed,
        num_heads=lambda block: heads[stage[block]],
        norms=lambda: [nn.LayerNorm(widths[-1])],
    )


@pytest.mark.parametrize(
    ("widths", "depths", "heads", "reduction", "published"),
    [
        ([1024], [24], [16], 16, 20_117_581),
        ([1024], [24], [16], 32, 10_675_789),
        ([768], [12], [12], 8, 11_497_781),
        ([768], [12], [12], 32, 3_529_973),
        ([192, 384, 768, 1536], [2, 2, 18, 2], [6, 12, 24, 48], "2 4 8 16", 19_026_857),
        ([192, 384, 768, 1536], [2, 2, 18, 2], [6, 12, 24, 48], "8 8 16 16", 11_740_697),
        ([128, 256, 512, 1024], [2, 2, 18, 2], [4, 8, 16, 32], "4 4 8 8", 10_068_597),
        ([128, 256, 512, 1024], [2, 2, 18, 2], [4, 8, 16, 32], "8 8 16 16", 5_599_957),
    ],
)
def test_published_counts(widths, depths, heads, reduction, published):
    backbone = sizes(widths, depths, heads, windowed=len(depths) > 1)
    with torch.device("meta"):
        method = StgCma(method_context(backbone, segments=10), reduction=reduction)
    own = sum(p.numel() for p in [*method.parameters(), *method.tuned_parameters("visual", backbone)])
    head = 2 * widths[-1] * 512 + 512 + 512 * 29 + 29
    assert own + head == published


def attention(block: nn.Module, tokens: Tensor) -> Tensor:
    """Scaled dot-product attention of a timm block behind its norm, written out."""
    heads, width = block.attn.num_heads, tokens.shape[2]
    qkv = block.attn.qkv(block.norm1(tokens)).unflatten(2, (3, heads, width // heads))
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    weights = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).softmax(dim=-1)
    return block.attn.proj((weights @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_block_equals_its_equations():
    torch.manual_seed(0)
    encoder = TwoStreamEncoder(
        build_backbone("vit", VIT, 16), method="stg_cma", options={"reduction": 4}, segments=SEGMENTS
    )
    method, frozen = moved(encoder.adapters), encoder.backbone.model.blocks[0]
    images = {stream: torch.randn(2 * SEGMENTS, 3, 16, 16) for stream in STREAMS}
    found = encoder.eval()(images, SEGMENTS)

    def bottleneck(kind: str, stream: str) -> tuple:
        down = method.down[f"0_{kind}_{stream}"][0]
        return (lambda z: functional.gelu(z @ down.weight.T + down.bias)), method.up[f"0_{kind}_{stream}"]

    tokens = {}
    for stream in images:
        x = encoder.backbone.embed(images[stream])
        x = torch.stack([row + method.positions[stream][segment % SEGMENTS] for segment, row in enumerate(x)])
        inner, up = bottleneck("temporal", stream)
        mixed = x.clone()
        for clip in range(2):
            for place in range(x.shape[1]):
                rows = slice(clip * SEGMENTS, (clip + 1) * SEGMENTS)
                mixed[rows, place] += up(inner(attention(frozen, x[rows, place].unsqueeze(0))))[0]
        tokens[stream] = mixed
    for kind in ("attention", "ffn"):
        branches, inner = {}, {}
        for stream, x in tokens.items():
            branches[stream] = attention(frozen, x) if kind == "attention" else frozen.mlp(frozen.norm2(x))
            inner[stream] = bottleneck(kind, stream)[0](branches[stream])
        for stream, other in (("visual", "audio"), ("audio", "visual")):
            weights = (inner[stream] @ inner[other].transpose(1, 2)).softmax(dim=-1)
            read = inner[stream] + method.gates[f"0_{stream}"] * (weights @ inner[other])
            tokens[stream] = tokens[stream] + branches[stream] + bottleneck(kind, stream)[1](read)
    for stream, x in tokens.items():
        torch.testing.assert_close(found[stream].tokens, encoder.backbone.final(x), atol=1e-5, rtol=1e-4)


def test_gradients_of_the_first_step():
    torch.manual_seed(0)
    encoder = TwoStreamEncoder(
        build_backbone("vit", VIT, 16), method="stg_cma", options={"reduction": 4}, segments=SEGMENTS
    )
    features = encoder({stream: torch.randn(SEGMENTS, 3, 16, 16) for stream in STREAMS}, SEGMENTS)
    sum((f.tokens * torch.randn(f.tokens.shape)).sum() for f in features.values()).backward()
    learning = {name.split(".")[0] for name, p in encoder.adapters.named_parameters() if p.grad.any()}
    assert learning == {"up", "positions"}


@torch.no_grad()
def test_cross_modal_attention_is_windowed_after_attention_and_global_after_ffn():
    torch.manual_seed(0)
    backbone = build_backbone("swinv2", SWIN, 32)
    method = moved(StgCma(method_context(backbone, SEGMENTS), reduction=4))
    forward = ForwardContext(dict.fromkeys(STREAMS, backbone), SEGMENTS)
    branches = {stream: torch.randn(SEGMENTS, 64, 16) for stream in STREAMS}
    changed = {**branches, "audio": branches["audio"].clone()}
    changed["audio"][:, 0] += 1.0  # the top left patch of 8 x 8, in windows of 4 x 4
    for position, reached in (("attention", 16), ("ffn", 64)):
        first, second = (
            method.residual_update(dict.fromkeys(STREAMS, 0), position, b, b, forward) for b in (branches, changed)
        )
        different = (first["visual"] - second["visual"]).abs().amax(dim=(0, 2)) > 1e-7
        assert different.sum() == reached


@torch.no_grad()
def test_temporal_attention_on_swin_is_in_unshifted_blocks_with_distance_bias():
    backbone = build_backbone("swinv2", SWIN, 32)
    for norm in backbone.norms():
        nn.init.ones_(norm.weight)  # zero at first, which would hide what happens before them
    method = moved(StgCma(method_context(backbone, SEGMENTS), reduction=4))
    assert {name.split("_")[0] for name in method.up if "temporal" in name} == {"0", "2"}
    assert not method.positions and not list(method.tuned_parameters("visual", backbone))
    tokens = {"visual": torch.randn(SEGMENTS, 64, 16)}
    forward = ForwardContext(dict.fromkeys(STREAMS, backbone), SEGMENTS)
    assert method.before_block({"visual": 1}, tokens, forward) == tokens
    biased = method.before_block({"visual": 0}, tokens, forward)["visual"]
    method.tables["0_visual"][SEGMENTS] += 5.0  # looks one segment back
    assert not torch.allclose(method.before_block({"visual": 0}, tokens, forward)["visual"][1:], biased[1:], atol=1e-4)
    torch.testing.assert_close(method.before_block({"visual": 0}, tokens, forward)["visual"][0], biased[0])


@torch.no_grad()
def test_fewer_segments_than_it_was_built_for():
    for name, spec, size in (("vit", VIT, 16), ("swinv2", SWIN, 32)):
        encoder = TwoStreamEncoder(
            build_backbone(name, spec, size), method="stg_cma", options={"reduction": 4}, segments=SEGMENTS
        )
        moved(encoder.adapters)
        images = {stream: torch.randn(2, 3, size, size) for stream in STREAMS}
        assert encoder.eval()(images, 2)["visual"].tokens.isfinite().all()


def test_drop_probability_rises_with_the_block():
    method = StgCma(
        method_context(build_backbone("vit", {**VIT, "depth": 3}, 16), SEGMENTS), reduction=4, drop_path=0.4
    )
    assert [drop.drop_prob for name, drop in method.drops.items() if "audio" in name] == [0.0, 0.2, 0.4]


@pytest.mark.parametrize("reduction", ["2 4", "2 4 8 x", "", 64])
def test_invalid_reductions(reduction):
    with pytest.raises(LavishError, match=r"adapter\.options\.reduction"):
        StgCma(method_context(build_backbone("vit", {**VIT, "depth": 4}, 16), SEGMENTS), reduction=reduction)
