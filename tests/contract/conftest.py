"""Every method meets every backbone."""

from __future__ import annotations

import pytest

from lavish.checks.methods import BACKBONES, OPTIONS, Subject
from lavish.methods.registry import methods
from lavish.models.backbones.base import Backbone
from tests.contract.expectations import METHODS


@pytest.fixture(params=BACKBONES)
def backbone_name(request) -> str:
    return request.param


@pytest.fixture
def backbone(backbone_name) -> Backbone:
    return Subject("none", backbone_name).frozen_backbone()


@pytest.fixture(params=methods())
def method(request) -> str:
    assert request.param in METHODS, f"tests/contract/expectations.py has no row for '{request.param}'"
    return request.param


@pytest.fixture
def subject(backbone_name, method) -> Subject:
    """The method on the backbone, with the options that fit the small backbones."""
    return Subject(method, backbone_name, OPTIONS.get(method, {}))
