"""Digests of the code of methods, tasks and audio encoders, which are part of the identities of runs.

A digest covers the file of a method and every module of this package's methods, models, tasks and metrics that it
imports, directly or through others. Comments, docstrings and layout do not count, nor does what a class says for the
plan of the workflow alone (`head_reads` of a task, `search_space` of a method). The base classes and registries are
shared by all and do not count either: a change of them that changes numbers raises
:data:`lavish.provenance.RECIPE_VERSION`, as it does everywhere else in the package.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lavish.config.sources import SourceError, method_path

_PACKAGE = Path(__file__).parents[1]
_COVERED = ("methods", "models", "tasks", "metrics")
_SHARED = ("base", "registry", "build")
_PLANNED = ("head_reads", "search_space")
"""Class attributes that say what is computed once or searched; they change no number of a given configuration."""


def code_digest(kind: str, name: str) -> str:
    """Return the first 16 hexadecimal digits of the sha256 over the code of a method, task or audio encoder.

    Args:
        kind: `methods`, `tasks` or `audio_encoders`.
        name: built-in or from outside; of an external one only its file and what it imports from this package count.
    """
    files = {"": method_path(kind, name)}
    pending = list(files.values())
    while pending:
        for module, file in _imported(pending.pop()):
            if module not in files:
                files[module] = file
                pending.append(file)
    whole = [[module, _digest_of(file)] for module, file in sorted(files.items())]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def module_digest(name: str) -> str:
    """Return the first 16 digits of the sha256 over the code of one module of this package, such as `data.leaks`."""
    return _digest_of(_PACKAGE.joinpath(*name.split(".")).with_suffix(".py"))[:16]


def _digest_of(path: Path) -> str:
    return _parsed(path, path.stat().st_mtime_ns)[0]


def _imported(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and file of each module of the covered packages that a file imports."""
    for module in _parsed(path, path.stat().st_mtime_ns)[1]:
        parts = module.split(".")
        file = _PACKAGE.joinpath(*parts[1:]).with_suffix(".py")
        if parts[0] == "lavish" and parts[1:2] and parts[1] in _COVERED and parts[-1] not in _SHARED and file.is_file():
            yield module, file


@functools.cache
def _parsed(path: Path, _modified: int) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a file's code, and the names that it imports, as absolute paths of modules."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is no valid Python: {error}") from None
    text = json.dumps(_normalised(tree), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest(), tuple(_names(tree, path))


def _names(tree: ast.AST, path: Path) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level and _PACKAGE in path.parents:
                package = path.relative_to(_PACKAGE.parent).parts[: -node.level]
                start = ".".join(filter(None, [*package, start]))
            # Either may be the module: `from lavish.metrics import masks`, `from lavish.metrics.masks import f_score`.
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _normalised(node: Any) -> Any:
    """Return a syntax tree as JSON values, without strings that are statements and without empty fields.

    `ast.dump` is not used, because its text differs between versions of Python.
    """
    if isinstance(node, list):
        return [_normalised(item) for item in node if not _is_docstring(item)]
    if isinstance(node, ast.ClassDef):
        node = copy.copy(node)
        node.body = [item for item in node.body if not _is_planned(item)]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, _normalised(value)) for name, value in ast.iter_fields(node) if value is not None]
    return [type(node).__name__, *([name, value] for name, value in fields if value != [] and name != "kind")]


def _is_planned(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id in _PLANNED for target in targets)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
