"""Validation of configuration values, with errors that name the file, the key and the nearest valid one."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, RootModel, ValidationError

from lavish.config.schema import Config
from lavish.errors import LavishError, did_you_mean

T = TypeVar("T", bound=BaseModel)

# Former names of keys, and of the values that select an alternative.
_RENAMED_KEYS = {"steps": "segments", "step_seconds": "segment_seconds", "step": "segment"}
_RENAMED_TAGS = {"examples": "predicted_masks"}


def parse(model: type[T], values: Any, where: str) -> T:
    """Validate `values`; a :class:`LavishError` names `where`, every wrong key and the nearest valid one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"  {_explain(model, item)}" for item in error.errors()]
        raise LavishError(f"{where}:\n" + "\n".join(lines)) from None


def _explain(model: type[BaseModel], error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    path = ".".join(location) or "(top level)"
    if error["type"] == "extra_forbidden":
        known, renamed = _fields_at(model, error["loc"][:-1]), _RENAMED_KEYS.get(location[-1])
        if renamed in known:
            return f"key '{path}' is now called '{renamed}': rename it"
        if location[-1] in known:  # of another alternative than the one that is selected
            return f"key '{path}': '{location[-2]}' has no '{location[-1]}': remove it"
        return f"unknown key '{path}'{did_you_mean(location[-1], known)}"
    if error["type"] == "union_tag_invalid":
        tag, key = error["ctx"]["tag"], error["ctx"]["discriminator"].strip("'")
        if tag in _RENAMED_TAGS:
            return f"key '{path}.{key}': '{tag}' is now called '{_RENAMED_TAGS[tag]}': rename it"
    if error["type"] == "missing":
        return f"missing key '{path}'"
    message = error["msg"].removeprefix("Value error, ")
    return f"key '{path}': {message}"


def _fields_at(model: Any, location: tuple[Any, ...]) -> set[str]:
    """Return the names of the fields of the model at `location`; of a union, those of all alternatives."""
    found = {model} if isinstance(model, type) and issubclass(model, Config) else set()
    if isinstance(model, type) and issubclass(model, RootModel):
        found = set(_models_in(model.model_fields["root"].annotation))
    for part in location:
        step: set[type[Config]] = set()
        for candidate in found:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                step |= set(_models_in(field.annotation))
        # Pydantic adds the tag of the selected alternative to the path. It is not a field: skip it.
        found = step or found
    return {name for candidate in found for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
