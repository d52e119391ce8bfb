"""The model: normalisation, two-stream encoder and head; and the encoder alone, for other training loops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lavish.errors import LavishError
from lavish.learner.encoder import TwoStreamEncoder
from lavish.models.interfaces import Stream, StreamFeatures
from lavish.tasks.base import EncodedBatch, Task

if TYPE_CHECKING:
    from lavish.data.store.batches import Batch
    from lavish.data.store.store import SplitStore
    from lavish.learner.frozen_features import FeatureLayout

_FROZEN = ("encoder.backbone.", "encoder.audio_backbone.")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EncoderModel(nn.Module):
    """A module with a two-stream encoder, which saves and loads only what is trained."""

    encoder: TwoStreamEncoder

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters below the head: those of the method, and tuned ones of the backbone."""
        return [p for p in self.encoder.parameters() if p.requires_grad]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the tensors that training changes: trainable parameters, and buffers outside frozen backbones."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        trainable |= {name for name, _ in self.named_buffers() if not name.startswith(_FROZEN)}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trainable}

    def load_trainable_state(self, tensors: Mapping[str, Tensor], source: Path | str = "the given state") -> None:
        """Load the tensors of :meth:`trainable_state`; raise LavishError if they belong to another configuration."""
        expected = self.trainable_state().keys()
        if tensors.keys() != expected:
            odd = sorted(tensors.keys() ^ expected)[0]
            raise LavishError(f"{source} does not fit this configuration (tensor '{odd}'); train the run again")
        self.load_state_dict(tensors, strict=False)


