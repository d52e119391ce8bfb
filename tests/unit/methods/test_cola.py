"""CoLA against its equation written out, its published sizes and the gradients of the first step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods.base import ForwardContext
from lavish.methods.cola import Cola
from lavish.models.backbones.base import FrozenLayer
from lavish.models.backbones.build import build_backbone
from tests.unit.methods.sites import method_context

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
STREAMS = ("visual", "audio")


def moved(method: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return method


@pytest.mark.parametrize(("readers", "published"), [(STREAMS, 742_758), ((), 221_184)])
def test_published_parameters_of_a_vit_b_block(readers, published):
    shapes = {"qkv": (2304, 768), "proj": (768, 768), "fc1": (3072, 768), "fc2": (768, 3072)}
    with torch.device("meta"):
        backbone = SimpleNamespace(
            widths=(768,), num_blocks=1, scale_depths=(1,), linear=lambda block, name: (torch.empty(shapes[name]), None)
        )
        method = Cola(method_context(backbone, readers=readers))
    assert sum(p.numel() for p in method.parameters()) == len(STREAMS) * published


def expected(method: Cola, name: str, part: int, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return the update of one part of the visual stream's layer in block 0, row by row."""
    update = method.updates[f"0_{name}_visual"]
    hyper, r = update.hyper, update.rank
    h = hyper.norm_weight.shape[1]
    rows = []
    for row, own in zip(c, x, strict=True):
        z = functional.gelu(
            hyper.down.weight[part * h : (part + 1) * h] @ row + hyper.down.bias[part * h : part * h + h]
        )
        z = functional.layer_norm(z, (h,), hyper.norm_weight[part], hyper.norm_bias[part], 1e-6)
        phi = (z @ hyper.up_weight[part] + hyper.up_bias[part, 0]).reshape(r, r)
        phi = functional.layer_norm(phi, (r, r), hyper.matrix_weight[part], hyper.matrix_bias[part], 1e-6)
        a1, a2 = update.down[part].split(r)
        b1, b2 = update.up[part].split(r, dim=1)
        crossing = update.cross_scale[part, 0, 0] * b2 @ phi @ a2
        rows.append(own @ (4 / r * b1 @ a1 + crossing).T)
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize(("name", "spec", "size"), [("vit", VIT, 16), ("swinv2", SWIN, 32)])
@pytest.mark.parametrize("layer", ["qkv", "proj", "fc1", "fc2"])
def test_layer_equals_its_equation(name, spec, size, layer):
    torch.manual_seed(0)
    backbone = build_backbone(name, spec, size)
    method = moved(Cola(method_context(backbone), rank=3, alpha=4.0, reduction=4))
    weight, bias = backbone.linear(0, layer)
    inputs = {stream: torch.randn(2, 5, weight.shape[1]) for stream in STREAMS}
    forward = ForwardContext(
        dict.fromkeys(STREAMS, backbone), 1, tokens={stream: torch.randn(2, 5, 16) for stream in STREAMS}
    )
    operations = {s: FrozenLayer(layer, 0, lambda x: functional.linear(x, weight, bias), x) for s, x in inputs.items()}
    found = method.apply_layer(operations, forward)["visual"]
    source = inputs["audio"] if layer == "proj" else forward.tokens["audio"]
    c = source[:, 0] if name == "vit" else source.mean(dim=1)
    parts = [expected(method, layer, part, inputs["visual"], c) for part in range(3 if layer == "qkv" else 1)]
    reference = functional.linear(inputs["visual"], weight, bias) + torch.cat(parts, dim=2)
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_descriptor_is_taken_from_the_other_stream_at_the_same_layer():
    torch.manual_seed(0)
    backbone = build_backbone("vit", VIT, 16)
    encoder = TwoStreamEncoder(backbone, method="cola", options={"rank": 2, "reduction": 4}).eval()
    described = {}
    for name, update in moved(encoder.adapters).updates.items():
        update.register_forward_hook(lambda module, inputs, _, name=name: described.__setitem__(name, inputs[1]))
    images = {stream: torch.randn(2, 3, 16, 16) for stream in STREAMS}
    before = encoder.backbone.embed(images["audio"])
    encoder(images)
    torch.testing.assert_close(described["0_qkv_visual"], before[:, 0])
    assert torch.equal(described["0_fc1_visual"], described["0_fc2_visual"])
    assert not torch.allclose(described["0_fc1_visual"], before[:, 0], atol=1e-3)
    assert not torch.allclose(described["1_qkv_visual"], described["0_fc1_visual"], atol=1e-3)


def test_gradients_of_the_first_step():
    torch.manual_seed(0)
    encoder = TwoStreamEncoder(build_backbone("vit", VIT, 16), method="cola", options={"rank": 2, "reduction": 4})
    features = encoder({stream: torch.randn(2, 3, 16, 16) for stream in STREAMS})
    sum((f.tokens * torch.randn(f.tokens.shape)).sum() for f in features.values()).backward()
    learning = {name.split(".")[-1] for name, p in encoder.adapters.named_parameters() if p.grad.any()}
    assert learning == {"up"}
    for name, update in encoder.adapters.updates.items():
        assert update.up.grad[..., :2].any() and update.up.grad[..., 2:].any(), name


def test_initial_value_of_lambda():
    method = Cola(method_context(build_backbone("vit", VIT, 16)), rank=2, reduction=4, cross_scale=0.7)
    for update in method.updates.values():
        assert torch.equal(update.cross_scale.detach(), torch.full_like(update.cross_scale, 0.7))


@pytest.mark.parametrize("options", [{"rank": 0}, {"reduction": 32}])
def test_invalid_sizes(options):
    with pytest.raises(LavishError, match=rf"adapter\.options\.{next(iter(options))}"):
        Cola(method_context(build_backbone("vit", VIT, 16)), **options)
