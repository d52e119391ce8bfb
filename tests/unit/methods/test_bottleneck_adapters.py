"""Sequential, parallel and Compacter adapters: equations, initialisation, gradients of the first step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from lavish.checks.method import small_backbone as build
from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods.base import AdapterSite
from lavish.methods.parallel import ParallelAdapter
from lavish.methods.sequential import SequentialAdapter
from tests.unit.methods.sites import adapter_site

WIDTH = 768


def site(width: int = WIDTH) -> AdapterSite:
    return adapter_site(width=width, other_tokens=5, position="ffn", cross_modal=False)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sequential_equals_its_equation_and_is_initialised_near_zero():
    torch.manual_seed(0)
    adapter = SequentialAdapter(site())
    assert count(adapter) == 2 * 768 * 48 + 48 + 768
    for layer in (adapter.down, adapter.up):
        assert layer.weight.abs().max() <= 0.02 and not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(0.0088, rel=0.02)  # 0.01, less what is cut off
    nn.init.normal_(adapter.down.bias), nn.init.normal_(adapter.up.bias)
    tokens = torch.randn(2, 5, WIDTH)
    down = tokens @ adapter.down.weight.T + adapter.down.bias
    expected = (down * torch.sigmoid(down)) @ adapter.up.weight.T + adapter.up.bias
    torch.testing.assert_close(adapter(tokens, tokens), expected)


@pytest.mark.parametrize(("position", "adapters"), [("default", 2), ("ffn", 1)])
def test_sequential_reads_the_output_of_sublayers(position, adapters):
    backbone = build("vit")
    options = {"reduction": 4, "activation": "relu", "init_std": 0.02}
    model = TwoStreamEncoder(backbone, method="sequential", options=options, position=position, streams=("visual",))
    assert count(model.adapters) == 3 * adapters * (2 * 16 * 4 + 4 + 16)
    images = torch.randn(2, 3, 32, 32)
    x = backbone.embed(images)
    for block in range(3):
        for here in ("attention", "ffn"):
            z = getattr(backbone, here)(block, x)
            x = x + z
            if here == "ffn" or position == "default":
                adapter = model.adapters.get_submodule(f"{block}_{here}_visual")
                x = x + functional.relu(adapter.down(z)) @ adapter.up.weight.T
    torch.testing.assert_close(model({"visual": images})["visual"].tokens, backbone.final(x))


def test_parallel_equals_its_equation():
    torch.manual_seed(0)
    adapter = ParallelAdapter(site())
    assert count(adapter) == 2 * 768 * 384 + 384 + 768
    tokens = torch.randn(2, 5, WIDTH)
    assert not adapter(tokens, tokens).any()
    assert adapter.down.weight.abs().max() <= WIDTH**-0.5
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    hidden = (tokens @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    expected = 4 * (hidden @ adapter.up.weight.T + adapter.up.bias)
    torch.testing.assert_close(adapter(tokens, tokens), expected, rtol=1e-4, atol=1e-2)


def test_parallel_with_the_settings_of_adaptformer():
    torch.manual_seed(0)
    adapter = ParallelAdapter(site(), reduction=12, scale=0.1, dropout=0.1, norm_before=True)
    assert adapter.down.out_features == 64
    nn.init.normal_(adapter.up.weight)
    tokens = 100 + 50 * torch.randn(2, 5, WIDTH)
    normed = functional.layer_norm(tokens, (WIDTH,))
    expected = 0.1 * functional.relu(normed @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T
    assert not torch.allclose(adapter(tokens, tokens), expected, atol=1e-3)  # some channels are dropped
    torch.testing.assert_close(adapter.eval()(tokens, tokens), expected, atol=1e-4, rtol=1e-4)


def test_parallel_gradients_of_the_first_step():
    adapter = ParallelAdapter(site(16))
    tokens = torch.randn(2, 5, 16)
    adapter(tokens, tokens).sum().backward()
    assert {name for name, p in adapter.named_parameters() if p.grad.any()} == {"up.weight", "up.bias"}


@pytest.mark.parametrize("kind", [SequentialAdapter, ParallelAdapter])
def test_reduction_larger_than_the_width_is_an_error(kind):
    with pytest.raises(LavishError, match="reduction: 32 does not fit a width of 16; choose 1 to 16"):
        kind(site(16), reduction=32)


def compacter(**options) -> TwoStreamEncoder:
    torch.manual_seed(0)
    return TwoStreamEncoder(build("vit"), method="compacter", options={"reduction": 4, **options}, streams=("audio",))


@pytest.mark.parametrize(("division", "rank", "position"), [(4, 1, "both"), (2, 3, "ffn")])
def test_compacter_equals_the_sum_of_kronecker_products(division, rank, position):
    model = compacter(division=division, rank=rank, position=position)
    method, backbone = model.adapters, model.backbone
    maps = {"both": 2, "ffn": 1}[position] * 3 * (2 * rank * (16 + 4) + 16 + 4)
    assert count(method) == maps + division**3
    for parameter in method.parameters():
        nn.init.normal_(parameter)
    images = torch.randn(2, 3, 32, 32)
    x = backbone.embed(images)
    rule = method.rules["audio"]
    for block in range(3):
        for here in ("attention", "ffn"):
            z = getattr(backbone, here)(block, x)
            x = x + z
            if here == "attention" and position == "ffn":
                continue
            for part in ("down", "up"):
                layer = method.get_submodule(f"{block}_{here}_audio").get_submodule(part)
                matrix = sum(torch.kron(a, s @ t) for a, s, t in zip(rule, layer.left, layer.right, strict=True))
                z = z @ matrix + layer.bias
                z = functional.gelu(z) if part == "down" else z
            x = x + z
    torch.testing.assert_close(model({"audio": images})["audio"].tokens, backbone.final(x), rtol=1e-4, atol=1e-4)


def test_compacter_initialisation():
    method = compacter(division=4).adapters
    assert method.rules["audio"].std().item() == pytest.approx(1e-4, rel=0.4)
    layer = method.get_submodule("0_ffn_audio").down
    # s (16 / 4, 1) and t (1, 4 / 4), each sqrt(2) sqrt(6 / (rows + columns)) at most
    assert layer.left.abs().max() <= (2 * 6 / 5) ** 0.5 and layer.right.abs().max() <= (2 * 6 / 2) ** 0.5
    assert layer.left.abs().max() > 1 and not layer.bias.any()


@pytest.mark.parametrize("options", [{"division": 3}, {"reduction": 8}, {"division": 0}, {"rank": 0}])
def test_compacter_division_must_divide_the_widths(options):
    with pytest.raises(LavishError, match=r"must divide the width 16 and the hidden width \d"):
        compacter(**options)
