"""The order of the packages: imports point downwards, nothing is imported in a circle, planning needs no torch."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the lowest to the highest. A module may import from its own entry and from those before it.
LAYERS = (
    "errors", "config", "io", "runtime", "provenance", "data", "planning", "models", "methods", "metrics", "tasks",
    "learner", "cost", "training", "reporting", "checks", "api", "cli", "__main__",
)  # fmt: skip
# Parsed each time a workflow starts, or before every job: neither may wait for these.
LIGHT = ("errors", "io", "config", "runtime", "planning")
HEAVY = ("torch", "timm", "torchaudio", "torchvision", "snakemake", "pandas", "scipy", "matplotlib", "pyarrow")

Graph = dict[str, set[str]]


def imported(source: str) -> set[str]:
    """Return the modules that a source imports anywhere: at the top, in functions, and for type checking only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def at_import(source: str) -> set[str]:
    """Return the modules that a source imports when it is imported itself."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.If)]
    return imported(ast.unparse(tree))


def sources() -> dict[str, str]:
    """Return the source of each module of the package by its name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text("utf-8")
        for path in sorted((ROOT / "lavish").rglob("*.py"))
    }


def graph_of(modules: Mapping[str, str]) -> Graph:
    """Return which modules of the package each one imports."""
    return {name: (imported(source) & modules.keys()) - {name, "lavish"} for name, source in modules.items()}


def upward(graph: Graph) -> list[str]:
    """Return the imports that point from a lower layer to a higher one."""
    found = []
    for module, targets in graph.items():
        if module == "lavish":
            continue
        for target in sorted(targets):
            if LAYERS.index(target.split(".")[1]) > LAYERS.index(module.split(".")[1]):
                found.append(f"{module} imports {target}")
    return found


def packages(graph: Graph, depth: int) -> Graph:
    """Return the graph of the packages at a depth of the tree: modules below one count as that package."""
    merged: Graph = {}
    for module, targets in graph.items():
        name = ".".join(module.split(".")[:depth])
        merged.setdefault(name, set()).update({".".join(target.split(".")[:depth]) for target in targets} - {name})
    return merged


def circle(graph: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return the modules of a circle of imports, or None."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_every_package_has_a_layer():
    assert {name.split(".")[1] for name in sources() if name != "lavish"} == set(LAYERS)


def test_imports_point_downwards():
    found = upward(graph_of(sources()))
    assert found == []


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_no_circles(depth: int):
    found = circle(packages(graph_of(sources()), depth))
    assert found is None


def test_light_packages_import_nothing_heavy():
    modules = sources()
    pending = [name for name in modules if name != "lavish" and name.split(".")[1] in LIGHT]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        seen.add(name)
        reached = at_import(modules[name])
        assert not {target.split(".")[0] for target in reached} & set(HEAVY), name
        # Importing a module imports its packages as well.
        parents = {".".join(name.split(".")[:depth]) for depth in range(1, name.count(".") + 1)}
        pending += ((reached | parents) & modules.keys()) - seen


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("lavish.data.store.store", "from lavish.cli.main import main"),
        ("lavish.planning.experiments", "from lavish.models.weights import read_weights"),
        ("lavish.methods.lavish", "if TYPE_CHECKING:\n    from lavish.learner.encoder import TwoStreamEncoder"),
        ("lavish.models.weights", "def late():\n    import lavish.methods.registry"),
    ],
)
def test_an_import_that_points_upwards_is_found(module: str, line: str):
    modules = sources()
    modules[module] += f"\n{line}\n"
    assert [found for found in upward(graph_of(modules)) if found.startswith(module)]


def test_a_circle_within_a_layer_is_found():
    modules = sources()
    modules["lavish.data.formats.registry"] += "\nfrom lavish.data.store.store import SplitStore\n"
    assert circle(packages(graph_of(modules), 3))
