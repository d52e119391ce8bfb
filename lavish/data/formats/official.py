"""The official data sets: where to obtain them, and the sizes and checksums of their published files.

Standard library only: the workflow shows this information when a folder is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class TextFile:
    """A list or an annotation file as its authors published it."""

    entries: int
    """Number of listed clips or questions: lines of a text file, records of a JSON list."""
    sha256: str | None = None
    """Of its non-empty lines, stripped of white space and joined by line feeds; None if unknown."""
    header: bool = False
    """Whether the first line holds the column names."""
    optional: bool = False
    """Whether the file may be missing because another file can replace it."""


@dataclass(frozen=True)
class Official:
    """An official data set.

    Attributes:
        title: its name in messages.
        obtained: where to obtain it and what its folder contains, as the beginning of a sentence.
        texts: text files by name.
        splits: the name of each split in messages: its list file, if it has one of its own.
        classes: number of classes, without background; None if any number is allowed.
        segments, segment_seconds: segments per clip and their length.
        entry: what the text files list.
        clips: clips per split, where the text files do not determine it.
        words: size of the question vocabulary.
        folder: subfolder of the root in which the text files may be instead.
    """

    title: str
    obtained: str
    texts: Mapping[str, TextFile]
    splits: Mapping[str, str]
    classes: int | None
    segments: int
    segment_seconds: float
    entry: str = "clips"
    clips: Mapping[str, int] = field(default_factory=dict)
    words: int = 0
    folder: str = ""

    def base(self, root: Path) -> Path:
        """Return the folder that contains the text files: the root, or `folder` below it."""
        inner = root / self.folder
        return inner if any((inner / name).is_file() for name in self.texts) else root


_WHOLE_NAMES = {"train": "train", "val": "val", "test": "test"}
_AVSBENCH = (
    "the AVSBench data set is obtained from the page of its authors (Zhou et al., 'Audio-Visual Segmentation', ECCV "
    "2022), who send the processed videos on request: "
)

OFFICIAL = {
    "ave": Official(
        title="AVE",
        obtained="the AVE data set is obtained from the page of its authors (Tian et al., 'Audio-Visual Event "
        "Localization in Unconstrained Videos', ECCV 2018): Annotations.txt, trainSet.txt, valSet.txt, testSet.txt and "
        "the folder AVE/",
        texts={
            "trainSet.txt": TextFile(3339, "365ce3f86d2990f48f6591361dea8aeceed6007bffe1a1f9d26cff42a313e80f"),
            "valSet.txt": TextFile(402, "057c08f71407b4c68912793a3dc29631789afd0be2738cdd0f93eb2f54c0ce54"),
            "testSet.txt": TextFile(402, "49c3c780e53c16cc94f2acc23bc992626d9143ce292653196084ebdff93bb687"),
            "Annotations.txt": TextFile(
                4143, "c56cdd88e7acb713fc70718855241dc66d49fd0a99229f08db60785fd6ef17e4", header=True
            ),
        },
        splits={"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"},
        classes=28,
        segments=10,
        segment_seconds=1.0,
    ),
    "avsbench_s4": Official(
        title="AVSBench S4",
        obtained=_AVSBENCH + "s4_meta_data.csv and s4_data/ with visual_frames/, audio_wav/ and gt_masks/",
        texts={"s4_meta_data.csv": TextFile(4932, header=True)},
        splits=_WHOLE_NAMES,
        classes=1,
        segments=5,
        segment_seconds=1.0,
        clips={"train": 3452, "val": 740, "test": 740},
        folder="Single-source",
    ),
    "avsbench_ms3": Official(
        title="AVSBench MS3",
        obtained=_AVSBENCH + "ms3_meta_data.csv and ms3_data/ with visual_frames/, audio_wav/ and gt_masks/",
        texts={"ms3_meta_data.csv": TextFile(424, header=True)},
        splits=_WHOLE_NAMES,
        classes=1,
        segments=5,
        segment_seconds=1.0,
        clips={"train": 296, "val": 64, "test": 64},
        folder="Multi-sources",
    ),
    "music_avqa": Official(
        title="MUSIC-AVQA",
        obtained="the MUSIC-AVQA data set is obtained from the page of its authors (Li et al., 'Learning to Answer "
        "Questions in Dynamic Audio-Visual Scenarios', CVPR 2022): avqa-train.json, avqa-val.json, avqa-test.json and "
        "the folders MUSIC-AVQA-videos-Real/ and MUCIS-AVQA-videos-Synthetic/",
        texts={
            "avqa-train.json": TextFile(32087, optional=True),
            "avqa-train_fake.json": TextFile(
                6233, "0d71d4d9873ff50b8bd56c6b7792903797f2822837d3f0a06f6d1b44f7c41d2a", optional=True
            ),
            "avqa-val.json": TextFile(4595, "9eaec71cfc122c772660e5886601f6361277d802703cab0c5c19f72e6b61f63e"),
            "avqa-test.json": TextFile(9185, "e0a53d47d526cb24b262f9eb03bfd9555520e5e891d6d8bd4eedaa4b6a767c4b"),
        },
        splits={"train": "avqa-train.json", "val": "avqa-val.json", "test": "avqa-test.json"},
        classes=42,
        segments=10,
        segment_seconds=6.0,
        entry="questions",
        words=92,
    ),
    "actions": Official(
        title="action recognition",
        obtained="labelled videos of any data set can be used: UCF101, Kinetics-Sounds and VGGSound are obtained from "
        "the pages of their authors; docs/task_cards/action_recognition.md describes the layout of the folder",
        texts={},
        splits=_WHOLE_NAMES,
        classes=None,
        segments=10,
        segment_seconds=1.0,
    ),
}
"""The official data sets by the name of their format (`data.format`)."""
