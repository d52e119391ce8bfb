from __future__ import annotations

import pytest

from lavish.errors import LavishError
from lavish.io.json_texts import parse_json


def test_a_key_that_json_text_has_twice_is_an_error_with_its_line() -> None:
    text = '[\n {"a": {"b": 1}, "b": "{ \\"b\\": 1, \\"b\\": 2 }"},\n {"b": 1,\n  "c": ["b", {}],\n  "\\u0062": 2}\n]'
    with pytest.raises(LavishError, match=r"^list\.json, line 5: key 'b' is there twice: remove one$"):
        parse_json(text, "list.json")
    assert parse_json(text.replace("\\u0062", "d"), "list.json")[1] == {"b": 1, "c": ["b", {}], "d": 2}
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000, "list.json")
