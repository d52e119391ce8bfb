"""What holds for every method on every backbone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lavish.config.options import has_places, option_model
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods import base
from lavish.methods.registry import adapter_class, methods
from tests.contract.expectations import METHODS, sizes

SEGMENTS = 2
ARRANGEMENTS = ("default", "parallel", "sequential")


def images() -> dict[str, Tensor]:
    """Two clips of two segments in both streams."""
    generator = torch.Generator().manual_seed(1)
    return {stream: torch.randn(2 * SEGMENTS, 3, 32, 32, generator=generator) for stream in ("visual", "audio")}


def trained(encoder: TwoStreamEncoder) -> dict[str, nn.Parameter]:
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def move(encoder: TwoStreamEncoder) -> TwoStreamEncoder:
    """Move every trainable parameter as training would, so that nothing is switched off and nothing is the identity."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained(encoder).values():
            noise = torch.rand(parameter.shape, generator=generator)
            # Of either sign: a post-norm takes away again what is the same in all channels.
            sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.copy_(parameter * (1 + 0.2 * noise) if parameter.any() else sign * (0.2 + 0.2 * noise))
    return encoder


@torch.no_grad()
def outputs(encoder: TwoStreamEncoder, **changed: Tensor) -> dict[str, Tensor]:
    """Return all that a head can read of each stream."""
    features = encoder.eval()({**images(), **changed}, SEGMENTS)
    return {stream: torch.cat([f.pooled.flatten(), f.tokens.flatten()]) for stream, f in features.items()}


@torch.no_grad()
def test_at_the_start_the_backbone_is_as_it_was_where_the_method_promises_it(backbone, encoder_of, method):
    frozen = TwoStreamEncoder(backbone, method="none")(images(), SEGMENTS)
    adapted = encoder_of().eval()
    unchanged = all(
        found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
        for stream, features in adapted(images(), SEGMENTS).items()
        for found, expected in ((features.tokens, frozen[stream].tokens), (features.pooled, frozen[stream].pooled))
    )
    assert unchanged == METHODS[method].frozen_at_start
    before = outputs(adapted)
    assert all(not torch.allclose(values, before[stream]) for stream, values in outputs(move(adapted)).items())


def test_trainable_parameters_are_the_closed_formulas(backbone, encoder_of, method):
    measured = sum(p.numel() for p in trained(encoder_of()).values())
    assert measured == METHODS[method].parameters(sizes(backbone), SEGMENTS)


@pytest.mark.parametrize(
    ("method", "arrangement"),
    [(m, arrangement) for m in methods() for arrangement in (ARRANGEMENTS if has_places(m) else ARRANGEMENTS[:1])],
    indirect=["method"],
)
@pytest.mark.parametrize("direction", ["both", "a2v", "v2a", "none"])
def test_only_declared_parameters_get_gradients(encoder_of, direction, arrangement):
    encoder = move(encoder_of(direction=direction, arrangement=arrangement)).train()
    declared = {f"adapters.{name}" for name, _ in encoder.adapters.named_parameters()}
    tuned = {id(p) for p in encoder.adapters.tuned_parameters(encoder.backbone)}
    declared |= {name for name, p in encoder.named_parameters() if id(p) in tuned}
    assert declared == trained(encoder).keys()
    features = encoder(images(), SEGMENTS)
    generator = torch.Generator().manual_seed(3)
    # What the simplest head reads: a parameter that only other features depend on would be dead weight there.
    loss = sum((f.pooled * torch.randn(f.pooled.shape, generator=generator)).sum() for f in features.values())
    (loss if encoder.auxiliary_loss is None else loss + encoder.auxiliary_loss).backward()
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is not None) == (name in declared), name


@pytest.mark.parametrize(
    ("direction", "changes"),
    [("both", {"visual", "audio"}), ("a2v", {"visual"}), ("v2a", {"audio"}), ("none", set())],
)
def test_direction_says_what_crosses(encoder_of, method, direction, changes):
    encoder = move(encoder_of(direction=direction))
    first = outputs(encoder)
    if not adapter_class(method).cross_modal:
        changes = set()
    for changed, other in (("visual", "audio"), ("audio", "visual")):
        second = outputs(encoder, **{changed: torch.zeros(2 * SEGMENTS, 3, 32, 32)})[other]
        assert (not torch.allclose(second, first[other], atol=1e-6)) == (other in changes)


def test_clips_do_not_see_each_other(encoder_of, method):
    encoder = move(encoder_of()).eval()
    both = encoder(images(), SEGMENTS)
    alone = encoder({stream: x[SEGMENTS:] for stream, x in images().items()}, SEGMENTS)
    for stream in alone:
        torch.testing.assert_close(alone[stream].tokens, both[stream].tokens[SEGMENTS:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone[stream].pooled, both[stream].pooled[SEGMENTS:], atol=1e-5, rtol=1e-4)


def test_steps_mix_only_where_the_method_says_so(encoder_of, method):
    encoder = move(encoder_of()).eval()
    whole, changed = images(), images()
    for stream in changed.values():
        stream[1] = 0  # the second segment of the first clip
    first, second = encoder(whole, SEGMENTS), encoder(changed, SEGMENTS)
    mixed = any(
        not torch.allclose(getattr(first[s], part)[0], getattr(second[s], part)[0], atol=1e-6)
        for s in first
        for part in ("pooled", "tokens")
    )
    assert mixed == (not has_places(method) and adapter_class(method).temporal)


def test_training_leaves_the_frozen_backbone_as_it_was(encoder_of, method):
    encoder = encoder_of().train()
    frozen = {name: p.detach().clone() for name, p in encoder.backbone.named_parameters() if not p.requires_grad}
    frozen |= {name: buffer.clone() for name, buffer in encoder.backbone.named_buffers()}
    optimizer = torch.optim.Adam(trained(encoder).values(), lr=0.1)
    for _ in range(2):
        sum(features.pooled.square().sum() for features in encoder(images(), SEGMENTS).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = encoder.backbone.state_dict()
    for name, tensor in frozen.items():
        assert name not in after or torch.equal(after[name], tensor), name


def test_a_single_stream_is_the_other_removed(encoder_of, method):
    encoder = move(encoder_of(streams=("visual",))).eval()
    assert set(encoder({"visual": images()["visual"]}, SEGMENTS)) == {"visual"}
    assert not any("audio" in name for name in trained(encoder))


def test_saved_and_loaded_is_the_same(encoder_of, method):
    encoder, other = move(encoder_of(seed=3)), encoder_of(seed=4)
    saved = {name: tensor for name, tensor in encoder.state_dict().items() if name in trained(encoder)}
    saved |= {f"adapters.{name}": tensor for name, tensor in encoder.adapters.state_dict().items()}
    other.load_state_dict(saved, strict=False)
    for stream, values in outputs(other).items():
        assert torch.equal(values, outputs(encoder)[stream])


def test_half_precision_stays_close(encoder_of, method):
    encoder = move(encoder_of())
    exact = outputs(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = outputs(encoder)
    for stream, values in half.items():
        assert (values.float() - exact[stream]).norm() / exact[stream].norm() < 0.1


def test_the_option_that_sets_the_size_exists(method):
    option = adapter_class(method).budget_option
    assert option is None or option in option_model("methods", method).model_fields


FILES = sorted(Path(base.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_method_is_one_file_of_less_than_200_lines_that_imports_no_other_method(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") < 200
    assert not set(re.findall(r"lavish\.adapters(?:\.| import )(\w+)", source)) & set(methods())
