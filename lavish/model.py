"""The whole learner: normalisation, two-stream encoder, head; and how a resolved configuration becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lavish.adapters.base import Stream
from lavish.backbones.build import build_backbone
from lavish.encoder import STREAMS, TwoStreamEncoder
from lavish.errors import LavishError
from lavish.tasks.base import Encoded, Shape, Task, build_task

if TYPE_CHECKING:
    from lavish.backbones.base import Backbone
    from lavish.config import RunConfig
    from lavish.data.batches import Batch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class AudioVisualModel(nn.Module):
    """Frames and log-mels in, the task's output out.

    `frame_statistics` (mean, std of three channels on [0, 1]) and `audio_statistics` (mean, std) normalise the streams;
    log-mel columns from `sounding_frames` on are padding.
    Features of a separate audio encoder, when given, join the head or replace the audio stream's features there.
    """

    def __init__(
        self,
        encoder: TwoStreamEncoder,
        task: Task,
        *,
        frame_statistics: tuple[list[float], list[float]],
        audio_statistics: tuple[float, float],
        sounding_frames: int | None = None,
        replace_audio: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.task = task
        self.replace_audio = replace_audio
        self.frame_mean: Tensor
        self.frame_scale: Tensor
        self.register_buffer("frame_mean", torch.tensor(frame_statistics[0]) * 255, persistent=False)
        self.register_buffer("frame_scale", 1 / (torch.tensor(frame_statistics[1]) * 255), persistent=False)
        self.audio_mean, self.audio_std = audio_statistics
        self.sounding_frames = sounding_frames

    def forward(self, batch: Batch) -> Any:
        """Return the task's output for a batch, in which the stream that was removed is None."""
        pictures: dict[Stream, Tensor] = {}
        shape: tuple[int, int] = (0, 0)
        if batch.frames is not None:
            shape = (batch.frames.shape[0], batch.frames.shape[1])
            pictures["visual"] = self._normalised_frames(batch.frames.flatten(0, 1))
        if batch.log_mels is not None:
            shape = (batch.log_mels.shape[0], batch.log_mels.shape[1])
            pictures["audio"] = self._normalised_log_mels(batch.log_mels.flatten(0, 1))
        streams = self.encoder(pictures, shape[1])
        features = [
            streams[stream].pooled.unflatten(0, shape)
            for stream in self.encoder.streams
            if not (stream == "audio" and self.replace_audio)
        ]
        if batch.audio_features is not None:
            features.append(batch.audio_features)
        negatives = None
        if batch.negatives is not None:
            negatives = self.encoder.frozen_tokens(self._normalised_frames(batch.negatives.flatten(0, 1)))
        return self.task(Encoded(streams, features, batch.rows, negatives), batch.targets)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the scalar that training minimises: the task's loss, and what the method adds to it."""
        loss = self.task.loss(output, batch.targets)
        return loss if self.encoder.penalty is None else loss + self.encoder.penalty

    def _normalised_frames(self, frames: Tensor) -> Tensor:
        return ((frames - self.frame_mean) * self.frame_scale).permute(0, 3, 1, 2)

    def _normalised_log_mels(self, log_mels: Tensor) -> Tensor:
        # LAVISH divides by twice the deviation, as the audio spectrogram transformer does.
        picture = (log_mels.float() - self.audio_mean) / (2 * self.audio_std)
        if self.sounding_frames is not None:
            picture[..., self.sounding_frames :] = 0  # padding is padded after normalisation
        return picture.unsqueeze(1).expand(-1, 3, -1, -1)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained below the head: the method's, and the backbone's own where they are tuned."""
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return what training changes: trainable parameters, and buffers (batch norms) outside the frozen backbone."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        trainable |= {name for name, _ in self.named_buffers() if not name.startswith("encoder.backbone.")}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trainable}

    def load_trainable_state(self, tensors: dict[str, Tensor], source: Path) -> None:
        """Load what :meth:`trainable_state` returned; an error when it belongs to another configuration."""
        expected = self.trainable_state().keys()
        if tensors.keys() != expected:
            odd = sorted(tensors.keys() ^ expected)[0]
            raise LavishError(f"{source} does not fit this configuration (tensor '{odd}'); train the run again")
        self.load_state_dict(tensors, strict=False)


def streams_of(modalities: str) -> tuple[Stream, ...]:
    """Return the streams that exist under `modalities`; a single one is the other removed, not silenced."""
    return STREAMS if modalities == "audio_visual" else ("visual",) if modalities == "visual" else ("audio",)


def frozen_backbone(config: RunConfig, weights: Path | None) -> Backbone:
    """Build the backbone of a resolved configuration; without a file of weights they are random."""
    return build_backbone(
        config.backbone.model,
        config.backbone.spec,
        config.data.frame_size,
        weights=weights,
        stochastic_depth=config.backbone.stochastic_depth,
        tune_norms=config.backbone.tune_norms,
        positions=config.backbone.positions,
    )


def build_model(
    config: RunConfig,
    *,
    classes: list[str],
    vocabulary: int,
    statistics: dict[str, Any],
    weights: Path | None,
    sounding_frames: int | None = None,
    audio_feature_dim: int = 0,
    backbone: Backbone | None = None,
) -> AudioVisualModel:
    """Build the model of a resolved configuration from torch's current random state.

    Args:
        config: the run.
        classes: names of the data set's classes.
        vocabulary: words that its questions are made of.
        statistics: of the training split, as ``statistics.json`` holds them.
        weights: the frozen backbone's safetensors file; None leaves it random (cost counting).
        sounding_frames: columns of a log-mel window that hold sound; None when all do.
        audio_feature_dim: width of the separate audio encoder's features, 0 without one.
        backbone: the frozen backbone, where it has been built already.
    """
    streams = streams_of(config.modalities)
    sound = config.data.spectrogram
    backbone = backbone or frozen_backbone(config, weights)
    side = config.data.frame_size
    sizes: dict[Stream, tuple[int, int]] = {"visual": (side, side), "audio": (sound.mel_bins, sound.frames)}
    for stream in streams:
        backbone.grid_sizes(sizes[stream])
    fusion = config.fusion
    encoder = TwoStreamEncoder(
        backbone,
        streams=streams,
        method=config.adapter.method,
        options=config.adapter.options,
        direction=fusion.direction,
        position=fusion.position,
        arrangement=fusion.arrangement,
        layers=fusion.layers,
        sizes=sizes,
        steps=config.data.steps,
    )
    replace = config.audio_encoder is not None and config.audio_encoder.use == "replace"
    widths = [encoder.feature_dim for stream in streams if not (stream == "audio" and replace)]
    if audio_feature_dim:
        widths.append(audio_feature_dim)
    grids = backbone.grid_sizes(sizes[streams[0]])
    shape = Shape(
        widths=widths,
        stages=[(backbone.widths[end], *grids[end]) for end in backbone.stage_ends],
        token_width=backbone.feature_dim,
        classes=classes,
        vocabulary=vocabulary,
        steps=config.data.steps,
        frame_size=config.data.frame_size,
        streams=streams,
        separate_audio=bool(audio_feature_dim),
    )
    task = build_task(config.task.name, shape, config.task.options)
    frames, audio = config.normalisation.frames, config.normalisation.audio
    return AudioVisualModel(
        encoder,
        task,
        frame_statistics=(list(IMAGENET_MEAN), list(IMAGENET_STD))
        if frames == "imagenet"
        else (statistics["frames"]["mean"], statistics["frames"]["std"]),
        audio_statistics=(statistics["log_mels"]["mean"], statistics["log_mels"]["std"]) if audio == "train" else audio,
        sounding_frames=sounding_frames,
        replace_audio=replace,
    )
