"""Features of the frozen backbone as rows of numbers, which are computed once and read in every epoch.

Without a method, and with nothing of the backbone trained, the features of an image never change.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lavish.models.interfaces import StreamFeatures

if TYPE_CHECKING:
    from lavish.config.schema import KeptFeatures
    from lavish.models.backbones.base import Backbone


class FeatureLayout:
    """What a row of numbers holds of the features of one image: the pooled feature, then tokens of the last stages.

    Args:
        backbone: the frozen backbone.
        size: rows and columns of the images.
        kept: `pooled`: the pooled feature; `tokens`: also the tokens of the last block; `stages`: also those at the end
            of each other stage.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], kept: KeptFeatures) -> None:
        grids = backbone.grid_sizes(size)
        self.grids = tuple(grids[end] for end in backbone.stage_ends)
        self.shapes = [
            (backbone.num_prefix_tokens + prod(grid), backbone.widths[end])
            for grid, end in zip(self.grids, backbone.stage_ends, strict=True)
        ]
        self.first = {"pooled": len(self.shapes), "tokens": len(self.shapes) - 1, "stages": 0}[kept]
        """Index of the first stage that is kept."""
        sizes = [backbone.feature_dim, *map(prod, self.shapes[self.first :])]
        self._parts = [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]
        self.width = sum(sizes)
        """Numbers in a row."""

    def pack(self, features: StreamFeatures) -> Tensor:
        """Return the features of B images as rows (B, width)."""
        return torch.cat([features.pooled, *(stage.flatten(1) for stage in features.stages[self.first :])], dim=1)

    def unpack(self, rows: Tensor) -> StreamFeatures:
        """Undo :meth:`pack`; what a row does not hold has its shape, but no values, and cannot be computed with."""
        # Contiguous, as the backbone leaves them: the order of a sum may depend on the strides.
        pooled, *kept = (rows[:, part].contiguous() for part in self._parts)
        absent = (rows.new_empty((len(rows), *shape), device="meta") for shape in self.shapes[: self.first])
        present = (stage.unflatten(1, shape) for stage, shape in zip(kept, self.shapes[self.first :], strict=True))
        stages = (*absent, *present)
        return StreamFeatures(pooled, stages[-1], stages, self.grids)
