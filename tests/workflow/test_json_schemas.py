"""The JSON schemas for editors agree with the classes that validate configurations."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from harness import ROOT

from lavish.planning import json_schemas as schemas


@pytest.mark.parametrize("name", ["config.schema.json", "table.schema.json", "conditions.schema.json"])
def test_schemas_are_current(name: str) -> None:
    stored = (ROOT / schemas.FOLDER / name).read_text()
    assert stored == schemas.generate()[name], "call `make schemas`"


FILES = [*(ROOT / "config").glob("*.yaml"), *(ROOT / "config/tables").glob("*.yaml")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_configuration_files_fit_their_schema(file) -> None:
    kinds = {"tables": "table", "conditions": "conditions"}
    schema = f"{kinds.get(file.parent.name) or kinds.get(file.stem, 'config')}.schema.json"
    assert f"schemas/{schema}" in file.read_text().splitlines()[0]
    validator = jsonschema.Draft202012Validator(json.loads(schemas.generate()[schema]))
    assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []


def test_schema_rejects_invalid_configurations() -> None:
    values = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    values["defaults"]["fusion"]["directon"] = "both"
    validator = jsonschema.Draft202012Validator(json.loads(schemas.generate()["config.schema.json"]))
    assert any("directon" in error.message for error in validator.iter_errors(values))


def test_schema_rejects_invalid_conditions() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schemas.generate()["conditions.schema.json"]))
    good = {"title": "Dark", "kind": "darken", "factor": 0.1}
    assert not [*validator.iter_errors({"dark": good})]
    for wrong in ({"dark": good | {"factr": 1}}, {"dark": {"title": "Dark", "kind": "darken"}}, {"Dark one": good}):
        assert [*validator.iter_errors(wrong)], wrong
