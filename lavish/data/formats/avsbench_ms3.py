"""The official layout of AVSBench MS3: several potential sound sources per video.

    ms3_meta_data.csv                                            video_id,split
    ms3_data/visual_frames/<video>/<video>.mp4_1.png ... _5.png  all splits
    ms3_data/audio_wav/<split>/<video>.wav
    ms3_data/gt_masks/<split>/<video>/<video>_1.png ... _5.png

See :mod:`lavish.data.formats.avsbench` for other file names that are accepted.
"""

from __future__ import annotations

from pathlib import Path

from lavish.data.formats.avsbench import AvsbenchSubset

_LAYOUT = AvsbenchSubset(
    title="AVSBench MS3",
    table="ms3_meta_data.csv",
    subset_folder="Multi-sources",
    media="ms3_data",
    columns=("video_id", "split"),
    frames_path=lambda row: Path(row.video),
    media_path=lambda row: Path(row.split),
)

classes = _LAYOUT.classes
vocabulary = _LAYOUT.vocabulary
clips = _LAYOUT.clips
targets = _LAYOUT.targets
unread = _LAYOUT.unread
