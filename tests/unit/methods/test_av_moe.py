"""AVMoE: sizes on the published encoders, the mixture's equations, options."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.learner.uninitialised import skip_initialisation
from lavish.methods._shared.attention import LatentAttention, MultiHeadAttention
from lavish.methods._shared.bottleneck import GatedBottleneck
from lavish.methods.av_moe import Expert, Mixture
from lavish.models.backbones.build import build_backbone
from tests.unit.methods.sites import adapter_site
from tests.unit.methods.test_dg_sct import BOTTLENECK, STAGES, parameters

SEGMENTS = 2


def mixture(
    width: int, tokens: int, other_width: int, other_tokens: int, unimodal: nn.Module | None = None, **bottleneck
) -> Mixture:
    """One cross-modal and one unimodal expert."""
    options = BOTTLENECK | bottleneck
    experts = [
        Expert(LatentAttention(width, 32), GatedBottleneck(width, **options), cross_modal=True),
        Expert(unimodal, GatedBottleneck(width, **options | {"activation": False}), cross_modal=False),
    ]
    return Mixture(adapter_site("visual", width, tokens, other_width, other_tokens), experts, 0.0)


def closed_formula(width: int, tokens: int, other_width: int, other_tokens: int, reduction: int, groups: int) -> int:
    """The closed formula of one mixture of two experts with batch norms and both layer norms."""
    hidden = width // reduction
    bottleneck = 2 * width * width // (reduction * groups) + 2 * hidden + 2 * width + 4 * width
    router = (2 * width + 1) * 128 + 129 * 32 + 33 * 2
    token_map = (other_tokens + 1) * tokens + (other_width + 1) * width
    return token_map + router + (bottleneck + 32 * width + 2) + (bottleneck + 1)


def test_mixtures_have_the_sizes_of_the_published_layers():
    total = 0
    with skip_initialisation():
        for stage in (0, 2):  # every second stage has none
            width, tokens, other_width, other_tokens, pairs = STAGES[stage]
            visual = (width, tokens, other_width, other_tokens)
            audio = (other_width, other_tokens, width, tokens)
            for sizes in (visual, audio):
                found = parameters(mixture(*sizes))
                assert found == closed_formula(*sizes, reduction=8, groups=2)
                total += 2 * pairs * found
    assert round(total / 1e6, 1) == 90.5


@pytest.mark.parametrize(("kind", "size"), [("heads", 4 * 16 * 16 + 4 * 16), ("latent", 32 * 16 + 1)])
def test_self_attention_has_the_size_of_the_published_layers(kind, size):
    attention = MultiHeadAttention(16, 4, 0.2) if kind == "heads" else LatentAttention(16, 32)
    assert parameters(mixture(16, 5, 16, 5, attention)) - parameters(mixture(16, 5, 16, 5)) == size


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("kind", ["none", "heads", "latent"])
def test_mixture_equals_its_equations(kind):
    torch.manual_seed(0)
    attention = {"none": None, "heads": MultiHeadAttention(16, 4, 0.2), "latent": LatentAttention(16, 3)}[kind]
    module = randomised(mixture(16, 5, 6, 7, attention)).eval()
    x, y = torch.randn(4, 5, 16), torch.randn(4, 7, 6)
    found, imbalance = module(x, y)
    cross, unimodal = module.experts
    y1 = module.token_map(y)
    weights = module.router(torch.cat([x.mean(dim=1), y1.mean(dim=1)], dim=1)).softmax(dim=1)

    def latent(own: Tensor, other: Tensor, through: LatentAttention) -> Tensor:
        m = through.latents
        m = m + (m @ other.transpose(1, 2)).softmax(dim=-1) @ other
        return own + through.gate * (own @ m.transpose(1, 2)).softmax(dim=-1) @ m

    inside = x
    if kind == "latent":
        inside = latent(x, x, attention)
    elif kind == "heads":  # torch's own, over the tokens of each picture
        reference = nn.MultiheadAttention(16, 4, batch_first=True)
        reference.in_proj_weight.data = torch.cat([attention.query.weight, attention.memory.weight]).detach()
        reference.in_proj_bias.data = torch.cat([attention.query.bias, attention.memory.bias]).detach()
        reference.out_proj = attention.out
        inside = reference(x, x, x)[0]
    updates = [cross.bottleneck(latent(x, y1, cross.attention)), unimodal.bottleneck(inside)]
    expected = weights[:, 0, None, None] * updates[0] + weights[:, 1, None, None] * updates[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mean = weights.mean(dim=0)
    torch.testing.assert_close(imbalance, (0.5 * (0.5 / mean).log()).sum(), rtol=1e-4, atol=1e-6)


def test_unimodal_experts_are_linear():
    torch.manual_seed(0)
    module = mixture(16, 5, 6, 7, batch_norm=False, norm_before=False, norm_after=False)
    nn.init.ones_(module.experts[1].bottleneck.gate)
    x, other = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    one, two, both = (module.experts[1](z, None) for z in (x, other, x + other))
    torch.testing.assert_close(both, one + two)
    nn.init.ones_(module.experts[0].bottleneck.gate)
    one, two, both = (module.experts[0].bottleneck(z) for z in (x, other, x + other))
    assert not torch.allclose(both, one + two)


def encoder(direction: str = "both", depth: int = 4, **options) -> TwoStreamEncoder:
    torch.manual_seed(0)
    spec = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": depth, "num_heads": 2}
    backbone = build_backbone("vit", spec, 32)
    options = {"latents": 4, "temporal_gates": "none", **options}
    return TwoStreamEncoder(backbone, method="av_moe", options=options, direction=direction, segments=SEGMENTS)


def images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(2 * SEGMENTS, 3, 32, 32, generator=generator) for stream in ("visual", "audio")}


@pytest.mark.parametrize(("skip", "blocks"), [(1, {0, 1, 2, 3}), (2, {0, 2}), (3, {0, 1, 3})])
def test_skipped_stages_have_no_adapters(skip, blocks):
    assert {int(name.split("_")[0]) for name, _ in encoder(skip=skip).adapters.named_parameters()} == blocks


@pytest.mark.parametrize(
    ("direction", "cross", "unimodal", "experts", "router", "token_map"),
    [
        ("both", 2, 1, 3, True, True),
        ("both", 1, 0, 1, False, True),
        ("both", 0, 1, 1, False, False),
        ("both", 0, 2, 2, True, True),
        ("none", 1, 2, 2, True, False),
        ("none", 1, 1, 1, False, False),
    ],
)
def test_only_what_is_used_is_built(direction, cross, unimodal, experts, router, token_map):
    model = encoder(direction, cross_experts=cross, unimodal_experts=unimodal).train()
    module = model.adapters.get_submodule("0_ffn_audio")
    assert len(module.experts) == experts
    assert (module.router is not None) == router
    assert (module.token_map is not None) == token_map
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    sum(f.tokens.square().sum() for f in model(images(), SEGMENTS).values()).backward()
    assert all(p.grad is not None for p in model.adapters.parameters())


def test_unimodal_stream_without_unimodal_experts_has_no_adapters():
    assert not list(encoder("none", unimodal_experts=0).adapters.parameters())


def test_zero_experts_are_an_error():
    with pytest.raises(LavishError, match=r"at least one expert"):
        encoder(cross_experts=0, unimodal_experts=0)
    with pytest.raises(LavishError, match=r"skip"):
        encoder(skip=0)


def test_routers_have_no_gradient_while_the_gates_are_zero():
    model = encoder(skip=1).train()
    generator = torch.Generator().manual_seed(3)
    found = model(images(), SEGMENTS)
    sum((f.tokens * torch.randn(f.tokens.shape, generator=generator)).sum() for f in found.values()).backward()
    moved = {name for name, p in model.adapters.named_parameters() if p.grad.any()}
    assert moved == {name for name, _ in model.adapters.named_parameters() if name.endswith("bottleneck.gate")}


def test_balancing_loss_in_training_only():
    plain = encoder().train()
    plain(images(), SEGMENTS)
    assert plain.auxiliary_loss is None
    model = encoder(balance=0.5).train()
    routers = [module.router for module in model.adapters.children() if isinstance(module, Mixture)]
    for router in routers:
        nn.init.zeros_(router[-1].weight)
        router[-1].bias.data = torch.tensor([0.0, 2.0])
    model(images(), SEGMENTS)
    each = (0.5 * (0.5 / torch.tensor([0.0, 2.0]).softmax(dim=0)).log()).sum()
    assert len(routers) == 2 * 2 * 2  # blocks, positions, streams
    torch.testing.assert_close(model.auxiliary_loss, 0.5 * len(routers) * each)
    model.eval()(images(), SEGMENTS)
    assert model.auxiliary_loss is None


def test_loss_is_finite_for_an_expert_with_weight_zero():
    module = mixture(16, 5, 6, 7)
    nn.init.zeros_(module.router[-1].weight)
    module.router[-1].bias.data = torch.tensor([0.0, 300.0])
    _, imbalance = module(torch.randn(2, 5, 16), torch.randn(2, 7, 6))
    torch.testing.assert_close(imbalance, torch.tensor(150.0 - torch.log(torch.tensor(2.0)).item()))
    imbalance.backward()
    assert module.router[-1].bias.grad.isfinite().all()


def test_router_noise_in_training_only():
    model = encoder(router_noise=0.5, norm_before=False, norm_after=True)
    for parameter in model.adapters.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval()
    first, second = (model(images(), SEGMENTS)["audio"].tokens for _ in range(2))
    assert torch.equal(first, second)
    for module in model.adapters.modules():
        if isinstance(module, Mixture):
            module.training = True
    first, second = (model(images(), SEGMENTS)["audio"].tokens for _ in range(2))
    assert not torch.equal(first, second)
