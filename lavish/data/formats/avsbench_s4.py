"""The official layout of AVSBench S4: one sounding object a video.

    s4_meta_data.csv                                             name,start,category,split
    s4_data/visual_frames/<split>/<category>/<video>/<video>_1.png ... _5.png
    s4_data/audio_wav/<split>/<category>/<video>.wav
    s4_data/gt_masks/<split>/<category>/<video>/<video>_1.png    of training videos that alone; else _1 to _5

`start`, the second of the original video at which the clip begins, is not needed. What files may be called besides is
in :mod:`lavish.data.formats.avsbench`.
"""

from __future__ import annotations

from pathlib import Path

from lavish.data.formats.avsbench import AvsbenchSubset, Row


def _place(row: Row) -> Path:
    return Path(row.split, row.category)


_LAYOUT = AvsbenchSubset(
    title="AVSBench S4",
    table="s4_meta_data.csv",
    above="Single-source",
    media="s4_data",
    columns=("name", "start", "category", "split"),
    pictures=lambda row: _place(row) / row.video,
    place=_place,
    first_only=("train",),
)

classes = _LAYOUT.classes
vocabulary = _LAYOUT.vocabulary
clips = _LAYOUT.clips
targets = _LAYOUT.targets
