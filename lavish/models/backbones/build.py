"""Builds a frozen backbone from a name or an explicit specification, and a file of weights."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lavish.config.schema import NAMED_BACKBONES
from lavish.errors import LavishError, did_you_mean
from lavish.models.backbones.base import Backbone
from lavish.models.backbones.eva import EvaBackbone
from lavish.models.backbones.htsat import HTSAT, HTSATBackbone, in_timms_names
from lavish.models.backbones.spectrogram import AstBackbone, audio_spectrogram_transformer
from lavish.models.backbones.swin import SwinBackbone, SwinV2Backbone
from lavish.models.backbones.vit import ViTBackbone
from lavish.models.weights import load_exactly, read_weights

_EXPLICIT: dict[str, Callable[..., nn.Module]] = {
    "vit": VisionTransformer,
    "eva": Eva,
    "ast": audio_spectrogram_transformer,
    "swin": SwinTransformer,
    "swinv2": SwinTransformerV2,
    "htsat": HTSAT,
}
_HEADS = ("head", "head_dist")  # what timm calls classifiers, which are not used here


def build_backbone(
    name: str,
    spec: dict[str, Any],
    image_size: int | tuple[int, int],
    *,
    weights: Path | None = None,
    stochastic_depth: bool = False,
    tune_norms: bool = False,
    positions: Literal["bicubic", "linear"] = "bicubic",
) -> Backbone:
    """Build and freeze a backbone.

    Args:
        name: a timm name with its weights tag (``lavish.config.schema.NAMED_BACKBONES``), or 'vit', 'eva', 'ast',
            'swin', 'swinv2', 'htsat' for an explicit `spec`.
        spec: constructor arguments of timm's class, for explicit ones; of an 'ast' those of
            :func:`lavish.models.backbones.spectrogram.audio_spectrogram_transformer`.
        image_size: height and width of the images, pixels. A Swin is built for it; a ViT resamples its position
            embedding. 0 is the size that a named model was pretrained at.
        weights: a safetensors file, for a named model in any naming that timm reads, for an 'ast' and an 'htsat' in
            those of their public code; without one the weights are initialised from torch's random state.
        stochastic_depth, tune_norms, positions: see ``lavish.config.schema.BackboneConfig``.

    Raises:
        LavishError: the name or the spec is unknown to timm, or the weights do not fit.
    """
    model = _explicit(name, spec) if name in _EXPLICIT else _named(name, image_size)
    backbone: Backbone
    if isinstance(model, HTSAT):
        backbone = HTSATBackbone(model, name)
    elif name.startswith("swinv2"):
        backbone = SwinV2Backbone(model, name)
    elif name.startswith("swin"):
        backbone = SwinBackbone(model, name)
    elif name == "ast":
        backbone = AstBackbone(model, name, positions=positions)
    elif isinstance(model, Eva):
        backbone = EvaBackbone(model, name, positions=positions)
    else:
        backbone = ViTBackbone(model, name, positions=positions)
    if weights is not None:
        tensors = read_weights(weights)
        if isinstance(model, HTSAT):
            tensors = in_timms_names(_without_prefix(tensors, weights), model)
        if name in _EXPLICIT:
            if name == "ast":
                tensors = _without_heads(_without_prefix(tensors, weights), model)
            load_exactly(model, tensors, weights, "backbone.spec")
        else:
            load_exactly(model, _in_timms_names(tensors, model, weights), weights, f"backbone.model '{name}'")
    backbone.freeze(stochastic_depth=stochastic_depth, tune_norms=tune_norms)
    return backbone


def classifier_sizes(name: str) -> tuple[int, int]:
    """Return the number of linear classifiers of timm's pretrained model, and the classes of each.

    Raises:
        LavishError: timm knows no such weights, or they were pretrained without a classifier.
    """
    pretrained = _pretrained(name)
    if pretrained is None:
        raise LavishError(f"backbone.model: timm knows no weights '{name}', so there is no classifier to count")
    if not pretrained.num_classes:
        raise LavishError(f"backbone.model '{name}' was pretrained without a classifier: remove backbone.classifier")
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
    if name in ("vit", "eva", "ast"):
        arguments["dynamic_img_size"] = True
    try:
        return _EXPLICIT[name](**arguments)
    except (TypeError, AssertionError) as error:
        raise LavishError(f"backbone.spec does not fit '{name}': {error}") from None


def _named(name: str, image_size: int | tuple[int, int]) -> nn.Module:
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        family = timm.list_models(list(NAMED_BACKBONES))
        raise LavishError(f"backbone.model: timm knows no '{architecture}'{did_you_mean(architecture, family)}")
    arguments: dict[str, Any] = {"num_classes": 0}
    if architecture.startswith("swin"):
        arguments |= {"img_size": image_size} if image_size else {}
    else:
        arguments["dynamic_img_size"] = True
    try:
        return timm.create_model(name, **arguments)
    except (RuntimeError, TypeError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise LavishError(f"backbone.model '{name}' could not be built: {reason}") from None


def _in_timms_names(tensors: dict[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    """Convert the published weights of a named model to timm's present names and to the model's size, without heads.

    timm converts by itself when it loads a file, but then leaves tensors random that the file lacks.
    """
    convert = sys.modules[type(model).__module__].checkpoint_filter_fn
    if isinstance(model, VisionTransformer):
        convert = partial(convert, adapt_layer_scale=True)  # DeiT III
    try:
        with torch.no_grad(), redirect_stdout(StringIO()):  # for DINOv3, timm prints errors that it expects
            converted = convert(_without_prefix(tensors, path), model)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise LavishError(f"{path} could not be converted to timm's {type(model).__name__}: {error}") from None
    return _without_heads(converted, model)


def _without_heads(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors without those of classifiers, and of attention pooling if the model pools otherwise."""
    unused = _HEADS if getattr(model, "attn_pool", None) is not None else (*_HEADS, "attn_pool")
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in unused}


def _without_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of the image model without what wrappers put before their names (`module.`, `state_dict.`)."""
    stem = "patch_embed.proj.weight"  # of every model that timm's names describe
    prefixes = sorted(
        prefix for name in tensors if (prefix := name.removesuffix(stem)) != name and prefix[-1:] in ("", ".")
    )
    if len(prefixes) > 1:
        raise LavishError(
            f"{path} holds several models ({', '.join(map(repr, prefixes))}): save the tensors of one to a file of its "
            "own"
        )
    prefix = prefixes[0] if prefixes else ""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_fit(path: Path, model: str) -> None:
    """Raise LavishError if the weights in a file do not fit the timm model of this name."""
    from lavish.config.schema import BackboneConfig
    from lavish.config.validation import parse

    parse(BackboneConfig, {"model": model, "weights": {"source": "file", "path": str(path)}}, "--model")
    build_backbone(model, {}, pretrained_image_size(model), weights=path)
