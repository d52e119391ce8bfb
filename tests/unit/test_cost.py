"""Costs against counts made by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lavish import cost
from lavish.config import RunConfig, parse
from lavish.errors import LavishError
from lavish.steps import cost as write_cost
from tests.stores import run_values

WIDTH, TOKENS, STEPS, HIDDEN, CLASSES, LATENTS = 16, 5, 2, 4, 2, 2
PICTURES = 2 * STEPS  # both streams
BLOCKS, ADAPTERS = 2, 2 * 2  # adapters per block: two positions, two streams


def counted(tmp_path, **changes: object) -> dict:
    write_cost(parse(RunConfig, run_values(**changes), "test"), tmp_path / "cost.json")
    return json.loads((tmp_path / "cost.json").read_text())


def test_adapters_by_hand(tmp_path):
    found = counted(tmp_path)
    bottleneck = 2 * WIDTH * HIDDEN // 2  # two maps of two groups
    attention = 4 * LATENTS * WIDTH  # latents read, then are read: two products each, per token
    macs = STEPS * BLOCKS * ADAPTERS * TOKENS * (bottleneck + attention)
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
    head = STEPS * (2 * WIDTH * 16 + 16 * (CLASSES + 1))
    assert found["total_macs_without_norms"] == PICTURES * (BLOCKS * block + embed) + head


def test_direct_attention_is_quadratic(tmp_path):
    none = counted(tmp_path, fusion={"direction": "none"})["adapter_macs_without_norms"]
    direct = counted(tmp_path, adapter={"method": "lavish", "options": {"reduction": 4, "latents": 0}})
    expected = STEPS * BLOCKS * ADAPTERS * 2 * TOKENS * TOKENS * WIDTH
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
    head = STEPS * 16 * (CLASSES + 1)
    assert both["total_macs_without_norms"] - head == 2 * (visual["total_macs_without_norms"] - head)


def test_an_operator_nobody_counts_is_an_error():
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, dim=0)

    with pytest.raises(LavishError, match=r"aten::cumsum are not counted"):
        cost._count(Odd(), (torch.ones(3),))
