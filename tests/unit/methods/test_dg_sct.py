"""DG-SCT and what it shares with AVMoE: sizes on the published encoders, equations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.learner.uninitialised import skip_initialisation
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods._shared.temporal_gates import TemporalGates
from lavish.methods._shared.token_map import TokenResizing
from lavish.methods.dg_sct import Guide
from lavish.models.backbones.build import build_backbone
from lavish.models.interfaces import StreamFeatures
from tests.unit.methods.sites import adapter_site

# Widths and numbers of tokens of Swin-V2-L at 192 pixels and of HTS-AT, stage by stage, and how many blocks are paired;
# the adapters' sizes follow from the published code's layers by hand.
STAGES = [(192, 2304, 96, 4096, 2), (384, 576, 192, 1024, 2), (768, 144, 384, 256, 6), (1536, 36, 768, 64, 2)]
VISUAL = [9_618_484, 1_289_380, 2_798_932, 10_982_056]
AUDIO = [9_501_980, 825_140, 957_284, 3_649_028]
BOTTLENECK = {
    "reduction": 8, "groups": 2, "batch_norm": True, "norm_before": True, "norm_after": True, "activation": True,
    "gated": True,
}  # fmt: skip


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def adapter_size(width: int, tokens: int, other_width: int, other_tokens: int) -> int:
    with skip_initialisation():
        site = adapter_site("visual", width, tokens, other_width, other_tokens)
        guide = Guide(site, "convolution", 32, "uniform", alpha=0.3, beta=0.05)
        return parameters(guide, GatedBottleneck(width, **BOTTLENECK))


def test_adapters_have_the_sizes_of_the_published_layers():
    # The integers count a scalar that the published code declares and never uses; it is not built here.
    visual = [adapter_size(c, n, other_c, other_n) for c, n, other_c, other_n, _ in STAGES]
    audio = [adapter_size(c, n, other_c, other_n) for other_c, other_n, c, n, _ in STAGES]
    assert [size + 1 for size in visual] == VISUAL
    assert [size + 1 for size in audio] == AUDIO
    pairs = [pairs for *_, pairs in STAGES]
    everything = sum(2 * count * (v + a) for count, v, a in zip(pairs, visual, audio, strict=True))
    assert everything + 2 * 2 * sum(pairs) == 188_538_864  # two positions, two streams, one unused scalar each


def test_temporal_part_has_the_size_of_the_published_layers():
    with skip_initialisation():
        gates = TemporalGates(
            {"visual": 1536, "audio": 768}, frozenset({"visual", "audio"}), "features", width=256, gamma=0.1
        )
    assert gates.recurrences["visual"].reduce.weight.shape == (512, 1536)
    assert gates.recurrences["visual"].lstm.hidden_size == 256
    assert gates.recurrences["audio"].reduce.weight.shape == (128, 768)
    assert gates.recurrences["audio"].lstm.hidden_size == 128
    # Both decoder layers of the published code declare a self-attention that they never run; it is not built here.
    unused = 2 * 4 * (256 * 256 + 256)
    assert parameters(gates) + unused == 8_386_178


def test_guide_equals_its_equations():
    torch.manual_seed(0)
    width, batch, tokens, other_tokens = 8, 3, 5, 7
    site = adapter_site("visual", width, tokens, 6, other_tokens)
    guide = Guide(site, "convolution", 4, "uniform", alpha=0.3, beta=0.05)
    nn.init.constant_(guide.latents.gate, 0.7)
    x, y = torch.randn(batch, tokens, width), torch.randn(batch, other_tokens, 6)
    linear = {name: module for name, module in guide.named_modules() if isinstance(module, nn.Linear)}

    expected, expected_weights = [], []
    for own, other in zip(x, y, strict=True):
        convolved = linear["token_map.tokens"].weight @ other + linear["token_map.tokens"].bias[:, None]
        y1 = linear["token_map.channels"](convolved)
        m = guide.latents.latents
        m = m + (m @ y1.T).softmax(dim=-1) @ y1
        x1 = own + 0.7 * (own @ m.T).softmax(dim=-1) @ m
        a = y1.mean(dim=0)
        joined = functional.relu(linear["channel_other"](a)) * functional.relu(linear["channel_own"](x1))
        mc = torch.sigmoid(linear["channel_score.2"](functional.relu(linear["channel_score.0"](joined.mean(dim=0)))))
        u = functional.relu(linear["token_own"](x1 * (1 + mc))) * functional.relu(linear["token_other"](a))
        s = linear["token_score"](u)
        expected.append(x1 * (0.3 * mc + 0.05 * torch.sigmoid(s) + 1 - 0.3))
        expected_weights.append(torch.tanh(s).exp() / torch.tanh(s).exp().sum())
    found, weights = guide(x, y)
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(weights, torch.stack(expected_weights))


def test_bottleneck_equals_its_equations():
    torch.manual_seed(0)
    bottleneck = GatedBottleneck(8, **BOTTLENECK | {"reduction": 2})
    for parameter in bottleneck.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, 5, 8)
    down, up = torch.block_diag(*bottleneck.down.weight).T, torch.block_diag(*bottleneck.up.weight)  # (in, out)

    def batch_norm(z: Tensor, norm: nn.BatchNorm1d) -> Tensor:
        mean, variance = z.mean(dim=(0, 1)), z.var(dim=(0, 1), unbiased=False)
        return (z - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias

    z = functional.relu(batch_norm(bottleneck.norm_before(x) @ down, bottleneck.down_norm))
    z = bottleneck.norm_after(batch_norm(z @ up, bottleneck.up_norm))
    torch.testing.assert_close(bottleneck.train()(x), bottleneck.gate * z, rtol=1e-4, atol=1e-5)
    with pytest.raises(LavishError, match=r"reduction"):
        GatedBottleneck(4, **BOTTLENECK)


def test_resizing_keeps_prefix_tokens_and_resizes_patches():
    torch.manual_seed(0)
    resizing = TokenResizing(4, 3, (2, 5), (4, 3))
    y = torch.randn(2, 1 + 12, 3)
    mapped = resizing.channels(y)
    grid = mapped[:, 1:].reshape(2, 4, 3, 4).permute(0, 3, 1, 2)
    expected = functional.interpolate(grid, (2, 5), mode="bicubic").permute(0, 2, 3, 1).reshape(2, 10, 4)
    found = resizing(y)
    torch.testing.assert_close(found[:, 0], mapped[:, 0])
    torch.testing.assert_close(found[:, 1:], expected, rtol=1e-4, atol=1e-5)
    same = TokenResizing(4, 3, (4, 3), (4, 3))
    assert torch.equal(same(y), same.channels(y))


def features(width: int, rows: int) -> dict:
    return {
        stream: StreamFeatures(
            torch.randn(rows, width), torch.randn(rows, 4, width), (torch.randn(rows, 4, width),), ((2, 2),)
        )
        for stream in ("visual", "audio")
    }


def torch_layer(ours: nn.Module, width: int) -> nn.TransformerEncoderLayer:
    """Return torch's own post-norm layer with the weights of one of ours."""
    layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
    attention = ours.attention
    state = {
        "self_attn.in_proj_weight": torch.cat([attention.query.weight, attention.memory.weight]),
        "self_attn.in_proj_bias": torch.cat([attention.query.bias, attention.memory.bias]),
        "self_attn.out_proj.weight": attention.out.weight,
        "self_attn.out_proj.bias": attention.out.bias,
        "linear1.weight": ours.ffn[0].weight, "linear1.bias": ours.ffn[0].bias,
        "linear2.weight": ours.ffn[3].weight, "linear2.bias": ours.ffn[3].bias,
        **{f"{norm}.{part}": getattr(getattr(ours, norm), part) for norm in ("norm1", "norm2")
           for part in ("weight", "bias")},
    }  # fmt: skip
    layer.load_state_dict(state)
    return layer.eval()


