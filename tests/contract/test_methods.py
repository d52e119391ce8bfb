"""What holds for every method on every backbone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lavish.checks.methods import CHECKS, SEGMENTS, check_cost_can_be_counted, example_images, trained
from lavish.learner.encoder import TwoStreamEncoder
from lavish.methods import base
from lavish.methods.registry import methods
from tests.contract.expectations import METHODS, sizes


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method_passes(check, subject):
    if check is check_cost_can_be_counted and subject.backbone != "vit":
        pytest.skip("the operators of a method are the same on every backbone, and counting takes seconds")
    check(subject)


@torch.no_grad()
def test_features_at_the_start_equal_those_of_the_backbone_where_expected(backbone, subject, method):
    frozen = TwoStreamEncoder(backbone, method="none")(example_images(), SEGMENTS)
    adapted = subject.encoder().eval()(example_images(), SEGMENTS)
    unchanged = all(
        found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5)
        for stream, features in adapted.items()
        for found, expected in ((features.tokens, frozen[stream].tokens), (features.pooled, frozen[stream].pooled))
    )
    assert unchanged == METHODS[method].frozen_at_start


def test_trainable_parameters_are_the_closed_formulas(backbone, subject, method):
    measured = sum(p.numel() for p in trained(subject.encoder()).values())
    assert measured == METHODS[method].parameters(sizes(backbone), SEGMENTS)


FILES = sorted(Path(base.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_method_is_one_file_of_less_than_200_lines_that_imports_no_other_method(path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") < 200
    assert not set(re.findall(r"lavish\.methods(?:\.| import )(\w+)", source)) & set(methods())
