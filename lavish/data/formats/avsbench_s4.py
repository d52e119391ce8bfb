"""The official layout of AVSBench S4: one sounding object per video.

    s4_meta_data.csv                                             name,start,category,split
    s4_data/visual_frames/<split>/<category>/<video>/<video>_1.png ... _5.png
    s4_data/audio_wav/<split>/<category>/<video>.wav
    s4_data/gt_masks/<split>/<category>/<video>/<video>_1.png    train: _1 only; val and test: _1 to _5

The column `start`, the second of the original video at which the clip begins, is not used. See
:mod:`lavish.data.formats.avsbench` for other file names that are accepted.
"""

from __future__ import annotations

from pathlib import Path

from lavish.data.formats.avsbench import AvsbenchSubset, Row


def _media_path(row: Row) -> Path:
    return Path(row.split, row.category)


_LAYOUT = AvsbenchSubset(
    title="AVSBench S4",
    table="s4_meta_data.csv",
    subset_folder="Single-source",
    media="s4_data",
    columns=("name", "start", "category", "split"),
    frames_path=lambda row: _media_path(row) / row.video,
    media_path=_media_path,
    first_only=("train",),
)

classes = _LAYOUT.classes
vocabulary = _LAYOUT.vocabulary
clips = _LAYOUT.clips
targets = _LAYOUT.targets
unread = _LAYOUT.unread
