"""Our reading of MoLT against its equations written out, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods.molt import _overlap
from lavish.models.backbones.build import build_backbone

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def encoder_of(*, moved: bool = True, **options) -> TwoStreamEncoder:
    torch.manual_seed(0)
    encoder = TwoStreamEncoder(build_backbone("vit", VIT, 16), method="molt", options=options)
    with torch.no_grad():
        for parameter in encoder.adapters.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape) if moved else 0.0)
    return encoder.eval()


def images() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(2, 3, 16, 16, generator=generator) for stream in ("visual", "audio")}


def read(queries: Tensor, keys: Tensor) -> Tensor:
    """Return what `queries` (M, d) read of `keys` (N, d)."""
    return torch.stack([(keys @ query / len(query) ** 0.5).softmax(dim=0) @ keys for query in queries])


@torch.no_grad()
def test_equations():
    encoder = encoder_of(latents=3, layers=2)
    method, model = encoder.adapters, encoder.backbone.model
    found = encoder(images())
    plain = TwoStreamEncoder(encoder.backbone, method="none")(images())
    outputs = {}
    for stream, x in images().items():
        x = model.blocks[0](encoder.backbone.embed(x))
        outputs[stream] = [x := block(x) for block in model.blocks[1:]]
    for stream, other in (("visual", "audio"), ("audio", "visual")):
        for row in range(2):
            layers = []
            for block in (1, 2):
                keys = {s: method.down[f"{block}_{s}"](outputs[s][block - 1][row]) for s in outputs}
                part = method.distil[f"{block}_{stream}"]
                u = part.unimodal + read(part.unimodal, keys[stream])
                v = part.cross_modal + read(part.cross_modal, keys[other])
                v = v + read(v, keys[stream])
                a, b = (part.router.weight @ torch.cat([u.mean(0), v.mean(0)]) + part.router.bias).softmax(dim=0)
                layers.append(a * u + b * v)
            fusion = method.fusion[stream]
            importance = torch.stack([fusion.score.weight[0] @ t.mean(0) for t in layers]).softmax(dim=0)
            fused = sum(weight * t for weight, t in zip(importance, layers, strict=True))
            pooled = plain[stream].pooled[row] + fusion.up(fused.mean(dim=0))
            tokens = plain[stream].tokens[row] + fusion.up(read(keys[stream], fused))
            torch.testing.assert_close(found[stream].pooled[row], pooled, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found[stream].tokens[row], tokens, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(found[stream].stages[-1][row], tokens, atol=1e-5, rtol=1e-4)
        for stage, frozen in zip(found[stream].stages[:-1], plain[stream].stages[:-1], strict=True):
            assert torch.equal(stage, frozen)


def test_no_gradient_enters_the_encoder():
    encoder = encoder_of()
    gradients = []
    for adapters in (encoder.adapters, None):
        encoder.adapters = adapters
        encoder.backbone.requires_grad_(True).zero_grad()
        features = encoder(images())
        generator = torch.Generator().manual_seed(2)
        sum((f.tokens * torch.randn(f.tokens.shape, generator=generator)).sum() for f in features.values()).backward()
        gradients.append(encoder.backbone.model.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)  # only that of the encoder's own features


def test_gradients_of_the_first_step():
    encoder = encoder_of(moved=False, orthogonality=0.0).train()
    features = encoder(images())
    assert encoder.auxiliary_loss is None
    sum((f.tokens * torch.randn(f.tokens.shape)).sum() for f in features.values()).backward()
    learning = {name.split(".")[2] for name, p in encoder.adapters.named_parameters() if p.grad.any()}
    assert learning == {"up"}


def test_overlap_of_orthogonal_and_of_equal_tokens():
    assert _overlap(torch.eye(3, 5).expand(2, 3, 5)) == 0
    assert _overlap(torch.randn(5).expand(2, 3, 5)) == pytest.approx(1.0)
    two = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert _overlap(torch.stack([two, torch.eye(2)])) == pytest.approx(0.25)  # 45 degrees, then 90


def test_auxiliary_loss_in_training_only():
    encoder = encoder_of(orthogonality=0.5)
    encoder(images())
    assert encoder.auxiliary_loss is None
    encoder.train()(images())
    half = encoder.auxiliary_loss.detach()
    assert 0 < half < 0.5
    encoder.adapters.orthogonality = 1.0
    encoder(images())
    torch.testing.assert_close(encoder.auxiliary_loss.detach(), 2 * half)
    alone = encoder_of(latents=1).train()
    alone(images())
    assert alone.auxiliary_loss is None  # a single token has nothing to be orthogonal to


def test_training_on_the_auxiliary_loss_lowers_the_overlap():
    encoder = encoder_of(orthogonality=1.0).train()
    optimizer = torch.optim.Adam(encoder.adapters.distil.parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        encoder(images())
        encoder.auxiliary_loss.backward()
        losses.append(encoder.auxiliary_loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]


def test_last_block_is_required():
    backbone = build_backbone("vit", VIT, 16)
    with pytest.raises(LavishError, match=r"fusion\.layers"):
        TwoStreamEncoder(backbone, method="molt", layers="first 2")


@pytest.mark.parametrize("options", [{"latents": 0}, {"layers": 4}, {"reduction": 32}])
def test_invalid_options(options):
    with pytest.raises(LavishError, match=rf"adapter\.options\.{next(iter(options))}"):
        encoder_of(**options)