def test_temporal_gates_equal_their_equations():
    torch.manual_seed(0)
    d, clips, segments = 8, 2, 3
    gates = TemporalGates(
        {"visual": 12, "audio": 12}, frozenset({"visual", "audio"}), "features", width=d, gamma=0.1
    ).eval()
    given = features(12, clips * segments)
    found = gates(given, segments)
    moments, keys, values = {}, {}, {}
    for stream in given:
        recurrence = gates.recurrences[stream]
        reduced = recurrence.reduce(given[stream].pooled.view(clips, segments, 12))
        moments[stream] = recurrence.lstm(reduced.relu() if stream == "visual" else reduced)[0]
        linear, *layers = gates.relations[stream]
        keys[stream] = linear(moments[stream])
        for layer in layers:
            keys[stream] = torch_layer(layer, d)(keys[stream])
        values[stream] = torch.sigmoid(gates.gates[stream](keys[stream]))
    for stream, other in (("visual", "audio"), ("audio", "visual")):
        query, layer = gates.queries[stream](moments[stream]), torch_layer(gates.decoders[stream], d)
        memory = torch.cat([keys[other], query], dim=1)
        attended = layer.norm1(query + layer.self_attn(query, memory, memory)[0])
        decoded = layer.norm2(attended + layer.linear2(layer.linear1(attended).relu()))
        expected = decoded * (1 + 0.1 * values[other])
        torch.testing.assert_close(found[stream].pooled, expected.reshape(clips * segments, d), rtol=1e-4, atol=1e-5)
        assert found[stream].tokens is given[stream].tokens


