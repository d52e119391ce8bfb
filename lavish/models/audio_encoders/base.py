"""What every extra audio encoder is, and how its weights are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from lavish.models.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from lavish.data.store.store import SplitStore


class AudioEncoder(nn.Module, ABC):
    """A frozen encoder that gives one feature vector per segment of a clip.

    ``forward`` is the part whose cost is counted: tensors in, tensors out, one clip in the shape that
    :meth:`example_inputs` shows. The fixed front end before it (spectrograms) holds no parameters and is not counted,
    as it is not for the two streams.
    """

    feature_dim: int
    """Width D of a segment's feature."""
    reads: Literal["log_mels", "waveforms"]
    """The array of the prepared store it encodes."""

    @abstractmethod
    def example_inputs(self, segments: int, segment_seconds: float) -> Tensor:
        """Return zeros shaped as what ``forward`` takes for one clip of `segments` segments of `segment_seconds` seconds."""

    @abstractmethod
    def check_store(self, store: SplitStore) -> None:
        """Raise LavishError when the prepared store holds sound in another form than the encoder was trained on."""

    @abstractmethod
    def encode_clip_batch(self, clips: Tensor, segments: int, segment_seconds: float) -> Tensor:
        """Return features float32 (B, segments, D) of a batch `clips` (B, ...) of the store's array :attr:`reads`."""

    def load_weights(self, path: Path) -> None:
        """Load a safetensors file; LavishError names the first missing, unexpected or ill-shaped tensor."""
        load_exactly(self, read_weights(path), path, "audio_encoder.spec")
