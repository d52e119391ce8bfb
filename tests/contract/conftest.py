"""Every method meets every backbone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods.registry import methods
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.build import build_backbone
from tests.contract.expectations import METHODS

BACKBONES = {
    "vit": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "vit_average_pooled": {
        "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "avg",
    },
    "swinv2": {"img_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
}  # fmt: skip


def build(name: str) -> Backbone:
    """Return one of the backbones, the same weights each time."""
    torch.manual_seed(0)
    built = build_backbone(name.split("_")[0], BACKBONES[name], 32)
    for norm in built.norms():  # Swin V2 starts them at zero, which would hide what happens before them
        torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    return built


@pytest.fixture(params=BACKBONES)
def backbone_name(request) -> str:
    return request.param


@pytest.fixture
def backbone(backbone_name) -> Backbone:
    return build(backbone_name)


@pytest.fixture(params=methods())
def method(request) -> str:
    assert request.param in METHODS, f"tests/contract/expectations.py has no row for '{request.param}'"
    return request.param


@pytest.fixture
def encoder_of(backbone_name, method) -> Callable[..., TwoStreamEncoder]:
    """Builds an encoder of the method on the backbone, with the options that fit the small backbones."""

    def build_encoder(seed: int = 2, **arguments) -> TwoStreamEncoder:
        backbone = build(backbone_name)
        torch.manual_seed(seed)
        options = METHODS[method].options
        return TwoStreamEncoder(backbone, method=method, options=options, **{"segments": 2, **arguments})

    return build_encoder
