"""The options of adapters and tasks, read from the source of the class that takes them.

An option of a method is a keyword-only argument of its class, with a type and a default, so a method stays one file.
The signature is read from the syntax tree: importing the class would import torch, which takes longer than everything
else a dry run of the workflow does.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from lavish.config.measures import Measure
from lavish.config.sources import SourceError, add_file, entry_point_class, method_path
from lavish.errors import did_you_mean

_BASES = {"methods": ("Adapter", "Method"), "tasks": ("Task",), "audio_encoders": ("AudioEncoder",)}
_TYPES = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None), "Literal": Literal}


def option_model(kind: str, method: str) -> Any:
    """Return a pydantic model of the options of a method, task or audio encoder.

    Raises SourceError when there is none of this name, or its class has no keyword-only arguments that can be read.
    """
    path = method_path(kind, method)
    return _option_model(kind, method, path, path.stat().st_mtime_ns)


@functools.cache
def _option_model(kind: str, method: str, path: Path, _modified: int) -> Any:
    found, declared = method_class(kind, path).name, entry_point_class(kind, method)
    if declared not in (None, found):
        raise SourceError(f"entry point '{method}' names the class {declared}, but {path} defines {found}")
    arguments = _constructor(kind, path).args
    fields: dict[str, Any] = {}
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        where = f"{path}: option '{argument.arg}'"
        if argument.annotation is None or default is None:
            raise SourceError(f"{where} needs a type and a default")
        try:
            # Only names from _TYPES exist here: this reads a type, it runs no code of the file.
            annotation = eval(ast.unparse(argument.annotation), {"__builtins__": {}}, _TYPES)  # noqa: S307
        except (NameError, TypeError):
            written = ast.unparse(argument.annotation)
            raise SourceError(f"{where} has the type {written}: use only {', '.join(_TYPES)} and unions") from None
        try:
            fields[argument.arg] = (annotation, ast.literal_eval(default))
        except ValueError:
            raise SourceError(f"{where} has the default {ast.unparse(default)}: write a literal") from None
    return create_model(f"{method}_options", __config__=ConfigDict(extra="forbid"), **fields)


def check_options(kind: str, method: str, options: dict[str, Any]) -> None:
    """Raise SourceError, naming the nearest valid option, when `options` do not fit the method."""
    try:
        option_model(kind, method).model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = option_model(kind, method).model_fields
            raise SourceError(f"{kind[:-1]} '{method}' has no option '{name}'{did_you_mean(name, known)}") from None
        raise SourceError(f"option '{name}' of {kind[:-1]} '{method}': {first['msg']}") from None


def method_class(kind: str, path: Path) -> ast.ClassDef:
    """Return the syntax tree of the one class in `path` that derives from a base of the kind (`Adapter`, `Task`)."""
    return _method_class(kind, path, path.stat().st_mtime_ns)


@functools.cache
def _method_class(kind: str, path: Path, _modified: int) -> ast.ClassDef:
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no valid Python: {error}") from None
    found = [
        node for node in statements if isinstance(node, ast.ClassDef) and node.name[0] != "_" and _base(kind, node)
    ]
    if not found:
        raise SourceError(f"{path} defines no class that derives from {' or '.join(_BASES[kind])}")
    if len(found) > 1:
        names = ", ".join(node.name for node in found)
        raise SourceError(f"{path} defines several {kind}: {names}; write one file for each")
    return found[0]


def _base(kind: str, node: ast.ClassDef) -> str | None:
    """Return the base of the kind that a class names, as `Adapter` or as `base.Adapter`."""
    names = (ast.unparse(base).rpartition(".")[2] for base in node.bases)
    return next((name for name in names if name in _BASES[kind]), None)


def add_source(kind: str, path: Path) -> str:
    """Make the method or task in a file available and return its name; SourceError if the file does not define one."""
    if path.is_file():
        method_class(kind, path)
    add_file(kind, path)
    return path.stem


def has_sites(method: str) -> bool:
    """Tell whether an adapter sits at sublayers, so that `fusion.position` and `fusion.arrangement` can place it."""
    return _base("methods", method_class("methods", method_path("methods", method))) == "Adapter"


def class_attribute(kind: str, method: str, name: str, default: Any = None) -> Any:
    """Return a class attribute that the method's class sets to a literal, or `default` where it sets none."""
    value = _assigned(kind, method, name)
    return default if value is None else ast.literal_eval(value)


def _assigned(kind: str, method: str, name: str) -> ast.expr | None:
    for member in method_class(kind, method_path(kind, method)).body:
        targets = member.targets if isinstance(member, ast.Assign) else [getattr(member, "target", None)]
        if [target.id for target in targets if isinstance(target, ast.Name)] == [name]:
            return getattr(member, "value", None)
    return None


def task_measures(task: str) -> dict[str, Measure]:
    """Return the metric of a task, first, and its further measures by name, as its class defines them."""
    metric, measures = _assigned("tasks", task, "metric"), _assigned("tasks", task, "measures")
    path = method_path("tasks", task)
    if metric is None:
        raise SourceError(f"{path}: the class sets no `metric`, such as Measure('accuracy')")
    if measures is not None and not isinstance(measures, ast.Tuple):
        raise SourceError(f"{path}: `measures` is {ast.unparse(measures)}: write a tuple of Measure(...)")
    found = [_measure(path, node) for node in [metric, *(measures.elts if isinstance(measures, ast.Tuple) else [])]]
    return {measure.name: measure for measure in found}


def _measure(path: Path, node: ast.expr) -> Measure:
    if not isinstance(node, ast.Call) or ast.unparse(node.func).rpartition(".")[2] != "Measure":
        raise SourceError(
            f"{path}: {ast.unparse(node)} is no measure: write Measure('<name>'), with its unit, limits and direction "
            "unless it is a fraction of which more is better"
        )
    try:
        arguments = [ast.literal_eval(value) for value in node.args]
        return Measure(*arguments, **{str(one.arg): ast.literal_eval(one.value) for one in node.keywords})
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {ast.unparse(node)}: {error}") from None


def budget_option(method: str) -> str | None:
    """Return the option that sets how many parameters a method trains; None for a method without one."""
    return None if method == "none" else class_attribute("methods", method, "budget_option")


def summary(kind: str, method: str) -> str:
    """Return the first line of the docstring of the method's class."""
    documented = ast.get_docstring(method_class(kind, method_path(kind, method))) or ""
    return documented.partition("\n")[0]


def defines(kind: str, method: str, name: str) -> bool:
    """Tell whether the method's class defines a function of this name itself."""
    members = method_class(kind, method_path(kind, method)).body
    return any(isinstance(member, ast.FunctionDef) and member.name == name for member in members)


def is_cross_modal(method: str) -> bool:
    """Tell whether an adapter reads the other stream, where the direction of fusion lets it."""
    return class_attribute("methods", method, "cross_modal", has_sites(method))


def _constructor(kind: str, path: Path) -> ast.FunctionDef:
    for member in method_class(kind, path).body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return member
    raise SourceError(f"the class of {path} has no constructor to read options from")
