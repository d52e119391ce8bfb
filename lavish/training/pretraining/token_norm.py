"""The norm of a pretrained backbone's tokens.

Attention without projections and without scaling, as between the streams of LAVISH, compares tokens by their dot
product: with long tokens its softmax takes one token and ignores all others from the start, and a small model learns
slowly to compare what is seen with what is heard.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lavish.models.backbones.base import Backbone
from lavish.models.backbones.vit import ViTBackbone

MEASURED = 512
"""Images whose tokens are measured."""


@torch.no_grad()
def set_token_norm(backbone: Backbone, images: Tensor, norm: float | None) -> None:
    """Scale the tokens of a ViT so that those of `images` enter its first block with the mean `norm`; None: not."""
    if norm is not None:
        assert isinstance(backbone, ViTBackbone)  # the configuration has been checked
        backbone.scale_tokens(norm / backbone.embed(images).norm(dim=-1).mean().item())
