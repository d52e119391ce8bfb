"""The whole learner: normalisation, two-stream encoder, head; and how a resolved configuration becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.interfaces import Stream
from lavish.tasks.base import EncodedBatch, Task

if TYPE_CHECKING:
    from lavish.data.store.batches import Batch

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class AudioVisualModel(nn.Module):
    """Frames and log-mels in, the task's output out.

    `frame_statistics` (mean, std of three channels on [0, 1]) and `audio_statistics` (mean, std) normalise the streams;
    log-mel columns from `valid_frames` on are padding.
    Features of a separate audio encoder, when given, join the head or replace the audio stream's features there.
    """

    def __init__(
        self,
        encoder: TwoStreamEncoder,
        task: Task,
        *,
        frame_statistics: tuple[list[float], list[float]],
        audio_statistics: tuple[float, float],
        valid_frames: int | None = None,
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
        self.valid_frames = valid_frames

    def forward(self, batch: Batch) -> Any:
        """Return the task's output for a batch, in which the stream that was removed is None."""
        images: dict[Stream, Tensor] = {}
        shape: tuple[int, int] = (0, 0)
        if batch.frames is not None:
            shape = (batch.frames.shape[0], batch.frames.shape[1])
            images["visual"] = self._normalised_frames(batch.frames.flatten(0, 1))
        if batch.log_mels is not None:
            shape = (batch.log_mels.shape[0], batch.log_mels.shape[1])
            images["audio"] = self._normalised_log_mels(batch.log_mels.flatten(0, 1))
        streams = self.encoder(images, shape[1])
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
        return self.task(EncodedBatch(streams, features, batch.rows, negatives), batch.targets)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the scalar that training minimises: the task's loss, and what the method adds to it."""
        loss = self.task.loss(output, batch.targets)
        return loss if self.encoder.auxiliary_loss is None else loss + self.encoder.auxiliary_loss

    def _normalised_frames(self, frames: Tensor) -> Tensor:
        return ((frames - self.frame_mean) * self.frame_scale).permute(0, 3, 1, 2)

    def _normalised_log_mels(self, log_mels: Tensor) -> Tensor:
        # LAVISH divides by twice the deviation, as the audio spectrogram transformer does.
        image = (log_mels.float() - self.audio_mean) / (2 * self.audio_std)
        if self.valid_frames is not None:
            image[..., self.valid_frames :] = 0  # padding is padded after normalisation
        return image.unsqueeze(1).expand(-1, 3, -1, -1)

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