def test_gates_on_maps_scale_all_features_of_a_segment():
    torch.manual_seed(0)
    gates = TemporalGates({"visual": 12, "audio": 12}, frozenset({"visual"}), "maps", width=8, gamma=0.1).eval()
    assert not any("visual" in name for name, _ in gates.named_parameters())  # only the sound is asked
    given = features(12, 6)
    found = gates(given, 3)
    scale = found["visual"].pooled / given["visual"].pooled
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))
    assert ((scale > 1) & (scale < 1.1)).all()
    for part in (
        found["visual"].tokens / given["visual"].tokens,
        found["visual"].stages[0] / given["visual"].stages[0],
    ):
        torch.testing.assert_close(part, scale[:, None].expand_as(part), rtol=1e-4, atol=1e-4)
    assert found["audio"] is given["audio"]


def encoder(pool: str = "token", **options) -> TwoStreamEncoder:
    torch.manual_seed(0)
    spec = {
        "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": pool == "token",
        "global_pool": pool,
    }  # fmt: skip
    backbone = build_backbone("vit", spec, 32)
    for norm in backbone.norms():
        nn.init.normal_(norm.weight, 1.0, 0.1)
    return TwoStreamEncoder(backbone, method="dg_sct", options={"latents": 4, **options}, segments=2)


def images(rows: int = 4) -> dict[str, Tensor]:
    return {stream: torch.randn(rows, 3, 32, 32) for stream in ("visual", "audio")}


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_last_adapter_pools_the_features(pool):
    model = encoder(pool, temporal_gates="none").eval()
    seen = []
    model.adapters.get_submodule("1_ffn_audio_guide").register_forward_hook(lambda *call: seen.append(call[-1][1]))
    found = model(images(), 2)["audio"]
    assert seen[0].shape == (4, 17 if pool == "token" else 16, 1)
    expected = (seen[0] * found.tokens).sum(dim=1)
    torch.testing.assert_close(found.pooled, model.backbone.model.fc_norm(expected), rtol=1e-4, atol=1e-5)
    assert pool == "token" or not torch.allclose(found.pooled, expected)  # the norm behind pooling is applied


def test_without_an_adapter_in_the_last_block_the_backbone_pools():
    torch.manual_seed(0)
    backbone = encoder().backbone
    model = TwoStreamEncoder(
        backbone, method="dg_sct", options={"temporal_gates": "none"}, layers="first 1", segments=2
    ).eval()
    found = model(images(), 2)["audio"]
    assert torch.equal(found.pooled, backbone.pool(found.tokens))


def test_only_gates_have_gradients_in_the_first_step():
    model = encoder(temporal_gates="none").train()
    generator = torch.Generator().manual_seed(3)
    found = model(images(), 2)
    sum((f.tokens * torch.randn(f.tokens.shape, generator=generator)).sum() for f in found.values()).backward()
    moved = {name for name, p in model.adapters.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {
        name for name, _ in model.adapters.named_parameters() if name.endswith(".gate") and "guide" not in name
    }


def test_ungated_audio_adapter_changes_the_initial_output():
    model = encoder(gate="visual", temporal_gates="none")
    names = {name for name, _ in model.adapters.named_parameters() if name.endswith("_visual.gate")}
    assert len(names) == 4
    assert not any(name.endswith("_audio.gate") for name, _ in model.adapters.named_parameters())


def test_streams_with_different_grids():
    """A spectrogram need not have the frame's grid, whichever way the tokens are mapped."""
    for kind in ("convolution", "bicubic"):
        backbone = encoder().backbone
        model = TwoStreamEncoder(
            backbone,
            method="dg_sct",
            options={"map_tokens": kind, "temporal_width": 8},
            sizes={"visual": (32, 32), "audio": (16, 40)},
            segments=2,
        )
        found = model({"visual": torch.randn(2, 3, 32, 32), "audio": torch.randn(2, 3, 16, 40)}, 2)
        assert found["visual"].tokens.shape[1] == 17
        assert found["audio"].tokens.shape[1] == 11
        assert found["audio"].pooled.shape == (2, 8)


def test_temporal_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(LavishError, match=r"temporal_width"):
        encoder(temporal_width=6)
    with pytest.raises(LavishError, match=r"latents"):
        encoder(latents=0)
