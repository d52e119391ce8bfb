"""Features of the separate audio encoder, computed once per split: it is frozen, so training only reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from lavish.data.store.store import SplitStore
from lavish.errors import LavishError
from lavish.io.atomic import replacing
from lavish.models.audio_encoders.base import AudioEncoder


@torch.inference_mode()
def encode_split(
    encoder: AudioEncoder,
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
        encoder: A frozen encoder in evaluation mode.
        split: Folder of one prepared split.
        out: The npy file to write.
        batch_size: Clips encoded at once.
        device: Where the encoder runs.
        progress: Show a progress bar on stderr.

    Raises:
        LavishError: the store's audio is not in the form the encoder was trained on, or a feature is not finite.
    """
    store = SplitStore(split)
    store.verify()
    encoder.check_store(store)
    audio = store.log_mels if encoder.reads == "log_mels" else store.waveforms
    segments = store.log_mels.shape[1]
    segment_seconds = float(store.manifest["config"]["segment_seconds"])
    encoder = encoder.to(device).eval()

    features = np.empty((len(store), segments, encoder.feature_dim), dtype=np.float32)
    with tqdm(total=len(store), desc=f"encode audio of {split.name}", unit="clip", disable=not progress) as bar:
        for start in range(0, len(store), batch_size):
            rows = slice(start, min(start + batch_size, len(store)))
            clips = torch.from_numpy(np.array(audio[rows])).to(device)
            features[rows] = encoder.encode_clip_batch(clips, segments, segment_seconds).cpu().numpy()
            bar.update(rows.stop - rows.start)
    broken = ~np.isfinite(features).all(axis=(1, 2))
    if broken.any():
        clip = store.clips[int(broken.argmax())]
        raise LavishError(
            f"{split}: the audio encoder's features of clip '{clip}' are not finite; are its weights damaged?"
        )
    with replacing(out) as temporary, temporary.open("wb") as file:
        np.save(file, features, allow_pickle=False)
