"""The lock file of weights from the model hub: the commit and content that each revision stood for at first use.

A branch of the hub moves. The first workflow that needs a file writes what it finds there to the lock file; all later
ones use exactly this content, on every machine that has the lock file, until `lavish weights lock --update`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from lavish.config.schema import Config, HubWeights
from lavish.config.validation import parse
from lavish.errors import LavishError
from lavish.io.atomic import write_text
from lavish.io.hub import HubFile, HubUnreachable, resolve
from lavish.io.locks import locked
from lavish.io.yaml_files import read_yaml

LOCK = Path("config/weights.lock.yaml")
_HEADER = """\
# What the revisions of weights on the model hub stand for: written at first use and by `lavish weights lock`.
# Keep it under version control: with it, every machine uses the same weights.
"""


class LockedFile(Config):
    """An entry of the lock file."""

    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$", description="Commit of the repository.")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class WeightsLock:
    """The lock file `path`; it need not exist.

    Args:
        path: the file; entries are added to it if its folder exists.
        ask_hub: whether the hub is asked about files without an entry; else they stay as they are configured.
        frozen: whether files without an entry are refused.
        update: whether the hub is asked about all files, and entries are replaced.
    """

    def __init__(self, path: Path = LOCK, *, ask_hub: bool = False, frozen: bool = False, update: bool = False) -> None:
        self.path = path
        self.ask_hub, self.frozen, self.update = ask_hub, frozen, update
        self.entries = self._read()
        self.written: dict[str, LockedFile] = {}
        """Entries that are new or replaced."""
        self._unreachable: HubUnreachable | None = None

    def pinned(self, weights: HubWeights, model: str) -> HubWeights:
        """Return weights with the commit and sha256 of the lock file, or of the hub.

        Args:
            weights: as configured; a commit with its sha256 needs no entry.
            model: timm name of the backbone, for the default repository.

        Raises:
            LavishError: the file has no entry although `frozen`, the hub does not have it or does not answer, or the
                configured sha256 is not that of the entry.
        """
        file = HubFile.of(weights, model)
        entry = self.entries.get(str(file))
        if entry is None and weights.sha256 is not None and file.fixed:
            return weights
        if self.frozen and entry is None:
            raise LavishError(f"{file} is not in {self.path}, and weights are frozen: run `lavish weights lock`")
        if self.ask_hub and (entry is None or self.update):
            entry = self._ask(file)
        if entry is None:
            return weights
        if weights.sha256 is not None and weights.sha256.lower() != entry.sha256:
            raise LavishError(
                f"{file}: weights.sha256 says {weights.sha256}, but {self.path} says {entry.sha256}: correct the key, "
                "or run `lavish weights lock --update`"
            )
        return weights.model_copy(update={"revision": entry.revision, "sha256": entry.sha256})

    def _ask(self, file: HubFile) -> LockedFile:
        if self._unreachable is not None:  # each further attempt would wait for a hub that does not answer
            raise self._unreachable
        try:
            revision, sha256 = resolve(file)
        except HubUnreachable as error:
            self._unreachable = error
            raise
        entry = LockedFile(revision=revision, sha256=sha256)
        if entry != self.entries.get(str(file)):
            self.written[str(file)] = entry
            self._write()
        return entry

    def _read(self) -> dict[str, LockedFile]:
        try:
            values = read_yaml(self.path) or {}
        except FileNotFoundError:
            return {}
        if not isinstance(values, dict):
            raise LavishError(f"{self.path}: there are no keys in it: restore it, or remove it to make it anew")
        return {name: parse(LockedFile, value, f"{self.path}: {name}") for name, value in values.items()}

    def _write(self) -> None:
        if not self.path.parent.is_dir():
            self.entries |= self.written
            return
        with locked(self.path):
            self.entries = self._read() | self.written
            values = {name: entry.model_dump() for name, entry in sorted(self.entries.items())}
            write_text(self.path, _HEADER + yaml.safe_dump(values, sort_keys=False))
