"""Predicted masks: one line per test clip with its frame, its true mask and the masks of a section's rows."""

from __future__ import annotations

import textwrap
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lavish.data.formats.base import NOT_ANNOTATED
from lavish.errors import LavishError
from lavish.planning.tables.schema import PredictedMasksFigure
from lavish.reporting.comparison import TableSpec
from lavish.reporting.figures.style import NoResult
from lavish.reporting.overlays import overlay
from lavish.reporting.records import seed_directory

_SIDE = 1.25
"""Width and height of an image, inches."""
_ARRAYS = {"clips": 1, "frames": 5, "truth": 4, "predicted": 4}


@dataclass(frozen=True)
class ExamplePredictions:
    """The predictions of one training for some clips, as :mod:`lavish.training.examples` writes them."""

    clips: tuple[str, ...]
    frames: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]


def examples_file(run: Path, seed: int) -> Path:
    """Return the file with the example predictions of a training on the test split."""
    return seed_directory(run, seed) / "test" / "examples.npz"


def draw(table: TableSpec, task: str, options: PredictedMasksFigure) -> FigureCanvasAgg:
    """Draw all rows of `table`, each by its first seed; raises :class:`NoResult` if none has examples."""
    seed = table.seeds[0]
    found: dict[str, ExamplePredictions] = {}
    excluded = []
    for row in table.sections[0].rows:
        path = examples_file(row.runs[task].folder, seed)
        mark = " †" if row.runs[task].select_on == "test" else ""
        if path.is_file():
            found[row.label + mark] = read_examples(path)
        else:
            excluded.append(f"{row.label} (not run: seed{seed}/test/examples.npz is missing)")
    if not found:
        raise NoResult(excluded)
    first = next(iter(found.values()))
    for label, examples in found.items():
        if examples.clips != first.clips:
            raise LavishError(
                f"table '{table.name}': the examples of '{label}' are of other clips than the first row's"
            )
    segment = options.segment
    if segment >= first.frames.shape[1]:
        raise LavishError(
            f"table '{table.name}': a figure asks for segment {segment}, but clips have "
            f"{first.frames.shape[1]} segments"
        )
    lines = min(options.clips, len(first.clips))
    headings = ["Frame", "Truth", *found]
    figure = Figure(figsize=(_SIDE * len(headings), _SIDE * lines + 1.1), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(options.title, x=0.01, ha="left", fontsize=13)
    grid = figure.subplots(lines, len(headings), squeeze=False)
    for line in range(lines):
        frame, truth = first.frames[line, segment], first.truth[line, segment]
        masks = [examples.predicted[line, segment] / 255 for examples in found.values()]
        images = [frame, overlay(frame, truth == 1), *(overlay(frame, mask) for mask in masks)]
        for axes, image in zip(grid[line], images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
        if (truth == NOT_ANNOTATED).all():
            grid[line][1].text(0.5, 0.5, "not\nannotated", transform=grid[line][1].transAxes, ha="center", va="center")
    for axes, heading in zip(grid[0], headings, strict=True):
        axes.set_title("\n".join(textwrap.wrap(heading, 16)), fontsize=8)
    notes = [f"Test clips, segment {segment + 1}, seed {seed}; a stronger tint is a higher predicted probability."]
    notes += ["† selected on the test split."] if any("†" in label for label in found) else []
    notes += [f"Not drawn: {', '.join(excluded)}."] if excluded else []
    width = max(40, int(15 * figure.get_figwidth()))
    figure.supxlabel(textwrap.fill(" ".join(notes), width), fontsize=8, x=0.01, ha="left")
    return canvas


def read_examples(path: Path) -> ExamplePredictions:
    """Read what :func:`examples_file` names; LavishError if the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise LavishError(f"{path}: no examples ({error}): remove it and run its job again") from None
    for name, axes in _ARRAYS.items():
        if values[name].ndim != axes or len(values[name]) != len(values["clips"]):
            raise LavishError(f"{path}: '{name}' has the shape {values[name].shape}: remove it and run its job again")
    clips = tuple(str(clip) for clip in values.pop("clips"))
    return ExamplePredictions(clips, **values)
