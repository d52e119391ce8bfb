"""Every method on every small backbone, and on pairs of them."""

from __future__ import annotations

import pytest

from lavish.checks.method import BACKBONES, SMALL_OPTIONS, Subject, small_backbone
from lavish.config.sources import built_in
from lavish.models.backbones.base import Backbone
from tests.contract.expectations import METHODS


@pytest.fixture(params=BACKBONES)
def backbone_name(request) -> str:
    return request.param


@pytest.fixture
def backbone(backbone_name) -> Backbone:
    return small_backbone(backbone_name)


@pytest.fixture(params=built_in("methods"))
def method(request) -> str:
    assert request.param in METHODS, f"tests/contract/expectations.py has no row for '{request.param}'"
    return request.param


@pytest.fixture
def subject(method, backbone_name) -> Subject:
    """The method on the backbone, with options that suit it."""
    return Subject(method, backbone_name, SMALL_OPTIONS.get(method, {}))
