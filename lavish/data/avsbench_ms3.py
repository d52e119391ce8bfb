"""The official layout of AVSBench MS3: several possible sources a video, of which some sound.

    ms3_meta_data.csv                                            video_id,split
    ms3_data/visual_frames/<video>/<video>.mp4_1.png ... _5.png  of all splits
    ms3_data/audio_wav/<split>/<video>.wav
    ms3_data/gt_masks/<split>/<video>/<video>_1.png ... _5.png

What files may be called besides is in :mod:`lavish.data.avsbench`.
"""

from __future__ import annotations

from pathlib import Path

from lavish.data.avsbench import CLASSES, Layout
from lavish.data.readers import ClipSource, Targets

_LAYOUT = Layout(
    title="AVSBench MS3",
    table="ms3_meta_data.csv",
    above="Multi-sources",
    media="ms3_data",
    columns=("video_id", "split"),
    pictures=lambda row: Path(row.video),
    place=lambda row: Path(row.split),
)


def classes(_root: Path) -> list[str]:
    """Return the one thing that is looked for."""
    return list(CLASSES)


def vocabulary(_root: Path) -> list[str]:
    """Return no words: nothing is asked."""
    return []


def clips(root: Path, split: str) -> list[ClipSource]:
    """Return the clips of a split in the order of the csv."""
    return _LAYOUT.clips(root, split)


def targets(root: Path, split: str, *, steps: int, step_seconds: float) -> Targets:
    """Return no arrays; LavishError when clips have another number of steps."""
    return _LAYOUT.targets(root, split, steps=steps, step_seconds=step_seconds)
