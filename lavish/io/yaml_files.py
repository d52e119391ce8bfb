"""Reading YAML files, of which JSON files are a kind, as their authors mean them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from lavish.errors import LavishError

# Aliases of aliases stand for any number of values, and one within what it names for infinitely many.
_MOST_VALUES = 1_000_000


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with two changes: `4e-6` is a number, as in JSON and YAML 1.2, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"key '{key.value}' is there twice: remove one", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, ValueError):  # of `2001-02-30`, `0x_`, `!!bool 7` and the like
            problem = f"'{str(node.value)[:40]}' is no value of its type: put text into quotes"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from None


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML or JSON file.

    Raises:
        LavishError: the file is not UTF-8 or not YAML, a key is there twice, or its aliases stand for too many values.
        FileNotFoundError: there is no such file.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LavishError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise LavishError(f"{path}: not valid YAML: nested too deeply") from None
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise LavishError(f"{path}: more than {_MOST_VALUES:,} values: write out what its aliases (*) stand for")
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return content
