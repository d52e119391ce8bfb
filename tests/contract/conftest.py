"""Every adapter meets every backbone."""

from __future__ import annotations

import pytest
import torch

from lavish.adapters.base import methods
from lavish.backbones.base import Backbone
from lavish.backbones.build import build_backbone

BACKBONES = {
    "vit": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
    "vit_average_pooled": {
        "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "class_token": False,
        "global_pool": "avg",
    },
    "swinv2": {"img_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
}  # fmt: skip


@pytest.fixture(params=BACKBONES)
def backbone(request) -> Backbone:
    torch.manual_seed(0)
    built = build_backbone(request.param.split("_")[0], BACKBONES[request.param], 32)
    for norm in built.norms():  # Swin V2 starts them at zero, which would hide what happens before them
        torch.nn.init.normal_(norm.weight, 1.0, 0.1)
    return built


@pytest.fixture(params=methods())
def method(request) -> str:
    return request.param
