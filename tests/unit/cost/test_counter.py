"""Costs against counts made by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from lavish.checks.method import SMALL_OPTIONS as METHOD_OPTIONS
from lavish.config.options import class_attribute
from lavish.config.schema import RunConfig
from lavish.config.sources import available
from lavish.config.validation import parse
from lavish.cost import counter as cost
from lavish.errors import LavishError
from lavish.learner import uninitialised
from lavish.learner.build import build_model
from lavish.training.jobs import cost as write_cost
from tests.stores import run_values

WIDTH, TOKENS, SEGMENTS, HIDDEN, CLASSES, LATENTS = 16, 5, 2, 4, 2, 2
PICTURES = 2 * SEGMENTS  # both streams
BLOCKS, ADAPTERS = 2, 2 * 2  # adapters per block: two positions, two streams


def counted(tmp_path, **changes: object) -> dict:
    write_cost(parse(RunConfig, run_values(**changes), "test"), tmp_path / "cost.json")
    return json.loads((tmp_path / "cost.json").read_text())


def test_adapters_by_hand(tmp_path):
    found = counted(tmp_path)
    bottleneck = 2 * WIDTH * HIDDEN // 2  # two maps of two groups
    attention = 4 * LATENTS * WIDTH  # latents read, then are read: two products each, per token
    macs = SEGMENTS * BLOCKS * ADAPTERS * TOKENS * (bottleneck + attention)
    assert found["adapter_macs_without_norms"] == macs
    norms = 2 * HIDDEN + 2 * WIDTH + 2 * 2 * WIDTH  # two batch norms, two layer norms
    each = bottleneck + norms + LATENTS * WIDTH + 2  # and two gates
    assert found["adapter_params"] == BLOCKS * ADAPTERS * each
    head = 2 * WIDTH * 16 + 16 + 16 * (CLASSES + 1) + CLASSES + 1
    assert found["head_params"] == head
    assert found["trainable_params"] == found["adapter_params"] + head


def test_backbone_by_hand(tmp_path):
    found = counted(tmp_path, adapter={"method": "none"})
    assert found["adapter_macs"] == found["adapter_params"] == 0
    block = TOKENS * 12 * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH
    embed = (TOKENS - 1) * WIDTH * 3 * 8 * 8
    head = SEGMENTS * (2 * WIDTH * 16 + 16 * (CLASSES + 1))
    assert found["total_macs_without_norms"] == PICTURES * (BLOCKS * block + embed) + head


def test_direct_attention_is_quadratic(tmp_path):
    none = counted(tmp_path, fusion={"direction": "none"})["adapter_macs_without_norms"]
    direct = counted(tmp_path, adapter={"method": "lavish", "options": {"reduction": 4, "latents": 0}})
    expected = SEGMENTS * BLOCKS * ADAPTERS * 2 * TOKENS * TOKENS * WIDTH
    assert direct["adapter_macs_without_norms"] - none == expected


def test_norms_are_told_apart(tmp_path):
    found = counted(tmp_path)
    assert found["adapter_macs"] > found["adapter_macs_without_norms"]
    assert (
        found["total_macs"] - found["total_macs_without_norms"]
        > found["adapter_macs"] - found["adapter_macs_without_norms"]
    )


def test_a_single_stream_costs_about_half(tmp_path):
    both = counted(tmp_path, adapter={"method": "none"})
    visual = counted(tmp_path, adapter={"method": "none"}, modalities="visual")
    head = SEGMENTS * 16 * (CLASSES + 1)
    assert both["total_macs_without_norms"] - head == 2 * (visual["total_macs_without_norms"] - head)


def test_an_operator_nobody_counts_is_an_error():
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, dim=0)

    with pytest.raises(LavishError, match=r"aten::cumsum are not counted"):
        cost._count(Odd(), (torch.ones(3),))


SMALL_SWIN = {"img_size": 16, "embed_dim": 8, "patch_size": 2, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}

# What a task needs to fit pictures of 16 pixels.
SMALL_OPTIONS = {"segmentation": {"channels": 8, "levels": 2}}


@pytest.mark.parametrize("task", available("tasks"))
@pytest.mark.parametrize(
    "changes", [{}, {"backbone": {"model": "swinv2", "spec": SMALL_SWIN}}, {"modalities": "audio"}]
)
def test_two_steps_tell_what_any_number_costs(task, changes):
    changes = {"task": {"name": task, "options": SMALL_OPTIONS.get(task, {})}, **changes}
    assert_counted_exactly(7, **changes)


@pytest.mark.parametrize(
    "method", [name for name in available("methods") if class_attribute("methods", name, "temporal")]
)
@pytest.mark.parametrize("segments", [1, 2, 7])
@pytest.mark.parametrize("changes", [{}, {"backbone": {"model": "swinv2", "spec": {**SMALL_SWIN, "embed_dim": 16}}}])
def test_three_steps_tell_what_any_number_costs_where_steps_are_mixed(method, segments, changes):
    assert_counted_exactly(segments, adapter={"method": method, "options": METHOD_OPTIONS.get(method, {})}, **changes)


def assert_counted_exactly(segments: int, **changes: Any) -> None:
    """Check that few segments give the same count as all of them, operator by operator and module by module."""
    if "backbone" in changes:
        changes["backbone"] = {**changes["backbone"], "weights": {"source": "random"}}
    values = run_values(**changes)
    values["data"] = {**values["data"], "segments": segments}
    config = parse(RunConfig, values, "test")
    statistics = {"frames": {"mean": [0.5] * 3, "std": [0.5] * 3}, "log_mels": {"mean": 0.0, "std": 1.0}}
    with uninitialised.skip_initialisation():
        model = build_model(config, classes=["one", "two"], vocabulary=5, statistics=statistics, weights=None)
    clip = cost.example_clips(model, config.data)
    traced = cost._count_inputs(model, clip(segments))
    derived = cost._count_clip(model, clip, segments)
    assert {name: operators for name, operators in derived.items() if operators} == {
        name: operators for name, operators in traced.items() if operators
    }


def test_a_model_that_is_only_counted_draws_no_weights():
    with uninitialised.skip_initialisation():
        torch.manual_seed(0)
        nn.Linear(300, 300)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


def test_the_pretraining_classifier_is_counted_on_request(tmp_path):
    backbone = {"model": "deit_tiny_distilled_patch16_224.fb_in1k", "weights": {"source": "random"}}
    without = counted(tmp_path, backbone=backbone)
    found = counted(tmp_path, backbone={**backbone, "classifier": "counted"})
    assert without["classifier_params"] == 0
    assert found["classifier_params"] == 2 * (192 + 1) * 1000  # two heads of 1000 classes
    assert found["total_params"] - without["total_params"] == found["classifier_params"]
    assert found["backbone_macs"] - without["backbone_macs"] == 2 * 192 * 1000
    assert found["total_macs"] == without["total_macs"]  # nothing runs it


@pytest.mark.parametrize(
    ("method", "options", "macs"),
    [
        # a token: two maps of h = C / 4 behind each of two sublayers
        ("sequential", {"reduction": 4}, TOKENS * 2 * 2 * WIDTH * (WIDTH // 4)),
        ("parallel", {"reduction": 4}, TOKENS * 2 * WIDTH * (WIDTH // 4)),
        # a token: two factors of rank 3 for each of q and v
        ("lora", {"rank": 3}, TOKENS * 2 * 2 * 3 * WIDTH),
        # what 3 further tokens cost the block itself: its maps, and attention over (N + 3)^2 instead of N^2 pairs
        ("prompt_tuning", {"length": 3}, 3 * 12 * WIDTH**2 + 2 * ((TOKENS + 3) ** 2 - TOKENS**2) * WIDTH),
        ("bitfit", {}, 0),
        ("ssf", {}, 0),
    ],
)
def test_single_stream_methods_by_hand(tmp_path, method, options, macs):
    found = counted(tmp_path, adapter={"method": method, "options": options})
    assert found["adapter_macs_without_norms"] == PICTURES * BLOCKS * macs
