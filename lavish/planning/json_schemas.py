"""JSON schemas of the configuration files, generated from :mod:`lavish.config.schema` for editors and readers.

``python -m lavish.planning.json_schemas`` writes them to workflow/schemas/; a test compares them with the classes. The
workflow itself validates with the classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lavish.config.conditions import Conditions
from lavish.config.schema import RunConfig, WorkflowConfig
from lavish.planning.tables.schema import TableConfig

FOLDER = Path("workflow/schemas")
_DEFINITIONS = "#/$defs/{model}"


def generate() -> dict[str, str]:
    """Return the text of each schema by its file name."""
    config = _schema(WorkflowConfig)
    del config["required"]  # a file that is merged into another one has only the differing keys
    config["properties"]["defaults"] = _partial_run("The run configuration that rows start from.")
    title = config["$defs"]["TaskDefaults"]["properties"]["title"]
    table = _schema(TableConfig)
    for schema in (config, table):
        choice = schema["$defs"]["RowChoice"]["properties"]
        choice["set"] = _partial_run("Changes to the row, such as `backbone` and sizes in `data`.")
        choice["set_by_task"]["additionalProperties"] = _partial_run("Changes for this task.")
    row = table["$defs"]["RowConfig"]["properties"]
    row["set"] = _partial_run("Changes to the task's defaults; without it the row repeats a variant from above.")
    row["set_by_task"]["additionalProperties"] = _partial_run("Changes for this task.")
    for schema in (config, table):
        schema["$defs"] = {**schema.get("$defs", {}), **_partial_definitions()}
    run = config["$defs"]["RunConfig"]
    config["$defs"]["TaskDefaults"] = {
        **run,
        "title": "TaskDefaults",
        "description": "A task's changes to the defaults, and its name in tables.",
        "properties": {"title": title, **{key: _or_null(value) for key, value in run["properties"].items()}},
    }
    conditions = _schema(Conditions) | {"additionalProperties": False}  # names of another form
    return {
        "config.schema.json": _text(config),
        "table.schema.json": _text(table),
        "conditions.schema.json": _text(conditions),
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_DEFINITIONS)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _partial_run(description: str) -> dict[str, Any]:
    return {"$ref": _DEFINITIONS.format(model="RunConfig"), "description": description}


def _partial_definitions() -> dict[str, Any]:
    """Return the run configuration and its parts without required keys: files and rows have only the differing keys."""
    _, schema = models_json_schema([(RunConfig, "validation")], ref_template=_DEFINITIONS)
    return {name: _without_required(definition) for name, definition in schema["$defs"].items()}


def _or_null(node: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a task's key, which null sets back to the default."""
    return {"anyOf": [node, {"type": "null"}]}


def _without_required(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_required(item) for item in node]
    if not isinstance(node, dict):
        return node
    # Without its tag a mapping may match several alternatives; the file below it decides.
    renamed = {"anyOf" if key == "oneOf" else key: value for key, value in node.items()}
    return {key: _without_required(value) for key, value in renamed.items() if key not in ("required", "discriminator")}


def _text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


def main() -> None:
    """Write the schemas below the working directory."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
