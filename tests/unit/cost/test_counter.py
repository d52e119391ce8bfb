"""Costs against counts by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lavish.checks.method import SMALL_OPTIONS as METHOD_OPTIONS
from lavish.config.options import class_attribute, has_sites
from lavish.config.schema import RunConfig
from lavish.config.sources import available
from lavish.config.validation import parse
from lavish.cost import counter
from lavish.cost.job import count_run
from lavish.data.store.batches import Batch
from lavish.errors import LavishError
from lavish.learner.model import AudioVisualModel
from lavish.learner.uninitialised import skip_initialisation, uninitialised_model
from lavish.models.backbones.build import build_backbone
from tests.stores import run_values

WIDTH, TOKENS, SEGMENTS, HIDDEN, CLASSES, LATENTS = 16, 5, 2, 4, 2, 2
IMAGES = 2 * SEGMENTS  # both streams
BLOCKS, ADAPTERS = 2, 2 * 2  # adapters per block: two positions, two streams


SWIN = {
    "model": "swinv2",
    "spec": {"img_size": 16, "embed_dim": 16, "patch_size": 2, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "weights": {"source": "random"},
}


def counted(**changes: object) -> dict[str, Any]:
    return count_run(parse(RunConfig, run_values(**changes), "test"))


def uninitialised(segments: int = SEGMENTS, **changes: Any) -> tuple[AudioVisualModel, Callable[[int], Batch]]:
    """Return the uninitialised model of a small configuration, and the function that makes its example clips."""
    values = run_values(**changes)
    values["data"] = {**values["data"], "segments": segments, "vocabulary": 5}
    config = parse(RunConfig, values, "test")
    model, _ = uninitialised_model(config)
    return model, counter.example_clips(model, config.data)


def test_adapters_by_hand():
    found = counted()
    bottleneck = 2 * WIDTH * HIDDEN // 2  # two maps of two groups
    attention = 4 * LATENTS * WIDTH  # to the latent tokens and back: two products each, per token
    macs = SEGMENTS * BLOCKS * ADAPTERS * TOKENS * (bottleneck + attention)
    assert found["adapter_macs_without_norms"] == macs
    norms = 2 * HIDDEN + 2 * WIDTH + 2 * 2 * WIDTH  # two batch norms, two layer norms
    each = bottleneck + norms + LATENTS * WIDTH + 2  # and two gates
    assert found["adapter_params"] == BLOCKS * ADAPTERS * each
    head = 2 * WIDTH * 16 + 16 + 16 * (CLASSES + 1) + CLASSES + 1
    assert found["head_params"] == head
    assert found["trainable_params"] == found["adapter_params"] + head


def test_backbone_by_hand():
    found = counted(adapter={"method": "none"})
    assert found["adapter_macs"] == found["adapter_params"] == 0
    block = TOKENS * 12 * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH
    embed = (TOKENS - 1) * WIDTH * 3 * 8 * 8
    head = SEGMENTS * (2 * WIDTH * 16 + 16 * (CLASSES + 1))
    assert found["total_macs_without_norms"] == IMAGES * (BLOCKS * block + embed) + head


PLAIN = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
PATCHES = TOKENS - 1


@pytest.mark.parametrize(
    ("model", "spec", "tokens", "ffn", "pooling"),
    [
        # class and two register tokens
        ("vit", {"reg_tokens": 2, "pre_norm": True, "init_values": 0.1}, PATCHES + 3, 8 * WIDTH**2, 0),
        # the query, keys and values of all patches, two products, projection and feed-forward layer of one token
        (
            "vit",
            {"class_token": False, "global_pool": "map"},
            PATCHES,
            8 * WIDTH**2,
            WIDTH**2 + PATCHES * (2 * WIDTH**2 + 2 * WIDTH) + 9 * WIDTH**2,
        ),
        # two maps to the hidden width, which is 2 C here, and one back
        (
            "eva",
            {"use_rot_pos_emb": True, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "mlp_ratio": 2},
            TOKENS,
            6 * WIDTH**2,
            0,
        ),
        ("eva", {"use_rot_pos_emb": True, "rope_type": "dinov3", "num_reg_tokens": 4}, PATCHES + 5, 8 * WIDTH**2, 0),
    ],
    ids=["registers", "attention pooling", "gated", "rotary"],
)
def test_plain_transformers_by_hand(model, spec, tokens, ffn, pooling):
    backbone = {"model": model, "spec": {**PLAIN, **spec}, "weights": {"source": "random"}}
    block = tokens * (4 * WIDTH**2 + ffn) + 2 * tokens**2 * WIDTH
    embed = PATCHES * WIDTH * 3 * 8 * 8
    head = SEGMENTS * (2 * WIDTH * 16 + 16 * (CLASSES + 1))
    found = counted(backbone=backbone, adapter={"method": "none"})
    assert found["total_macs_without_norms"] == IMAGES * (BLOCKS * block + embed + pooling) + head
    # A method that works layer by layer adds its own only: two factors of rank 3 for each of q and v.
    found = counted(backbone=backbone, adapter={"method": "lora", "options": {"rank": 3}})
    assert found["adapter_macs_without_norms"] == IMAGES * BLOCKS * tokens * 2 * 2 * 3 * WIDTH


@pytest.mark.parametrize("side", [16, 22])
def test_overlapping_patches_of_spectrograms_by_hand(side):
    """One channel; patches of 8 x 8, one every 4 bins and 6 frames, and two prefix tokens.

    fvcore counts the linear stretching of positions as 4 for each value.
    """
    spec = {**PLAIN, "img_size": [16, 16], "stride": [4, 6]}
    patches = ((side - 8) // 4 + 1) * ((side - 8) // 6 + 1)
    tokens = patches + 2
    block = tokens * 12 * WIDTH**2 + 2 * tokens**2 * WIDTH
    norms = 5 * (2 * BLOCKS + 1) * tokens * WIDTH
    found = counter.count_backbone(build_backbone("ast", spec, 0), (side, side))
    stretching = 4 * patches * WIDTH if side > 16 else 0
    assert found == BLOCKS * block + patches * WIDTH * 8 * 8 + norms + stretching


def test_direct_attention_is_quadratic():
    none = counted(fusion={"direction": "none"})["adapter_macs_without_norms"]
    direct = counted(adapter={"method": "lavish", "options": {"reduction": 4, "latents": 0}})
    expected = SEGMENTS * BLOCKS * ADAPTERS * 2 * TOKENS * TOKENS * WIDTH
    assert direct["adapter_macs_without_norms"] - none == expected


def test_norms_are_counted_separately():
    found = counted()
    assert found["adapter_macs"] > found["adapter_macs_without_norms"]
    assert (
        found["total_macs"] - found["total_macs_without_norms"]
        > found["adapter_macs"] - found["adapter_macs_without_norms"]
    )


def test_a_single_stream_costs_half_of_both():
    both = counted(adapter={"method": "none"})
    visual = counted(adapter={"method": "none"}, modalities="visual")
    head = SEGMENTS * 16 * (CLASSES + 1)
    assert both["total_macs_without_norms"] - head == 2 * (visual["total_macs_without_norms"] - head)


def test_an_uncounted_operator_is_an_error():
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, dim=0)

    with pytest.raises(LavishError, match=r"aten::cumsum are not counted"):
        counter._count(Odd(), (torch.ones(3),))


# Options with which a task fits images of 16 pixels.
SMALL_OPTIONS = {"segmentation": {"channels": 8, "levels": 2}}
TEMPORAL = [name for name in available("methods") if class_attribute("methods", name, "temporal")]


@pytest.mark.parametrize("task", available("tasks"))
@pytest.mark.parametrize(
    "changes",
    [{}, {"backbone": {**SWIN, "spec": {**SWIN["spec"], "embed_dim": 8}}}, {"modalities": "audio"}],
    ids=["vit", "swin", "audio"],
)
def test_two_segments_give_the_count_of_any_number(task, changes):
    assert_extrapolation_is_exact(7, task={"name": task, "options": SMALL_OPTIONS.get(task, {})}, **changes)


@pytest.mark.parametrize("method", TEMPORAL)
@pytest.mark.parametrize("segments", [1, 2, 7])
@pytest.mark.parametrize("changes", [{}, {"backbone": SWIN}], ids=["vit", "swin"])
def test_three_segments_give_the_count_of_any_number_for_temporal_methods(method, segments, changes):
    assert_extrapolation_is_exact(
        segments, adapter={"method": method, "options": METHOD_OPTIONS.get(method, {})}, **changes
    )


def assert_extrapolation_is_exact(segments: int, **changes: Any) -> None:
    """Check that few segments give the same counts as all of them, by operator and module."""
    model, clip = uninitialised(segments, **changes)
    traced = counter._count_inputs(model, clip(segments))
    derived = counter._count_clip(model, clip, segments)
    assert {name: operators for name, operators in derived.items() if operators} == {
        name: operators for name, operators in traced.items() if operators
    }


@pytest.mark.parametrize("arrangement", ["parallel", "sequential"])
@pytest.mark.parametrize("method", [name for name in available("methods") if has_sites(name)])
@pytest.mark.parametrize("changes", [{}, {"backbone": SWIN}], ids=["vit", "swin"])
def test_adapters_cost_the_difference_to_the_bare_backbone(method, arrangement, changes):
    adapter = {"method": method, "options": {"reduction": 4}}
    model, clip = uninitialised(adapter=adapter, fusion={"arrangement": arrangement}, **changes)
    bare, _ = uninitialised(adapter={"method": "none"}, **changes)
    whole, frozen = (counter._count_clip(each, clip, SEGMENTS)["model.encoder"] for each in (model, bare))
    found = counter.count_macs(model, clip, SEGMENTS)
    assert found["adapter_macs"] == sum(whole.values()) - sum(frozen.values()) > 0
    without_norms = counter._without_norms(whole) - counter._without_norms(frozen)
    assert found["adapter_macs_without_norms"] == without_norms


def test_uninitialised_models_use_no_random_numbers():
    with skip_initialisation():
        torch.manual_seed(0)
        nn.Linear(300, 300)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_pretraining_classifiers_are_counted_on_request():
    backbone = {"model": "deit_tiny_distilled_patch16_224.fb_in1k", "weights": {"source": "random"}}
    without = counted(backbone=backbone)
    found = counted(backbone={**backbone, "classifier": "counted"})
    assert without["classifier_params"] == 0
    assert found["classifier_params"] == 2 * (192 + 1) * 1000  # two heads of 1000 classes
    assert found["total_params"] - without["total_params"] == found["classifier_params"]
    assert found["backbone_macs"] - without["backbone_macs"] == 2 * 192 * 1000
    assert found["total_macs"] == without["total_macs"]  # a forward pass does not run it


@pytest.mark.parametrize(
    ("method", "options", "macs"),
    [
        # per token: two maps with h = C / 4 after each of two sublayers
        ("sequential", {"reduction": 4}, TOKENS * 2 * 2 * WIDTH * (WIDTH // 4)),
        ("parallel", {"reduction": 4}, TOKENS * 2 * WIDTH * (WIDTH // 4)),
        # per token: two factors of rank 3 for each of q and v
        ("lora", {"rank": 3}, TOKENS * 2 * 2 * 3 * WIDTH),
        # 3 more tokens in the block itself: its linear maps, and attention over (N + 3)^2 instead of N^2 pairs
        ("prompt_tuning", {"length": 3}, 3 * 12 * WIDTH**2 + 2 * ((TOKENS + 3) ** 2 - TOKENS**2) * WIDTH),
        ("bitfit", {}, 0),
        ("ssf", {}, 0),
    ],
)
def test_single_stream_methods_by_hand(method, options, macs):
    found = counted(adapter={"method": method, "options": options})
    assert found["adapter_macs_without_norms"] == IMAGES * BLOCKS * macs
