"""The contract of every method on every small backbone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lavish.checks.method import CHECKS, PAIRS, SEGMENTS, SMALL_OPTIONS, Subject, preserves_output, trainable
from lavish.errors import LavishError
from lavish.methods import base
from tests.contract.expectations import METHODS, sizes

FILES = sorted(Path(base.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "cost"])
def test_contract(subject, check):
    CHECKS[check](subject)


REFUSED = {("mbt", "swinv2+htsat"), ("stg_cma", "swinv2+htsat")}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("check", CHECKS)
def test_contract_on_a_backbone_for_each_stream(method, pair, check):
    subject = Subject(method, pair, SMALL_OPTIONS.get(method, {}))
    if (method, pair) in REFUSED:
        with pytest.raises(LavishError, match=f"adapter '{method}'.* equal width"):
            subject.encoder()
    else:
        CHECKS[check](subject)


@pytest.mark.parametrize("pair", PAIRS)
def test_initial_output_equals_that_of_both_frozen_backbones(method, pair):
    if METHODS[method].frozen_at_start and (method, pair) not in REFUSED:
        assert preserves_output(Subject(method, pair, SMALL_OPTIONS.get(method, {})))


@pytest.mark.parametrize("backbone_name", ["vit"])  # the operators are equal on all backbones; counting takes seconds
def test_cost_can_be_counted(subject):
    CHECKS["cost"](subject)


def test_initial_output_equals_the_frozen_backbones_if_the_method_promises_it(subject, method):
    assert preserves_output(subject) == METHODS[method].frozen_at_start


def test_trainable_parameters_equal_the_closed_formulas(subject, method, backbone):
    measured = sum(p.numel() for p in trainable(subject.encoder()).values())
    assert measured == METHODS[method].parameters(sizes(backbone), SEGMENTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_method_is_one_file_of_less_than_200_lines_that_imports_no_other_method(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 200
    imported = set(re.findall(r"lavish\.methods(?:\.| import )(\w+)", text))
    assert imported <= {"_shared", "base"}
