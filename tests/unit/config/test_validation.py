"""Errors of configuration files."""

from __future__ import annotations

import pytest

from lavish.config.schema import DataConfig
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.planning.tables.schema import TableConfig


@pytest.mark.parametrize(("old", "new"), [("steps", "segments"), ("step_seconds", "segment_seconds")])
def test_former_keys_of_data(old, new):
    with pytest.raises(LavishError, match=rf"a\.yaml:\n  key '{old}' is now called '{new}': rename it"):
        parse(DataConfig, {"name": "ave", "root": "x", "num_classes": 2, old: 3}, "a.yaml")


def test_former_keys_of_figures():
    def message(figure: dict[str, object]) -> str:
        with pytest.raises(LavishError) as error:
            parse(TableConfig, {"figures": {"masks": {"title": "Masks", "section": "All", **figure}}}, "a.yaml")
        return str(error.value)

    assert "key 'figures.masks.kind': 'examples' is now called 'predicted_masks'" in message({"kind": "examples"})
    assert "step' is now called 'segment': rename it" in message({"kind": "predicted_masks", "step": 0})


def test_unknown_key_is_answered_with_the_nearest_one():
    with pytest.raises(LavishError, match=r"unknown key 'segmnts' \(did you mean 'segments'\?\)"):
        parse(DataConfig, {"name": "ave", "root": "x", "num_classes": 2, "segmnts": 3}, "a.yaml")
