"""What is known of official data sets without having them: where they come from and what they hold.

Standard library only: the workflow says it whenever a folder is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TextFile:
    """A list or an annotation file as its authors published it."""

    clips: int
    """Lines that name a clip."""
    sha256: str
    """Over its lines without surrounding white space, empty ones left out, joined by line feeds."""
    header: bool = False
    """Whether the first line names the columns."""


@dataclass(frozen=True)
class Official:
    """An official data set.

    Attributes:
        title: its name in messages.
        obtained: where it comes from and what a folder of it holds, as the beginning of a sentence.
        texts: text files by name.
        splits: the list of each split.
        classes: classes of events, background not counted.
        steps, step_seconds: segments of a clip and the length of one.
    """

    title: str
    obtained: str
    texts: Mapping[str, TextFile]
    splits: Mapping[str, str]
    classes: int
    steps: int
    step_seconds: float


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
        steps=10,
        step_seconds=1.0,
    )
}
"""By the name of the format (`data.format`)."""
