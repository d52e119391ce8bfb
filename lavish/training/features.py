"""Features of a frozen encoder, computed once per split: no training changes them, so trainings only read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from lavish.io.atomic import replacing


class SegmentEncoder(Protocol):
    """A frozen encoder with one row of numbers per segment: of a separate audio encoder, or of the frozen backbone."""

    feature_dim: int
    """Numbers D of a segment."""

    @property
    def reads(self) -> str:
        """The array of the prepared store that it encodes."""

    def check_store(self, store: SplitStore) -> None:
        """Raise LavishError if the store's array is not in the form that the encoder takes."""

    def encode_clip_batch(self, clips: Tensor, segments: int, segment_seconds: float) -> Tensor:
        """Return features float32 (B, segments, D) of a batch of clips (B, ...) of the store's array."""


def encode_split(
    encoder: SegmentEncoder,
    split: Path,
    out: Path,
    *,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> None:
    """Write one feature per segment of every clip of a prepared split to `out`, npy float32 (clips, segments, D).

    Clips keep the store's order. On a CPU with the same number of threads, equal inputs give equal bytes.

    Args:
        encoder: A frozen encoder in evaluation mode, on `device`.
        split: Folder of one prepared split.
        out: The npy file to write.
        batch_size: Clips encoded at once.
        device: Where the encoder runs.
        progress: Show a progress bar on stderr.

    Raises:
        LavishError: the store's array is not in the form that the encoder takes, or a feature is not finite.
    """
    store = SplitStore(split, torch.get_num_threads())
    store.verify()
    encoder.check_store(store)
    shape = (len(store), store.log_mels.shape[1], encoder.feature_dim)

    with (
        replacing(out) as temporary,
        temporary.open("wb") as file,
        tqdm(total=len(store), desc=f"encode {split.name}", unit="clip", disable=not progress) as bar,
    ):
        # Written batch by batch, because the features of a split may be larger than the memory.
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for features in encoded_batches(encoder, store, batch_size, device):
            file.write(features.data)
            bar.update(len(features))


@torch.inference_mode()
def encoded_batches(
    encoder: SegmentEncoder, store: SplitStore, batch_size: int = 8, device: str | torch.device = "cpu"
) -> Iterator[np.ndarray]:
    """Yield the features float32 (B, segments, D) of the clips of an open store, in its order.

    Raises:
        LavishError: a feature is not finite.
    """
    array = getattr(store, encoder.reads)
    segments, segment_seconds = store.log_mels.shape[1], float(store.manifest["config"]["segment_seconds"])
    for start in range(0, len(store), batch_size):
        rows = slice(start, min(start + batch_size, len(store)))
        clips = torch.from_numpy(np.array(array[rows])).to(device)
        features = encoder.encode_clip_batch(clips, segments, segment_seconds).cpu().numpy()
        broken = ~np.isfinite(features).all(axis=(1, 2))
        if broken.any():
            clip = store.clips[start + int(broken.argmax())]
            raise LavishError(f"{store.path}: the features of clip '{clip}' are not finite; are the weights damaged?")
        yield np.ascontiguousarray(features, dtype="<f4")
