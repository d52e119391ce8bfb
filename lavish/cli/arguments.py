"""Reading what command line options hold: configuration as JSON text, or the path of a JSON or YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from lavish.config.schema import Config
from lavish.config.validation import parse
from lavish.errors import LavishError

T = TypeVar("T", bound=Config)


def read_values(text: str, option: str) -> Any:
    """Return what `--config` or `--table` holds: JSON text, or the content of a JSON or YAML file."""
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise LavishError(f"{option}: not valid JSON: {error}") from None
    path = Path(text)
    if not path.is_file():
        raise LavishError(f"{option}: no file '{path}' (give JSON text that begins with '{{', or a path)")
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except yaml.YAMLError as error:
        raise LavishError(f"{path}: not valid YAML: {error}") from None


def read_config(text: str, model: type[T]) -> T:
    """Return the configuration that `--config` holds; a LavishError names file and key."""
    where = "--config" if text.lstrip().startswith("{") else text
    return parse(model, read_values(text, "--config"), where)
