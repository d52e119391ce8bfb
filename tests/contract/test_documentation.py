"""The methods that docs/adding_an_adapter.md writes pass the contract checks and have the parameters that it states."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lavish.checks.method import BACKBONES, CHECKS, SEGMENTS, Subject, preserves_output, small_backbone, trainable
from lavish.config.options import add_source
from lavish.config.sources import forget_files
from tests.contract import expectations

PAGE = (Path(__file__).resolve().parents[2] / "docs/adding_an_adapter.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`lavish/methods/(\w+)\.py`:\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL))
ROWS = dict(re.findall(r'^    "(\w+)": (Expectation\(.*\)),', PAGE, flags=re.MULTILINE))


def test_every_method_of_the_page_has_a_row_of_the_contract_tests():
    assert FILES and FILES.keys() == ROWS.keys()


@pytest.fixture(params=FILES)
def method(request, tmp_path):
    file = tmp_path / f"{request.param}.py"
    file.write_text(FILES[request.param], encoding="utf-8")
    yield add_source("methods", file)
    forget_files()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_methods_of_the_page(method, backbone):
    expected = eval(ROWS[method], vars(expectations))
    subject = Subject(method, backbone)
    for check in CHECKS.values():
        check(subject)
    assert preserves_output(subject) == expected.frozen_at_start
    measured = sum(p.numel() for p in trainable(subject.encoder()).values())
    assert measured == expected.parameters(expectations.sizes(small_backbone(backbone)), SEGMENTS)
