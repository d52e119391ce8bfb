"""Builds a frozen backbone from a name or an explicit specification, and a file of weights."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lavish.errors import LavishError, did_you_mean
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.swin import SwinV2Backbone
from lavish.models.backbones.vit import ViTBackbone
from lavish.models.weights import load_exactly, read_weights

_EXPLICIT = {"vit": VisionTransformer, "swinv2": SwinTransformerV2}


def build_backbone(
    name: str,
    spec: dict[str, Any],
    image_size: int,
    *,
    weights: Path | None = None,
    stochastic_depth: bool = False,
    tune_norms: bool = False,
    positions: Literal["bicubic", "linear"] = "bicubic",
) -> Backbone:
    """Build and freeze a backbone.

    Args:
        name: a timm name with its weights tag (vit_*, deit*, swinv2_*), or 'vit' / 'swinv2' for an explicit `spec`.
        spec: constructor arguments of timm's class, for 'vit' and 'swinv2'.
        image_size: height and width of the video frames, pixels. A Swin V2 is built for it; a ViT resamples its
            position embedding. 0 is the size that a named model was pretrained at.
        weights: a safetensors file; without one the weights are initialised from torch's random state.
        stochastic_depth, tune_norms, positions: see ``lavish.config.schema.BackboneConfig``.

    Raises:
        LavishError: the name or the spec is unknown to timm, or the weights do not fit.
    """
    model = _explicit(name, spec) if name in _EXPLICIT else _named(name, image_size, weights)
    if name in _EXPLICIT and weights is not None:
        load_exactly(model, read_weights(weights), weights, "backbone.spec")
    backbone: Backbone
    if name.startswith("swinv2"):
        backbone = SwinV2Backbone(model, name)
    else:
        backbone = ViTBackbone(model, name, positions=positions)
    backbone.freeze(stochastic_depth=stochastic_depth, tune_norms=tune_norms)
    return backbone


def classifier_sizes(name: str) -> tuple[int, int]:
    """Return the number of linear classifiers of timm's pretrained model, and the classes of each."""
    pretrained = _pretrained(name)
    if pretrained is None:
        raise LavishError(f"backbone.model: timm knows no weights '{name}', so there is no classifier to count")
    return (1 if isinstance(pretrained.classifier, str) else len(pretrained.classifier)), pretrained.num_classes


def pretrained_image_size(name: str) -> int:
    """Return the height and width of the images of a timm model's pretraining; 224 if timm does not know it."""
    pretrained = _pretrained(name)
    return pretrained.input_size[-1] if pretrained else 224


def _pretrained(name: str) -> Any:
    """Return timm's description of a model's pretraining, or None; raise LavishError for an unknown weights tag."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise LavishError(f"backbone.model '{name}': {error}") from None


def _explicit(name: str, spec: dict[str, Any]) -> nn.Module:
    arguments: dict[str, Any] = {"num_classes": 0, **spec}
    if name == "vit":
        arguments["dynamic_img_size"] = True
    try:
        return _EXPLICIT[name](**arguments)
    except (TypeError, AssertionError) as error:
        raise LavishError(f"backbone.spec does not fit '{name}': {error}") from None


def _named(name: str, image_size: int, weights: Path | None) -> nn.Module:
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        family = timm.list_models(["vit_*", "deit*", "swinv2_*"])
        raise LavishError(f"backbone.model: timm knows no '{architecture}'{did_you_mean(architecture, family)}")
    arguments: dict[str, Any] = {"num_classes": 0}
    if architecture.startswith("swinv2_"):
        arguments |= {"img_size": image_size} if image_size else {}
    else:
        arguments["dynamic_img_size"] = True
    if weights is not None:
        # timm's loading is only strict if the head is removed from the file here: if timm removes it, it also accepts
        # the file of another model and leaves the missing tensors random.
        tensors = _without_head(read_weights(weights), name)
        overlay = {"state_dict": tensors, "num_classes": 0, "hf_hub_id": None, "url": None}
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    try:
        with torch.no_grad():
            model = timm.create_model(name, **arguments)
        model.pretrained_cfg.pop("state_dict", None)  # a second copy of the weights
        return model
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).strip().splitlines()]
        # torch's first line is only a heading.
        reason = textwrap.shorten(" ".join(lines[:2]), 300, placeholder=" ...")
        raise LavishError(
            f"backbone.model '{name}' could not be built{f' from {weights}' if weights else ''}: {reason}"
        ) from None


def _without_head(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    known = _pretrained(name)
    heads = (known.classifier if known else None) or "head"
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    return {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[0] not in heads}


def check_fit(path: Path, model: str) -> None:
    """Raise LavishError if the weights in a file do not fit the timm model of this name."""
    from lavish.config.schema import BackboneConfig
    from lavish.config.validation import parse

    parse(BackboneConfig, {"model": model, "weights": {"source": "file", "path": str(path)}}, "--model")
    build_backbone(model, {}, pretrained_image_size(model), weights=path)
