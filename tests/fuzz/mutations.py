"""Mutations of valid files, drawn by hypothesis: of bytes, of the lines and fields of text, of the values in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import yaml
from hypothesis import strategies as st

Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]
Mutation: TypeAlias = Callable[[Draw, bytes], bytes]

_TEXTS = (
    "", " ", "x", "0", "-1", "1", "nan", "inf", "-inf", "1e999", "1e-400", "4294967296", "9" * 30, "9" * 5000, "null",
    "true", "~", "..", "../../x", "/x", "a/b", "a\\b", "-x", "x" * 300, "\0", "\x0b\x0c\x1c\x85", "\u2028", "\ufeff",
    "\r", '"', "'", "{", "[", "&", "*", "!!python/name:os", "%", "#", ",", ":", "\u202e", "\U0001f600",
)  # fmt: skip
_VALUES = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\0", "../x",
    "x" * 300, "\u2028", "\ud800", [], [[]], [None], {}, {"x": 0}, {"": []},
)  # fmt: skip
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_ENCODINGS = ("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7")


@st.composite
def mutated(draw: Draw, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Draw the name of one of the files and a content that one to four mutations made of its own."""
    name = draw(st.sampled_from(sorted(files)))
    content = files[name]
    for mutation in draw(st.lists(st.sampled_from(_mutations(name)), min_size=1, max_size=4)):
        content = mutation(draw, content)
    return name, content


def _mutations(name: str) -> tuple[Mutation, ...]:
    suffix = name.rpartition(".")[2]
    if suffix in ("json", "yaml"):
        return (*_OF_TREES, *_OF_TREES, *_OF_TEXT, *_OF_BYTES)
    if suffix in ("csv", "txt"):
        return (*_OF_TEXT, *_OF_TEXT, *_OF_BYTES)
    return (*_OF_BYTES, _header) if suffix == "safetensors" else _OF_BYTES


def _place(draw: Draw, content: bytes, longest: int = 0) -> tuple[int, int]:
    start = draw(st.integers(0, len(content)))
    return start, min(len(content), start + draw(st.integers(0, longest)))


def _flip(draw: Draw, content: bytes) -> bytes:
    start, end = _place(draw, content, 1)
    return content[:start] + bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in content[start:end]) + content[end:]


def _number(draw: Draw, content: bytes) -> bytes:
    """Overwrite some bytes with an extreme number: a length, an offset or a size, perhaps."""
    size = draw(st.sampled_from((1, 2, 4, 8)))
    number = draw(st.sampled_from(_NUMBERS)) & 256**size - 1
    start, _ = _place(draw, content)
    return content[:start] + number.to_bytes(size, draw(st.sampled_from(("big", "little")))) + content[start + size :]


def _cut(draw: Draw, content: bytes) -> bytes:
    return content[: _place(draw, content)[0]]


def _delete(draw: Draw, content: bytes) -> bytes:
    start, end = _place(draw, content, 64)
    return content[:start] + content[end:]


def _repeat(draw: Draw, content: bytes) -> bytes:
    start, end = _place(draw, content, 64)
    return content[:end] + content[start:]


def _insert(draw: Draw, content: bytes) -> bytes:
    start, _ = _place(draw, content)
    piece = draw(st.sampled_from(_TEXTS).map(str.encode) | st.binary(max_size=8))
    return content[:start] + piece + content[start:]


def _lines(draw: Draw, content: bytes) -> bytes:
    """Duplicate, delete or move a line."""
    lines = content.splitlines(keepends=True)
    if lines:
        line = lines.pop(draw(st.integers(0, len(lines) - 1)))
        for _ in range(draw(st.integers(0, 2))):
            lines.insert(draw(st.integers(0, len(lines))), line)
    return b"".join(lines)


def _fields(draw: Draw, content: bytes) -> bytes:
    """Delete, duplicate or replace the text between two separators."""
    parts = re.split(rb"([&,/:\s])", content)
    place = 2 * draw(st.integers(0, len(parts) // 2))
    new = draw(
        st.just(parts[place : place + 2] * 2) | st.just([]) | st.sampled_from(_TEXTS).map(lambda x: [x.encode()])
    )
    parts[place : place + 1] = new
    return b"".join(parts)


def _encode(draw: Draw, content: bytes) -> bytes:
    """Write text in another encoding or with other line ends."""
    if draw(st.booleans()):
        return content.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b"\0"))))
    return content.decode(errors="replace").encode(draw(st.sampled_from(_ENCODINGS)), errors="replace")


def _tree(draw: Draw, content: bytes) -> bytes:
    """Replace, delete, nest or exchange a value of a JSON or YAML file."""
    try:
        tree = yaml.load(content, yaml.CSafeLoader)
        whole = [tree]
        holders = list(_holders(whole))
        holder = draw(st.sampled_from(holders))
        key = draw(st.sampled_from(sorted(holder, key=str) if isinstance(holder, dict) else range(len(holder))))
        kind = draw(st.sampled_from(("replace", "delete", "nest", "exchange")))
        if kind == "delete":
            del holder[key]
        elif kind == "nest":
            holder[key] = draw(st.sampled_from(([holder[key]], {"x": holder[key]})))
        elif kind == "exchange":
            holder[key] = draw(st.sampled_from(holders[1:] or [None]))
        else:
            holder[key] = draw(st.sampled_from(_VALUES))
        return json.dumps(whole[0] if whole else None).encode()
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):  # damaged by a mutation before, or a circle
        return content


def _holders(value: Any) -> Any:
    if value and isinstance(value, dict | list):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _holders(part)


def _header(draw: Draw, content: bytes) -> bytes:
    """Change the JSON at the beginning of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header = draw(st.sampled_from((_tree, *_OF_TEXT)))(draw, content[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


_OF_BYTES: tuple[Mutation, ...] = (_flip, _number, _cut, _delete, _repeat, _insert)
_OF_TEXT: tuple[Mutation, ...] = (_lines, _fields, _encode)
_OF_TREES: tuple[Mutation, ...] = (_tree,) * 3
