"""IoU and F-score of masks, as AVSBench publishes them and in a form that does not depend on batches.

Zhou et al., "Audio-Visual Segmentation", ECCV 2022, arXiv 2207.05042. Both follow from the number of predicted pixels
and of correctly predicted pixels (true positives) of each frame at each of 255 thresholds. One histogram of the
probabilities gives these numbers for all thresholds.

AVSBench's numbers are means over *batches*. The functions for them take `groups`, the batch of each frame; in the
published evaluation a batch is one clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NUM_THRESHOLDS = 255
BETA_SQUARED = 0.3
_IOU_EPSILON = 1e-7
_F_EPSILON = 1e-20


def thresholds() -> Tensor:
    """Return t_k = k/254 for k = 0 to 254 in float32. The published end, 1 - 1e-10, is 1 in that precision."""
    return torch.linspace(0, 1 - 1e-10, NUM_THRESHOLDS)


@dataclass(frozen=True)
class PixelCounts:
    """Pixel counts of N frames at every threshold: a pixel is predicted if its probability is at least t_k."""

    predicted: np.ndarray
    """(N, 255) predicted pixels."""
    right: np.ndarray
    """(N, 255) predicted pixels that belong to the object."""
    true: np.ndarray
    """(N,) pixels of the object."""
    pixels: int
    """Pixels of a frame."""


def count_pixels(probabilities: Tensor, masks: Tensor) -> PixelCounts:
    """Count pixels at every threshold.

    Args:
        probabilities: (N, H, W) float32 in [0, 1].
        masks: (N, H, W), 1 inside the object, else 0.
    """
    frames, pixels = len(masks), masks[0].numel() if len(masks) else 0
    bins = NUM_THRESHOLDS + 1
    reached = _thresholds_reached(probabilities).flatten(1)
    row = torch.arange(frames, device=masks.device).unsqueeze(1) * 2 + masks.flatten(1).to(torch.int64)
    histogram = torch.bincount((row * bins + reached).flatten(), minlength=frames * 2 * bins)
    counts = histogram.view(frames, 2, bins).cpu().numpy()
    # A pixel is predicted at t_k if it reaches more than k thresholds.
    above = counts[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]
    return PixelCounts(above.sum(axis=1), above[:, 1], counts[:, 1].sum(axis=-1), pixels)


def mask_iou(probabilities: Tensor, masks: Tensor, threshold: float = 0.5) -> np.ndarray:
    """Return the IoU (N,) of each frame, predicting where a probability is *above* the threshold, as AVSBench does.

    For a frame without an object it is the fraction of pixels that are not predicted.
    """
    predicted, true = (probabilities > threshold).flatten(1), masks.flatten(1) > 0
    numbers = [predicted.sum(dim=1), (predicted & true).sum(dim=1), true.sum(dim=1)]
    return _iou(*(number.cpu().numpy() for number in numbers), pixels=true.shape[1])


def iou_curves(counts: PixelCounts) -> np.ndarray:
    """Return the IoU (N, 255) of each frame at every threshold."""
    return _iou(counts.predicted, counts.right, counts.true[:, np.newaxis], pixels=counts.pixels)


def f_curves(counts: PixelCounts) -> np.ndarray:
    """Return the F-score (N, 255) of each frame at every threshold, beta^2 = 0.3; NaN for a frame without an object."""
    true = counts.true[:, np.newaxis]
    precision = counts.right / (counts.predicted + _F_EPSILON)
    recall = counts.right / (true + _F_EPSILON)
    below = BETA_SQUARED * precision + recall
    score = np.divide((1 + BETA_SQUARED) * precision * recall, below, out=np.zeros_like(below), where=below > 0)
    return np.where(true > 0, score, np.nan)


def group_means(values: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Return the means (number, ...) over the frames (N, ...) of each group; NaN for a group without frames.

    AVSBench's mIoU is the mean of the group means of the frames' IoU, with batches as groups. Frames whose row holds a
    NaN are excluded.

    Args:
        values: a number or a curve for each frame.
        groups: (N,) the group of each frame, 0 to number - 1.
        number: number of groups.
    """
    there = ~np.isnan(values).any(axis=tuple(range(1, values.ndim)))
    sums = np.zeros((number, *values.shape[1:]))
    np.add.at(sums, groups[there], values[there])
    counts = np.bincount(groups[there], minlength=number).astype(float)
    counts[counts == 0] = np.nan
    return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def published_f_scores(curves: np.ndarray, groups: np.ndarray, number: int) -> np.ndarray:
    """Return each group's F-score at its best threshold, 0 without an object; AVSBench's F-score is their mean.

    The threshold of each group is chosen with its ground truth, so the result depends on the grouping.

    Args:
        curves: (N, 255) as :func:`f_curves` returns them.
        groups: (N,) the group of each frame, 0 to number - 1.
        number: number of groups.
    """
    return np.nan_to_num(group_means(curves, groups, number).max(axis=1))


def best_threshold(curves: np.ndarray) -> float:
    """Return the threshold t_k where the mean of curves (N, 255) is highest; of several, the one closest to 0.5.

    Curves with NaN are excluded; 0.5 if none is left.
    """
    mean = group_means(curves, np.zeros(len(curves), dtype=np.int64), 1)[0]
    highest = np.flatnonzero(mean == mean.max())
    if not len(highest):
        return 0.5
    return int(highest[np.abs(highest - (NUM_THRESHOLDS - 1) / 2).argmin()]) / (NUM_THRESHOLDS - 1)


def threshold_index(threshold: float) -> int:
    """Return the index k of a threshold t_k."""
    return round(threshold * (NUM_THRESHOLDS - 1))


def _thresholds_reached(probabilities: Tensor) -> Tensor:
    """Return how many thresholds each probability reaches."""
    # The product gives the number up to rounding, which two comparisons correct: eight times as fast as a search.
    limits = torch.cat([thresholds(), torch.tensor([torch.inf])]).to(probabilities.device)
    near = (probabilities * (NUM_THRESHOLDS - 1)).to(torch.int32).clamp_(0, NUM_THRESHOLDS - 1)
    return near + (probabilities >= limits[near]).to(torch.int32) + (probabilities >= limits[near + 1]).to(torch.int32)


def _iou(predicted: np.ndarray, right: np.ndarray, true: np.ndarray, *, pixels: int) -> np.ndarray:
    union = predicted + true - right
    return np.where(true > 0, right / (union + _IOU_EPSILON), (pixels - predicted) / (pixels + _IOU_EPSILON))
