"""Masks: what counts as the object, sizes, and what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lavish.data.decoding.masks import decode_masks
from lavish.data.formats.base import NOT_ANNOTATED

SQUARE = np.zeros((8, 8), np.uint8)
SQUARE[2:6, 4:8] = 1


def palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask * 3, "P")
    image.putpalette([0, 0, 0, 9, 9, 9, 50, 50, 50, 200, 0, 0])
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(SQUARE * 255),
        Image.fromarray(SQUARE),
        Image.fromarray(SQUARE.astype(bool)),
        palette(SQUARE),
        Image.fromarray(np.stack([SQUARE * 0, SQUARE * 128, SQUARE * 0], axis=-1)),
        Image.fromarray(np.stack([SQUARE * 7] * 3 + [SQUARE * 0 + 255], axis=-1)),
    ],
    ids=["black and white", "0 and 1", "bits", "palette", "colour", "opaque"],
)
def test_what_is_not_black_is_the_object(image: Image.Image, tmp_path: Path) -> None:
    image.save(tmp_path / "mask.png")
    masks, notes = decode_masks([tmp_path / "mask.png"], 8)
    assert np.array_equal(masks, SQUARE[None]) and not notes


def test_another_size_is_resized_without_values_between(tmp_path: Path) -> None:
    Image.fromarray(np.kron(SQUARE, np.ones((3, 5), np.uint8)) * 255).save(tmp_path / "mask.png")
    masks, notes = decode_masks([tmp_path / "mask.png"], 16)
    assert np.array_equal(masks[0], np.kron(SQUARE, np.ones((2, 2), np.uint8))) and not notes


def test_what_cannot_be_read_is_not_annotated_and_noted(tmp_path: Path) -> None:
    Image.fromarray(SQUARE * 255).save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    masks, notes = decode_masks([tmp_path / "whole.png", None, tmp_path / "none.png", tmp_path / "broken.png"], 8)
    assert np.array_equal(masks[0], SQUARE)
    assert (masks[1:] == NOT_ANNOTATED).all()
    assert notes == ["mask of segment 3 missing", "mask of segment 4 undecodable"]
