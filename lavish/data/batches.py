"""From prepared splits to batches on the device: memory-mapped reads, nothing decoded, nothing copied twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lavish.data.store import SplitStore
from lavish.errors import LavishError


@dataclass(frozen=True)
class Batch:
    """Clips of one batch; an absent stream is None."""

    frames: Tensor | None
    """(clips, steps, H, W, 3) uint8."""
    log_mels: Tensor | None
    """(clips, steps, mel bins, frames) float16."""
    audio_features: Tensor | None
    """(clips, steps, E) float32, of a separate audio encoder."""
    targets: dict[str, Tensor]
    clips: list[str]

    def __len__(self) -> int:
        return len(self.clips)


class SplitReader:
    """Reads batches of one split; only the streams that are asked for are touched."""

    def __init__(self, path: Path, streams: tuple[str, ...], audio_features: Path | None = None) -> None:
        self.store = SplitStore(path)
        self._streams = streams
        self._audio_features = None if audio_features is None else np.load(audio_features, mmap_mode="r")
        if self._audio_features is not None and len(self._audio_features) != len(self.store):
            raise LavishError(
                f"{audio_features} holds {len(self._audio_features)} clips, {path} holds {len(self.store)}: "
                "delete the former, it belongs to another prepared store"
            )

    def __len__(self) -> int:
        return len(self.store)

    @property
    def audio_feature_dim(self) -> int:
        """Width of the separate audio encoder's features, 0 without one."""
        return 0 if self._audio_features is None else self._audio_features.shape[-1]

    def batches(self, order: np.ndarray, batch_size: int, device: torch.device) -> Iterator[Batch]:
        """Yield the clips at positions `order`, `batch_size` at a time; on a GPU the next batch is read ahead."""
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        if device.type == "cpu":
            # A memory-mapped read takes about a thousandth of a CPU step: a thread would only compete with it.
            yield from (self._read(group, device) for group in groups)
            return
        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending = ahead.submit(self._read, groups[0], device) if groups else None
            for following in [*groups[1:], None]:
                batch = pending.result() if pending else None
                pending = ahead.submit(self._read, following, device) if following is not None else None
                if batch is not None:
                    yield batch

    def _read(self, positions: np.ndarray, device: torch.device) -> Batch:
        store = self.store

        def gather(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(np.ascontiguousarray(array[positions]))
            return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

        return Batch(
            frames=gather(store.frames) if "visual" in self._streams else None,
            log_mels=gather(store.log_mels) if "audio" in self._streams else None,
            audio_features=None if self._audio_features is None else gather(self._audio_features),
            targets={name: gather(values) for name, values in store.targets.items()},
            clips=[store.clips[position] for position in positions],
        )
