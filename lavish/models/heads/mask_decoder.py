"""The mask decoder of AVSBench: maps the stage maps of a backbone to one mask logit per pixel.

Zhou et al., "Audio-Visual Segmentation", ECCV 2022, arXiv 2207.05042; on the stages of Swin V2 as in LAVISH.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lavish.errors import LavishError
from lavish.models.resizing import Resizing

_CHANNELS = 256
_PROJECTED = (64, 128, 320, 512)  # channels of the projected stage maps, for _CHANNELS
_DILATIONS = (3, 6, 12, 18)
_FINEST = 4  # pixels of the frame to a position of the finest map
_LEAST = 8  # channels before the last layer
_MULTIPLE = 8  # what `channels` must be a multiple of, so that every width derived from it is whole


class MaskDecoder(nn.Module):
    """Projects the stage maps, builds a pyramid from them, and merges it from the coarsest map to the finest.

    With the published 256 channels and four levels at 224 pixels:

        X_i = bicubic resizing of Linear(stage map i -> 64/128/320/512) to 56/28/14/7 positions a side
        V_i = sum over dilations 3, 6, 12, 18 of Conv3x3(X_i -> 256)
        P_4 = up2(RCU_4(V_4)),   P_i = up2(RCU_i(P_{i+1} + RCU'_i(V_i))),   up2: bilinear, corners aligned
        logits = Conv1x1(32 -> 1) ReLU Conv3x3(128 -> 32) up2' Conv3x3(256 -> 128) P_1,   up2': corners not aligned

    All widths scale with `channels` (the last, 32, down to 8). With fewer levels the deepest stages remain, the last of
    them coarsest. A plain ViT's stages have one scale; resizing makes the pyramid.

    Args:
        stages: (channels, rows, columns) of the backbone's stage maps, the deepest last.
        frame_size: height and width of the masks, pixels; a multiple of 4 * 2**(levels - 1), so that sizes double.
        channels: of the merged maps, a multiple of 8.
        levels: maps of the pyramid, at 1/4, 1/8, ... of the frame.

    Raises:
        LavishError: for sizes that do not fit together.
    """

    def __init__(
        self, stages: Sequence[tuple[int, int, int]], frame_size: int, *, channels: int = _CHANNELS, levels: int = 4
    ) -> None:
        super().__init__()
        _check(len(stages), frame_size, channels, levels)
        self.channels = channels
        self.sizes = [frame_size // (_FINEST * 2**level) for level in range(levels)]
        widths = [stage[0] for stage in stages[-levels:]]
        projected = [width * channels // _CHANNELS for width in _PROJECTED[-levels:]]
        resizings = [
            Resizing(stage[1:], (size, size)) for stage, size in zip(stages[-levels:], self.sizes, strict=True)
        ]
        self.resizings = nn.ModuleList(resizings)
        self.projections = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, projected, strict=True))
        self.necks = nn.ModuleList(DilatedConvolutions(width, channels) for width in projected)
        # The coarsest map uses only the first unit; the published code also declares a second one.
        self.enter = nn.ModuleList(ResidualUnit(channels) for _ in range(levels - 1))
        self.leave = nn.ModuleList(ResidualUnit(channels) for _ in range(levels))
        self.reduce = nn.Conv2d(channels, channels // 2, 3, padding=1)
        # A ReLU follows: with one or two channels, all of them would often be zero.
        last = max(_LEAST, channels // 8)
        self.refine = nn.Conv2d(channels // 2, last, 3, padding=1)
        self.logits = nn.Conv2d(last, 1, 1)
        # Large maps with few channels: with channels_last a training step takes 17 instead of
        # 29 ms (16 masks of 48 pixels, 32 channels, one core).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def pyramid(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return V_1, V_2, ... (B, channels, size, size), finest first, of all stage maps (B, C_s, rows, columns)."""
        parts = zip(self.projections, self.resizings, self.necks, maps[-len(self.sizes) :], strict=True)
        return [
            neck(resizing(projection(stage.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))
            for projection, resizing, neck, stage in parts
        ]

    def merge(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Return mask logits (B, frame_size, frame_size) of what :meth:`pyramid` returned."""
        merged = pyramid[-1]
        for level in reversed(range(len(pyramid))):
            if level < len(self.enter):
                merged = merged + self.enter[level](pyramid[level])
            merged = functional.interpolate(
                self.leave[level](merged), scale_factor=2, mode="bilinear", align_corners=True
            )
        merged = functional.interpolate(self.reduce(merged), scale_factor=2, mode="bilinear")
        return self.logits(functional.relu(self.refine(merged))).squeeze(1)

    def unused_parameters(self) -> int:
        """Parameters of the residual unit that the published decoder declares for the coarsest map and never uses."""
        return sum(parameter.numel() for parameter in self.leave[-1].parameters())


class DilatedConvolutions(nn.Module):
    """The sum of four parallel 3x3 convolutions with dilations 3, 6, 12 and 18, weights from N(0, 0.01)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, channels, 3, dilation=dilation, padding=dilation) for dilation in _DILATIONS]
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, std=0.01)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, width, rows, columns) into (B, channels, rows, columns)."""
        # If the dilation exceeds the map, only the middle tap reads the map: together, such convolutions are
        # one 1x1 convolution. The other taps have a gradient of zero in both forms.
        pairs = list(zip(_DILATIONS, self.convolutions, strict=True))
        narrow: list[Any] = [convolution for dilation, convolution in pairs if dilation >= max(x.shape[-2:])]
        parts: list[Tensor] = [convolution(x) for _, convolution in pairs[: len(pairs) - len(narrow)]]
        if narrow:
            weight = torch.stack([convolution.weight[:, :, 1:2, 1:2] for convolution in narrow]).sum(dim=0)
            bias = torch.stack([convolution.bias for convolution in narrow]).sum(dim=0)
            parts.append(functional.conv2d(x, weight, bias))
        return reduce(add, parts)


class ResidualUnit(nn.Module):
    """Two 3x3 convolutions and a skip; the skip carries ReLU(x), because the published ReLU works in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, channels, rows, columns)."""
        rectified = functional.relu(x)
        return self.second(functional.relu(self.first(rectified))) + rectified


def _check(stages: int, frame_size: int, channels: int, levels: int) -> None:
    most = min(stages, len(_PROJECTED))
    if not 1 <= levels <= most:
        raise LavishError(f"task.options.levels: {levels}, but a mask decoder has 1 to {most} levels here")
    if channels < _MULTIPLE or channels % _MULTIPLE:
        raise LavishError(f"task.options.channels: {channels} is not a multiple of {_MULTIPLE}: give one")
    needed = _FINEST * 2 ** (levels - 1)
    if frame_size % needed:
        fitting = [n for n in range(1, levels) if frame_size % (_FINEST * 2 ** (n - 1)) == 0]
        fewer = f"set task.options.levels to {fitting[-1]}, or " if fitting else ""
        raise LavishError(
            f"task.options.levels: {levels} levels need frames of a multiple of {needed} pixels, but data.frame_size "
            f"is {frame_size}: {fewer}set data.frame_size to such a multiple"
        )
