"""Every key of the configuration and every argument of a method is used somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from lavish.config import schema as config
from lavish.config.options import method_class
from lavish.config.sources import available, method_path
from lavish.models.audio_encoders.build import KINDS

ROOT = Path(__file__).resolve().parents[3]
MODELS = [
    value
    for value in vars(config).values()
    if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == config.__name__
]
METHODS = [(kind, method) for kind in ("methods", "tasks") for method in available(kind)]
METHODS += [("audio_encoders", kind) for kind in KINDS]
# Read together, as the keyword arguments of `log_mels`; that function has to take each of them.
UNPACKED = {"SpectrogramConfig": ROOT / "lavish/data/decoding/spectrogram.py"}


def names_read() -> set[str]:
    """Return every attribute read and every string used as a key outside of class bodies of the configuration."""
    found: set[str] = set()
    for path in (ROOT / "lavish").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.name != "config.py":
                found.add(node.value)
    for path in (ROOT / "workflow").rglob("*.smk"):
        found |= set(re.findall(r"\.(\w+)", path.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_of_the_configuration_is_read(model):
    if model.__name__ in UNPACKED:
        source = UNPACKED[model.__name__].read_text(encoding="utf-8")
        unread = {name for name in model.model_fields if not re.search(rf"\b{name}\b", source)}
    else:
        unread = set(model.model_fields) - names_read()
    assert not unread, f"{model.__name__}: nothing reads {sorted(unread)}"


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_every_option_of_a_method_is_used(kind, method):
    tree = method_class(kind, method_path(kind, method))
    constructor = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    used = {
        node.id
        for statement in constructor.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    unread = {argument.arg for argument in constructor.args.kwonlyargs} - used
    assert not unread, f"{kind[:-1]} '{method}': nothing reads {sorted(unread)}"
