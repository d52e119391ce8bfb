"""The contract of every method on every small backbone."""

from __future__ import annotations

import re

import pytest

from lavish.checks.method import CHECKS, SEGMENTS, preserves_output, trainable
from lavish.config.sources import built_in, method_path
from tests.contract.expectations import METHODS, sizes


@pytest.mark.parametrize("check", CHECKS)
def test_contract(subject, check):
    if check == "cost" and subject.backbone != "vit":
        pytest.skip("a method's operators are the same on every backbone, and counting takes seconds")
    CHECKS[check](subject)


def test_initial_output_equals_the_frozen_backbones_if_the_method_promises_it(subject, method):
    assert preserves_output(subject) == METHODS[method].frozen_at_start


def test_trainable_parameters_equal_the_closed_formulas(subject, method, backbone):
    measured = sum(p.numel() for p in trainable(subject.encoder()).values())
    assert measured == METHODS[method].parameters(sizes(backbone), SEGMENTS)


@pytest.mark.parametrize("name", built_in("methods"))
def test_a_method_is_one_file_of_less_than_200_lines_that_imports_no_other_method(name):
    text = method_path("methods", name).read_text(encoding="utf-8")
    assert text.count("\n") < 200
    imported = set(re.findall(r"lavish\.methods(?:\.| import )(\w+)", text))
    assert imported <= {"_shared", "base"}
