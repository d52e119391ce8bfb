from __future__ import annotations

import json
from pathlib import Path

import pytest

from lavish.errors import LavishError
from lavish.io.yaml_files import read_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "values.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("value", [4e-06, 1e20, 1.5e-07, 0.1, 3, "4e", "e5", True, None, "1.2.3"])
def test_numbers_and_texts_of_json_are_read_as_they_were_written(value: object, tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, json.dumps({"value": value}))) == {"value": value}


@pytest.mark.parametrize("text", ["4e-6", "4E-6", "4.e-6", "0.4e-5", "+4e-6"])
def test_a_number_without_a_point_is_a_number(text: str, tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, f"lr: {text}")) == {"lr": pytest.approx(4e-6)}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", '{"b": {"a": 1, "a": 1}}'])
def test_a_key_that_is_there_twice_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match=r"values\.yaml: .*\n?.*key 'a' is there twice: remove one"):
        read_yaml(write(tmp_path, text))


def test_merged_keys_may_be_replaced(tmp_path: Path) -> None:
    assert read_yaml(write(tmp_path, "a: &a {x: 1}\nb: {<<: *a, x: 2}\n"))["b"] == {"x": 2}


@pytest.mark.parametrize(
    "value",
    ["2001-02-30", "2001-01-01 99:00:00", "0x_", "9" * 5000, "!!int a", "!!float a", "!!bool a", "!!timestamp a"],
)
def test_a_value_that_is_none_of_its_type_is_named_with_its_line(value: str, tmp_path: Path) -> None:
    with pytest.raises(
        LavishError, match=r"(?s)values\.yaml: not valid YAML: '.*' is no value of its type.*line 2, col"
    ):
        read_yaml(write(tmp_path, f"a: 1\nb: {value}"))


@pytest.mark.parametrize("text", ["[" * 5000, "{a: " * 5000, "- " * 5000])
def test_values_in_too_many_others_are_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match=r"values\.yaml: not valid YAML: nested too deeply"):
        read_yaml(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "0: &0 [x, x]\n" + "".join(f"{n}: &{n} [*{n - 1}, *{n - 1}]\n" for n in range(1, 40)),
    ],
)
def test_aliases_that_stand_for_too_much_are_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(LavishError, match=r"values\.yaml: more than 1,000,000 values: write out what its aliases"):
        read_yaml(write(tmp_path, text))
    assert read_yaml(write(tmp_path, "a: &a [1]\nb: *a")) == {"a": [1], "b": [1]}
