"""The source files of methods, tasks and audio encoders: built-in, named by path, or installed by a distribution.

Methods and tasks from outside come from a file that the configuration or the command line names (:func:`add_file`), or
from an entry point in the group ``lavish.methods`` or ``lavish.tasks``. Nothing is imported until :func:`load_module`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from itertools import accumulate
from pathlib import Path
from types import ModuleType

from lavish.errors import LavishError, did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = {"methods": "methods", "tasks": "tasks", "audio_encoders": "models/audio_encoders"}
_NOT_A_METHOD = ("base", "registry", "build")


class SourceError(LavishError, ValueError):
    """A method or task that does not exist or cannot be read; a ValueError too, so that pydantic adds the key."""


@dataclass(frozen=True)
class ExternalFile:
    """The source file of a method or task from outside this package."""

    path: Path
    sha256: str


_external: dict[tuple[str, str], ExternalFile] = {}
"""The external files in use, by kind and name."""


@functools.cache
def built_in(kind: str) -> tuple[str, ...]:
    """Return the names of a kind (`methods`, `tasks`, `audio_encoders`) in this package: one per file, sorted."""
    files = (_PACKAGE / _FOLDERS[kind]).glob("*.py")
    return tuple(sorted(path.stem for path in files if path.stem not in _NOT_A_METHOD and path.stem[0] != "_"))


def available(kind: str) -> list[str]:
    """Return all names of a kind, sorted: built-in, added by file and installed by distributions."""
    added = {name for of_kind, name in _external if of_kind == kind}
    return sorted({*built_in(kind), *added, *_installed(kind)})


def method_path(kind: str, name: str) -> Path:
    """Return the source file of a method or task; SourceError with the nearest name if there is none."""
    found = external_file(kind, name)
    if found is not None:
        return found.path
    if name not in built_in(kind):
        raise SourceError(f"unknown {kind[:-1]} '{name}'{did_you_mean(name, available(kind))}")
    return _PACKAGE / _FOLDERS[kind] / f"{name}.py"


def external_file(kind: str, name: str) -> ExternalFile | None:
    """Return the file of a method or task from outside this package; None for a built-in or unknown name."""
    if (kind, name) not in _external and name not in built_in(kind) and name in (installed := _installed(kind)):
        add_file(kind, _entry_point_file(installed[name]), name)
    return _external.get((kind, name))


def entry_point_class(kind: str, name: str) -> str | None:
    """Return the class that the entry point of an installed method or task names, if any."""
    file = _external.get((kind, name))
    point = _installed(kind).get(name) if file is not None else None
    return point.attr if file and point and _module_file(point.module) == file.path else None


def add_file(kind: str, path: Path, name: str | None = None, sha256: str | None = None) -> ExternalFile:
    """Make the method or task in a file available by `name`, by default the name of the file without its suffix.

    Args:
        kind: `methods` or `tasks`.
        path: a Python file with one class that derives from the base of its kind.
        name: what configurations call it.
        sha256: the checksum that the file must have, when a planned run names it.

    Raises:
        SourceError: there is no such file, the name is taken, or the file has another checksum.
    """
    name = name or path.stem
    if not path.is_file():
        raise SourceError(f"there is no file {path} with the {kind[:-1]} '{name}': correct the path")
    if not name.isidentifier():
        raise SourceError(f"{path}: '{name}' is no name of a {kind[:-1]}: use letters, digits and underscores only")
    if name in built_in(kind):
        raise SourceError(f"{path}: '{name}' is the name of a built-in {kind[:-1]}: rename the file")
    found = ExternalFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    if sha256 not in (None, found.sha256):
        raise SourceError(
            f"{path} has changed since the run was planned: its sha256 is {found.sha256} instead of {sha256}; restore "
            "the file, or plan the run again"
        )
    known = _external.get((kind, name))
    if known is not None and known.path.resolve() != path.resolve() and known.sha256 != found.sha256:
        raise SourceError(f"{path}: {known.path} is another {kind[:-1]} of the name '{name}': rename one of the files")
    _external[kind, name] = found
    return found


def forget_files() -> None:
    """Forget all files that were added."""
    _external.clear()


def load_module(kind: str, name: str) -> ModuleType:
    """Import the module of a method or task; a LavishError if an external one cannot be imported."""
    path = method_path(kind, name)
    external = external_file(kind, name)
    if external is None:
        return importlib.import_module(f"lavish.{_FOLDERS[kind].replace('/', '.')}.{name}")
    try:
        installed = _installed(kind).get(name)
        if installed is not None and _module_file(installed.module) == path:
            return importlib.import_module(installed.module)
        return _import_file(f"lavish_external_{kind}_{name}_{external.sha256[:8]}", external)
    except Exception as error:
        raise LavishError(f"{path}: the file could not be imported: {type(error).__name__}: {error}") from error


def _import_file(module_name: str, file: ExternalFile) -> ModuleType:
    """Import a file under a name of its own, from exactly the bytes that its checksum was computed over."""
    if module_name in sys.modules:
        return sys.modules[module_name]
    source = file.path.read_bytes()
    if hashlib.sha256(source).hexdigest() != file.sha256:
        raise SourceError("it changed while it was being read; start again")
    spec = importlib.util.spec_from_file_location(module_name, file.path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        # Not through the loader: its bytecode cache only looks at the size and the second of the last change.
        exec(compile(source, str(file.path), "exec"), module.__dict__)  # noqa: S102
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _installed(kind: str) -> dict[str, EntryPoint]:
    """Return the entry points of a kind by name; SourceError if two have one name, or one has that of a built-in."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"lavish.{kind}"):
        if point.name in built_in(kind):
            raise SourceError(f"{_described(point)} has the name of a built-in {kind[:-1]}: rename it or uninstall it")
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise SourceError(f"{_described(point)} has the same name as {_described(other)}: uninstall one of them")
    return found


def _entry_point_file(point: EntryPoint) -> Path:
    file = _module_file(point.module)
    if file is None:
        raise SourceError(f"{_described(point)} is broken: there is no module '{point.module}'; install it again")
    return file


def _module_file(module: str) -> Path | None:
    """Return the file of a module without importing it or its packages."""
    locations = None
    spec = None
    for name in accumulate(module.split("."), "{}.{}".format):
        spec = next((found for finder in sys.meta_path if (found := finder.find_spec(name, locations))), None)
        if spec is None:
            return None
        locations = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _described(point: EntryPoint) -> str:
    distribution = f" of the distribution {point.dist.name}" if point.dist else ""
    return f"entry point '{point.name} = {point.value}' ({point.group}){distribution}"
