"""The base class of separate audio encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from lavish.models.weights import load_exactly, read_weights

if TYPE_CHECKING:
    from lavish.data.store.store import SplitStore


class AudioEncoder(nn.Module, ABC):
    """A frozen encoder with one feature vector per segment of a clip.

    The cost of ``forward`` is counted for one clip, with an input like :meth:`example_inputs`. The spectrograms are
    computed before ``forward``; they have no parameters and are not counted, as for the two streams.
    """

    feature_dim: int
    """Width D of the feature of a segment."""
    reads: Literal["log_mels", "waveforms"]
    """The array of the prepared store that it encodes."""

    @abstractmethod
    def example_inputs(self, segments: int, segment_seconds: float) -> Tensor:
        """Return zeros like ``forward``'s input for a clip of `segments` segments of `segment_seconds` each."""

    @abstractmethod
    def check_store(self, store: SplitStore) -> None:
        """Raise LavishError if the store's audio is not in the form that the encoder was trained on."""

    @abstractmethod
    def encode_clip_batch(self, clips: Tensor, segments: int, segment_seconds: float) -> Tensor:
        """Return features float32 (B, segments, D) of a batch `clips` (B, ...) of the store's array :attr:`reads`."""

    def load_weights(self, path: Path) -> None:
        """Load a safetensors file; LavishError names tensors that are missing, left over or misshapen."""
        load_exactly(self, read_weights(path), path, "audio_encoder.spec")
