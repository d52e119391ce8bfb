"""The official layout of AVSBench MS3: several possible sources a video, of which some sound.

    ms3_meta_data.csv                                            video_id,split
    ms3_data/visual_frames/<video>/<video>.mp4_1.png ... _5.png  of all splits
    ms3_data/audio_wav/<split>/<video>.wav
    ms3_data/gt_masks/<split>/<video>/<video>_1.png ... _5.png

What files may be called besides is in :mod:`lavish.data.formats.avsbench`.
"""

from __future__ import annotations

from pathlib import Path

from lavish.data.formats.avsbench import AvsbenchSubset

_LAYOUT = AvsbenchSubset(
    title="AVSBench MS3",
    table="ms3_meta_data.csv",
    above="Multi-sources",
    media="ms3_data",
    columns=("video_id", "split"),
    pictures=lambda row: Path(row.video),
    place=lambda row: Path(row.split),
)

classes = _LAYOUT.classes
vocabulary = _LAYOUT.vocabulary
clips = _LAYOUT.clips
targets = _LAYOUT.targets
