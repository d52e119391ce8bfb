"""IoU and F-score of masks: against hand-computed values, a literal slow form, and other batch sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lavish.metrics import masks as metrics


def frame(*values: float) -> Tensor:
    """A frame of 2 x 2 pixels."""
    return torch.tensor(values, dtype=torch.float32).view(1, 2, 2)


def curves(probabilities: Tensor, masks: Tensor) -> np.ndarray:
    return metrics.f_curves(metrics.count_pixels(probabilities, masks))


def random_frames(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Frames with ties at thresholds, and a third of them without an object."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(number, 6, 7, generator=generator)
    probabilities[:, :2] = metrics.thresholds()[torch.randint(0, 255, (number, 2, 7), generator=generator)]
    masks = (torch.rand(number, 6, 7, generator=generator) < 0.3).to(torch.uint8)
    masks[::3] = 0
    return probabilities, masks


def literal_f_curve(probabilities: Tensor, mask: Tensor) -> list[float]:
    """One frame, one pass a threshold."""
    curve = []
    for threshold in metrics.thresholds().tolist():
        predicted = probabilities.double() >= threshold
        right = (predicted & (mask > 0)).sum().item()
        precision, recall = right / (predicted.sum().item() + 1e-20), right / (mask.sum().item() + 1e-20)
        below = 0.3 * precision + recall
        curve.append(1.3 * precision * recall / below if below > 0 else 0.0)
    return curve


def test_thresholds_are_those_of_the_published_code() -> None:
    thresholds = metrics.thresholds()
    assert len(thresholds) == 255
    assert thresholds[0] == 0
    assert thresholds[-1] == 1
    assert torch.allclose(thresholds, torch.arange(255) / 254)


@pytest.mark.parametrize(
    ("probabilities", "mask", "expected"),
    [
        ((0.9, 0.9, 0.1, 0.1), (1, 0, 1, 0), 1 / 3),
        ((0.9, 0.1, 0.9, 0.1), (1, 0, 1, 0), 1.0),
        ((0.1, 0.1, 0.1, 0.1), (1, 0, 1, 0), 0.0),
        ((0.9, 0.9, 0.9, 0.9), (1, 1, 1, 1), 1.0),
        ((0.1, 0.1, 0.1, 0.1), (0, 0, 0, 0), 1.0),  # no object and none predicted: all background agrees
        ((0.9, 0.1, 0.1, 0.1), (0, 0, 0, 0), 0.75),  # the share of the background left alone
        ((0.9, 0.9, 0.9, 0.9), (0, 0, 0, 0), 0.0),
        ((0.5, 0.5, 0.9, 0.1), (1, 1, 1, 0), 1 / 3),  # exactly at the threshold is not predicted
    ],
)
def test_iou_by_hand(probabilities: tuple[float, ...], mask: tuple[int, ...], expected: float) -> None:
    assert metrics.mask_iou(frame(*probabilities), frame(*mask)) == pytest.approx([expected], abs=1e-6)


def test_f_score_by_hand() -> None:
    mask = frame(1, 1, 0, 0)
    # At 0 everything is predicted, above 0.8 nothing right is left, between 0.2 and 0.6 the mask itself is.
    curve = curves(frame(0.6, 0.8, 0.2, 0.1), mask)[0]
    assert curve[0] == pytest.approx(1.3 * 0.5 * 1 / (0.3 * 0.5 + 1))
    assert curve[127] == pytest.approx(1.0)
    assert curve[180] == pytest.approx(1.3 * 1 * 0.5 / (0.3 * 1 + 0.5))  # 0.709: one of the two
    assert curve[254] == 0  # nothing predicted: 0/0 is 0
    assert 0.2 < metrics.best_threshold(curve[np.newaxis]) < 0.6


def test_a_probability_exactly_at_a_threshold_is_predicted() -> None:
    at = metrics.thresholds()[100].item()
    counts = metrics.count_pixels(frame(at, at, 0.0, 1.0), frame(1, 0, 0, 1))
    assert counts.predicted[0, [0, 1, 100, 101, 254]].tolist() == [4, 3, 3, 1, 1]
    assert counts.right[0, [0, 1, 100, 101, 254]].tolist() == [2, 2, 2, 1, 1]
    assert counts.true.tolist() == [2]


def test_counts_are_exact_next_to_every_threshold() -> None:
    at = metrics.thresholds().numpy()
    values = np.concatenate([at, np.nextafter(at, np.float32(-1)), np.nextafter(at, np.float32(2))]).clip(0, 1)
    counts = metrics.count_pixels(torch.from_numpy(values).view(1, 45, 17), torch.ones(1, 45, 17))
    np.testing.assert_array_equal(counts.predicted[0], (values[:, np.newaxis] >= at).sum(axis=0))


def test_frames_without_an_object_count_in_iou_and_not_in_f() -> None:
    probabilities = torch.cat([frame(0.9, 0.1, 0.1, 0.1), frame(0.9, 0.1, 0.1, 0.1)])
    masks = torch.cat([frame(0, 0, 0, 0), frame(1, 0, 0, 0)])
    found = curves(probabilities, masks)
    assert np.isnan(found[0]).all()
    assert 0.1 < metrics.best_threshold(found) < 0.9
    # As published: each frame a batch, the one without an object counts as 0.
    assert metrics.published_f_scores(found, np.array([0, 1]), 2).tolist() == pytest.approx([0.0, 1.0])
    assert metrics.published_f_scores(found, np.array([0, 0]), 1).tolist() == pytest.approx([1.0])
    assert metrics.best_threshold(found[:1]) == 0.5  # nothing to choose it by
    assert metrics.mask_iou(probabilities, masks).tolist() == pytest.approx([0.75, 1.0], abs=1e-6)


def test_the_fast_form_equals_the_literal_one() -> None:
    probabilities, masks = random_frames(9)
    found = curves(probabilities, masks)
    for curve, p, mask in zip(found, probabilities, masks, strict=True):
        if mask.any():
            np.testing.assert_allclose(curve, literal_f_curve(p, mask), rtol=1e-12)
        else:
            assert np.isnan(curve).all()
    ious = metrics.iou_curves(metrics.count_pixels(probabilities, masks))
    for k in (0, 1, 90, 127, 253, 254):
        # "At least t_k" is "above the float before it".
        below = np.nextafter(metrics.thresholds()[k].numpy(), np.float32(-1)).item()
        np.testing.assert_allclose(ious[:, k], metrics.mask_iou(probabilities, masks, below), rtol=1e-12)


def test_the_well_defined_form_knows_no_batches_and_the_published_one_depends_on_them() -> None:
    probabilities, masks = random_frames(12, seed=1)
    whole = curves(probabilities, masks)
    iou = metrics.mask_iou(probabilities, masks)
    published_f, published_iou = set(), set()
    for size in (1, 4, 5, 12):
        parts = [(probabilities[i : i + size], masks[i : i + size]) for i in range(0, 12, size)]
        found = np.concatenate([curves(*part) for part in parts])
        np.testing.assert_array_equal(found, whole)
        assert metrics.best_threshold(found) == metrics.best_threshold(whole)
        assert np.concatenate([metrics.mask_iou(*part) for part in parts]).mean() == iou.mean()
        groups = np.arange(12) // size
        published_f.add(round(float(metrics.published_f_scores(whole, groups, len(parts)).mean()), 6))
        published_iou.add(round(float(metrics.group_means(iou, groups, len(parts)).mean()), 6))
    assert len(published_f) == 4
    # Batches of 1, 4 and 12 weigh frames alike; those of 5, 5 and 2 do not.
    assert len(published_iou) == 2


def test_group_means_leave_out_what_does_not_count() -> None:
    means = metrics.group_means(np.array([1.0, 3.0, np.nan, 5.0]), np.array([0, 0, 1, 3]), 4)
    np.testing.assert_array_equal(means, [2.0, np.nan, np.nan, 5.0])


def test_the_best_threshold_of_several_is_the_one_in_the_middle() -> None:
    curve = np.zeros(255)
    curve[[3, 100, 140]] = 1
    assert metrics.best_threshold(np.stack([curve, np.full(255, np.nan), curve])) == 140 / 254
    assert metrics.best_threshold(np.ones((1, 255))) == 127 / 254


def test_every_threshold_is_found_again_after_it_was_stored() -> None:
    stored = torch.tensor([k / 254 for k in range(255)])
    assert [metrics.threshold_index(value.item()) for value in stored] == list(range(255))


def test_no_frames_are_counted_as_none() -> None:
    counts = metrics.count_pixels(torch.empty(0, 2, 2), torch.empty(0, 2, 2))
    assert counts.predicted.shape == (0, 255)
    assert metrics.best_threshold(metrics.f_curves(counts)) == 0.5