class AudioVisualModel(EncoderModel):
    """Maps a batch of frames and log-mels to the task's output.

    `frame_statistics` (mean, std of three channels on [0, 1]) and `audio_statistics` (mean, std) normalise the streams;
    log-mel columns from `valid_frames` on are padding.
    Features of a separate audio encoder, if given, are added to the head's input or replace the audio stream's.
    `layouts` say what the rows of a batch's `frozen` features hold, for streams that are not encoded anew.
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
        layouts: Mapping[Stream, FeatureLayout] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layouts = dict(layouts or {})
        self.task = task
        self.replace_audio = replace_audio
        self.frame_mean: Tensor
        self.frame_scale: Tensor
        self.register_buffer("frame_mean", torch.tensor(frame_statistics[0]) * 255, persistent=False)
        self.register_buffer("frame_scale", 1 / (torch.tensor(frame_statistics[1]) * 255), persistent=False)
        self.audio_mean, self.audio_std = audio_statistics
        self.valid_frames = valid_frames

    def forward(self, batch: Batch) -> Any:
        """Return the task's output for a batch; a stream that the model does not have is None."""
        images: dict[Stream, Tensor] = {}
        known: dict[Stream, StreamFeatures] = {}
        shape: tuple[int, int] = (0, 0)
        stored: dict[Stream, Tensor | None] = {"visual": batch.frames, "audio": batch.log_mels}
        for stream in self.encoder.streams:
            given = batch.frozen[stream] if stream in batch.frozen else stored[stream]
            assert given is not None
            shape = (given.shape[0], given.shape[1])
            if stream in batch.frozen:
                known[stream] = self.layouts[stream].unpack(given.flatten(0, 1))
            else:
                images[stream] = self.images(stream, given.flatten(0, 1))
        streams = known | self.encoder(images, shape[1]) if images else known
        features = [
            streams[stream].pooled.unflatten(0, shape)
            for stream in self.encoder.streams
            if not (stream == "audio" and self.replace_audio)
        ]
        if batch.audio_features is not None:
            features.append(batch.audio_features)
        negatives = None
        if batch.negatives is not None:
            others = batch.negatives.flatten(0, 1)
            negatives = (
                self.layouts["visual"].unpack(others).patches
                if "visual" in batch.frozen
                else self.encoder.frozen_tokens(self.images("visual", others))
            )
        return self.task(EncodedBatch(streams, features, batch.rows, negatives), batch.targets)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Return the scalar that training minimises: the task's loss plus the method's auxiliary loss."""
        loss = self.task.loss(output, batch.targets)
        return loss if self.encoder.auxiliary_loss is None else loss + self.encoder.auxiliary_loss

    def images(self, stream: Stream, stored: Tensor) -> Tensor:
        """Return normalised images (B, 3 or 1, rows, columns) of frames (B, H, W, 3) or log-mels (B, bins, frames)."""
        if stream == "visual":
            return ((stored - self.frame_mean) * self.frame_scale).permute(0, 3, 1, 2)
        # LAVISH divides by twice the standard deviation, as the audio spectrogram transformer does.
        image = (stored.float() - self.audio_mean) / (2 * self.audio_std)
        if self.valid_frames is not None:
            image[..., self.valid_frames :] = 0  # padding is padded after normalisation
        return image.unsqueeze(1)


class FrozenStream(nn.Module):
    """The frozen backbone of one stream as a :class:`lavish.training.features.SegmentEncoder`."""

    def __init__(self, model: AudioVisualModel, stream: Stream) -> None:
        super().__init__()
        self.model = model
        self.stream: Stream = stream
        self.feature_dim = model.layouts[stream].width
        self.reads = "frames" if stream == "visual" else "log_mels"

    def check_store(self, store: SplitStore) -> None:
        """Accept every store: the encoder is built for the one that it encodes."""

    def encode_clip_batch(self, clips: Tensor, segments: int, segment_seconds: float) -> Tensor:
        """Return rows (B, segments, width) of frames (B, segments, H, W, 3) or log-mels (B, segments, bins, frames)."""
        images = self.model.images(self.stream, clips.flatten(0, 1))
        features = self.model.encoder({self.stream: images}, segments)[self.stream]
        return self.model.layouts[self.stream].pack(features).unflatten(0, (len(clips), segments))


class Features(NamedTuple):
    """The features of one stream of a batch of B clips of S segments."""

    pooled: Tensor
    """(B, S, D) one feature per segment."""
    tokens: Tensor
    """(B, S, N, D) tokens of the last block: class and register tokens, then the patches row by row."""
    maps: tuple[Tensor, ...]
    """(B, S, C, rows, columns) the patch tokens at the end of each stage of the backbone."""


class ClipEncoder(EncoderModel):
    """A frozen backbone with an adaptation method, which encodes both streams of a batch of clips.

    Only the parameters of the method, and those of the backbone that it tunes, require gradients.

    Args:
        encoder: the two-stream encoder.
        sizes: height and width of the frames, and rows (mel bins) and columns (analysis frames) of the spectrograms.
        segments: of a clip.
    """

    def __init__(self, encoder: TwoStreamEncoder, sizes: Mapping[Stream, tuple[int, int]], segments: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.sizes = {stream: sizes[stream] for stream in encoder.streams}
        self.segments = segments

    @property
    def feature_dim(self) -> int:
        """D, the width of the pooled features; of the visual stream, if the other has another backbone."""
        return self.encoder.feature_dim(self.encoder.streams[0])

    @property
    def feature_dims(self) -> dict[Stream, int]:
        """The width of each stream's pooled features."""
        return {stream: self.encoder.feature_dim(stream) for stream in self.encoder.streams}

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters to give to an optimizer."""
        return self.adapter_parameters()

    def auxiliary_loss(self) -> Tensor:
        """Return the method's auxiliary loss of the last forward pass: a scalar, 0 for most methods."""
        return torch.zeros(()) if self.encoder.auxiliary_loss is None else self.encoder.auxiliary_loss

    def forward(self, frames: Tensor | None = None, audio: Tensor | None = None) -> dict[Stream, Features]:
        """Encode a batch of B clips of S segments; a stream that the encoder was built without is None.

        Args:
            frames: (B, S, 3, H, W) one normalised frame per segment.
            audio: (B, S, mel bins, analysis frames) one normalised log-mel spectrogram per segment.

        Raises:
            LavishError: a stream is missing or has another shape than the encoder was built for.
        """
        given = {"visual": frames, "audio": audio}
        images: dict[Stream, Tensor] = {}
        shapes: dict[Stream, torch.Size] = {}
        for stream, size in self.sizes.items():
            name, x = ("frames" if stream == "visual" else "audio"), given.pop(stream)
            expected = ("B", "S", *((3,) if stream == "visual" else ()), *size)
            if x is None or x.ndim != len(expected) or x.shape[2:] != expected[2:]:
                found = "missing" if x is None else f"of shape {tuple(x.shape)}"
                raise LavishError(f"`{name}` is {found}: give a tensor of shape ({', '.join(map(str, expected))})")
            images[stream] = x.flatten(0, 1) if stream == "visual" else x.flatten(0, 1).unsqueeze(1)
            shapes[stream] = x.shape[:2]
        if any(x is not None for x in given.values()) or len(set(shapes.values())) > 1:
            raise LavishError(f"give the same clips and segments of {' and '.join(self.sizes)}, and no other stream")
        shape = next(iter(shapes.values()))
        return {
            stream: Features(
                found.pooled.unflatten(0, shape),
                found.tokens.unflatten(0, shape),
                tuple(stage.unflatten(0, shape) for stage in found.maps()),
            )
            for stream, found in self.encoder(images, shape[1]).items()
        }
