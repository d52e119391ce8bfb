"""Which features of frozen encoders are computed once, and their names. Does not import torch.

A separate audio encoder's features are always computed once. Those of the frozen backbone are where nothing of a run
below the head is trained, and where they are small:

- the run has no method, trains nothing of the backbone, and computes in float32 (:attr:`RunConfig.frozen`) on a CPU:
  the kernels of a GPU are chosen by the size of a batch, so that its features could differ in their last digits;
- its task says what its head reads (``Task.head_reads``);
- pooled features; tokens and maps of a ViT or Swin with a `spec`, from which their size is known here, up to
  :data:`LARGEST` an image. At 224 pixels those of a published backbone are two to twenty times as large as the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lavish.config.hashing import digest
from lavish.config.options import class_attribute
from lavish.config.schema import (
    AudioEncoderConfig,
    BackboneConfig,
    FrozenStreamConfig,
    KeptFeatures,
    NormalisationConfig,
    RunConfig,
)
from lavish.planning.identities import Run, Weights
from lavish.provenance import RECIPE_VERSION

LARGEST = 64 * 1024
"""Bytes for each image of a split: at most 6 GB for the largest official data set, MUSIC-AVQA."""


@dataclass(frozen=True)
class Features:
    """Features of one frozen encoder, a file for each split of a data set."""

    name: str
    """Ends in a hash of everything that they depend on besides the prepared store."""
    kind: Literal["backbone", "audio_encoder"]
    weights: Weights
    config: FrozenStreamConfig | AudioEncoderConfig

    @property
    def cpu_threads(self) -> int:
        """Threads of the job on a CPU."""
        return self.config.cpu_threads if isinstance(self.config, FrozenStreamConfig) else 1


def audio_encoder_features(run: Run) -> Features | None:
    """Return the features of a run's separate audio encoder, if it has one."""
    weights = run.audio_encoder
    if weights is None or not isinstance(weights.config, AudioEncoderConfig):
        return None
    return Features(weights.name, "audio_encoder", weights, weights.config)


def frozen_features(run: Run) -> dict[str, Features]:
    """Return, by stream, the features of the frozen backbones that a run on a CPU may read instead of images."""
    config: RunConfig = run.config
    reads = class_attribute("tasks", config.task.name, "head_reads")
    if reads is None or not config.frozen:
        return {}
    sizes, backbones = config.data.image_sizes(), config.used_backbones()
    described = {
        "visual": (backbones[0], run.backbone),
        "audio": (backbones[-1], run.audio_backbone or run.backbone),
    }
    return {
        stream: _stream_features(run, stream, kept, *described[stream])
        for stream, kept in config.kept_features(reads).items()
        if _is_small(described[stream][0], sizes[stream], kept)
    }


def _is_small(backbone: BackboneConfig, size: tuple[int, int], kept: KeptFeatures) -> bool:
    if kept == "pooled":
        return True
    size_of_row = row_bytes(backbone, size, kept)
    return size_of_row is not None and size_of_row <= LARGEST


def _stream_features(run: Run, stream: Any, kept: KeptFeatures, backbone: BackboneConfig, weights: Weights) -> Features:
    config = run.config
    own = "frames" if stream == "visual" else "audio"
    settings = FrozenStreamConfig(
        stream=stream,
        kept=kept,
        backbone=BackboneConfig.model_validate(backbone.model_dump(include=set(BackboneConfig.model_fields))),
        normalisation=NormalisationConfig(**{own: getattr(config.normalisation, own)}),
        cpu_threads=config.training.cpu_threads,
        cpu_dispatch=config.training.cpu_dispatch,
    )
    content = settings.model_dump(mode="json", exclude={"backbone": {"weights", "classifier"}}, exclude_defaults=True)
    name = f"{stream}_{weights.config.model}-{digest('features', content, weights.name, RECIPE_VERSION)}"
    return Features(name, "backbone", weights, settings)


def row_bytes(backbone: BackboneConfig, size: tuple[int, int], kept: KeptFeatures) -> int | None:
    """Return the bytes of an image's features in float32, at most; None if it is not known without building it.

    Args:
        backbone: the backbone.
        size: rows and columns of the image.
        kept: what is kept, see :class:`lavish.learner.frozen_features.FeatureLayout`.
    """
    spec: dict[str, Any] = backbone.spec
    if not spec or backbone.model not in ("vit", "swin", "swinv2"):
        return None
    swin = backbone.model != "vit"
    patch, width = spec.get("patch_size", 4 if swin else 16), spec.get("embed_dim", 96 if swin else 768)
    down, across = (patch, patch) if isinstance(patch, int) else patch
    tokens = -(-size[0] // down) * -(-size[1] // across)
    if swin:
        # Merging halves both sides of the grid and doubles the width.
        depth = len(spec.get("depths", (2, 2, 6, 2)))
        stages = [tokens * width // 2**stage for stage in range(depth)]
        width *= 2 ** (depth - 1)
    else:
        tokens += spec.get("class_token", True) + spec.get("reg_tokens", 0)
        stages = 4 * [tokens * width]
    kept_stages = {"pooled": [], "tokens": stages[-1:], "stages": stages}[kept]
    return 4 * (width + sum(kept_stages))
