"""Matching the size of a method (a rank, a reduction) to the number of trainable parameters of another run.

The size is part of a run's configuration and therefore of its name, so it must be known when the workflow is parsed.
Counting needs models and torch, which takes longer than the rest of a dry run. One process therefore counts for all
rows, and the results are cached in a file that may be deleted at any time.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lavish.config.hashing import digest
from lavish.config.options import budget_option
from lavish.config.schema import Config, RunConfig
from lavish.errors import LavishError
from lavish.io.atomic import write_json
from lavish.planning.identities import with_options
from lavish.provenance import RECIPE_VERSION

FOUND = Path("results/matched_sizes.json")

_PACKAGE = Path(__file__).parents[1]
# The code that the number of trainable parameters and the search depend on.
_CODE = (
    "cost/size_search.py", "learner/*.py", "methods/**/*.py", "models/**/*.py", "tasks/*.py",
)  # fmt: skip
# Keys of a run that they do not depend on.
_IRRELEVANT: dict[str, Any] = {
    "training": True,
    "normalisation": True,
    "select_on": True,
    "randomise": True,
    "backbone": {"weights"},
    "backbones": {"visual": {"weights"}, "audio": {"weights"}},
    "data": {"name", "root", "sha256", "compose", "max_lost", "fraction"},
    "adapter": {"source": {"path"}},
    "task": {"source": {"path"}},
}


class Request(Config):
    """A run whose size is to be matched to the trainable parameters of another run."""

    config: RunConfig
    """The run, with the method's default size."""
    target: RunConfig


@dataclass(frozen=True)
class Match:
    """The size that was found, and its trainable parameters."""

    size: int
    trainable: int
    target: int
    budget: int
    """The target's trainable parameters below its head."""

    @property
    def off(self) -> float:
        """The difference to the target, as a fraction of the target's parameters below the head."""
        return (self.trainable - self.target) / self.budget


def request(config: RunConfig, target: RunConfig) -> Request:
    """Return the request for a size of `config`; its own size is ignored."""
    option = budget_option(config.adapter.method)
    options = {key: value for key, value in config.adapter.options.items() if key != option}
    adapter = config.adapter.model_copy(update={"options": options})
    return Request(config=with_options(config.model_copy(update={"adapter": adapter})), target=with_options(target))


def with_size(config: RunConfig, size: int) -> RunConfig:
    """Return the run with a size."""
    option = budget_option(config.adapter.method)
    adapter = config.adapter.model_copy(update={"options": {**config.adapter.options, option: size}})
    return config.model_copy(update={"adapter": adapter})


def sizes(requests: Mapping[str, Request]) -> dict[str, Match]:
    """Return the size of each request by its name in messages; one process searches for all that are not cached.

    Raises:
        LavishError: a method accepts no size, or the search failed.
    """
    if not requests:
        return {}
    keys = {name: _key(one) for name, one in requests.items()}
    known = _known()
    wanted = {name: one for name, one in requests.items() if keys[name] not in known}
    if wanted:
        found = _search(wanted)
        FOUND.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{FOUND}.lock"):
            known = _known() | {keys[name]: match for name, match in found.items()}
            write_json(FOUND, known)
    return {name: Match(**known[key]) for name, key in keys.items()}


def _key(one: Request) -> str:
    parts = [run.model_dump(mode="json", exclude=_IRRELEVANT) for run in (one.config, one.target)]
    return digest("size", parts, RECIPE_VERSION, _code())


@functools.cache
def _code() -> str:
    """Return a checksum of the code, so that an edited method is counted again."""
    whole = hashlib.sha256()
    for path in sorted(path for pattern in _CODE for path in _PACKAGE.glob(pattern)):
        whole.update(f"{path.relative_to(_PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return whole.hexdigest()


def _known() -> dict[str, Any]:
    try:
        known = json.loads(FOUND.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    fields = asdict(Match(0, 0, 0, 0)).keys()
    if not isinstance(known, dict):
        return {}
    return {key: match for key, match in known.items() if isinstance(match, dict) and match.keys() == fields}


def _search(requests: Mapping[str, Request]) -> dict[str, Any]:
    """Search in a separate process, which may import torch."""
    names = ", ".join(sorted({one.config.adapter.method for one in requests.values()}))
    print(f"Searching for the sizes of {names} that match the trainable parameters of another method", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        asked, found = Path(folder, "requests.json"), Path(folder, "sizes.json")
        asked.write_text(json.dumps({name: one.model_dump(mode="json") for name, one in requests.items()}))
        command = [sys.executable, "-m", "lavish", "match", "--requests", str(asked), "--out", str(found)]
        # The process must import this package, not one in the working directory of the workflow.
        path = os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
        ended = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            reason = ended.stderr.strip().removeprefix("lavish match: ")
            raise LavishError(f"no sizes could be found for rows with `match_parameters_of`: {reason}")
        return json.loads(found.read_text(encoding="utf-8"))
