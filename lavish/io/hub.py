"""Files of the model hub: the content that a revision stands for, and their download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lavish.errors import LavishError
from lavish.io.checksums import sha256_of

if TYPE_CHECKING:
    from lavish.config.schema import HubWeights

_SECONDS = 10
"""After which the hub counts as out of reach."""


class HubUnreachable(LavishError):
    """The hub does not answer, and its cache on this machine does not have the file."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a revision: a commit, a branch or a tag."""

    repository: str
    filename: str
    revision: str

    @classmethod
    def of(cls, weights: HubWeights, model: str) -> HubFile:
        """Return the file of configured weights; its repository is by default timm's own for the model."""
        return cls(weights.repository or f"timm/{model}", weights.filename, weights.revision)

    def __str__(self) -> str:
        return f"{self.repository}/{self.filename}@{self.revision}"

    @property
    def fixed(self) -> bool:
        """Whether the revision is a commit, which cannot move."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None


def resolve(file: HubFile) -> tuple[str, str]:
    """Return the commit that the revision of a file stands for now, and the file's sha256.

    Takes one request; the file is not downloaded. If the hub is out of reach, the newest state in its cache on this
    machine counts.

    Raises:
        HubUnreachable: the hub does not answer and the file is not in its cache.
        LavishError: the hub has no such file, or access is denied.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        with _explained(file):
            found = get_hf_file_metadata(
                hf_hub_url(file.repository, file.filename, revision=file.revision), timeout=_SECONDS
            )
    except HubUnreachable:
        cached = try_to_load_from_cache(file.repository, file.filename, revision=file.revision)
        if not isinstance(cached, str):
            raise
        return _commit_of(Path(cached)), sha256_of(Path(cached))
    assert found.commit_hash is not None
    # The hub tells the sha256 of large files, and of small ones git's own checksum.
    if found.etag is not None and re.fullmatch(r"[0-9a-f]{64}", found.etag):
        return found.commit_hash, found.etag
    return found.commit_hash, sha256_of(download(HubFile(file.repository, file.filename, found.commit_hash)))


def download(file: HubFile) -> Path:
    """Download a file into the hub's cache unless it is there, and return its path; an interrupted one is resumed.

    Raises:
        HubUnreachable: the hub does not answer and the file is not in its cache.
        LavishError: the hub has no such file, or access is denied.
    """
    from huggingface_hub import hf_hub_download

    with _explained(file):
        return Path(hf_hub_download(file.repository, file.filename, revision=file.revision))


def _commit_of(cached: Path) -> str:
    parts = cached.parts
    return parts[parts.index("snapshots") + 1]


@contextmanager
def _explained(file: HubFile) -> Iterator[None]:
    """Turn the errors of the hub's library into one message."""
    # HTTPError is that of the library which the hub's own library uses at the moment.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, HfHubHTTPError):
            raise HubUnreachable(
                f"the model hub is out of reach and {file.repository}/{file.filename} is not in its cache ({first}); "
                "fetch the file where there is a network and give it as `weights: {source: file, path: ...}`"
            ) from None
        raise LavishError(
            f"{file.repository}/{file.filename} at revision {file.revision} could not be fetched: {first}; check "
            "weights.repository, weights.filename and weights.revision, or give a local file"
        ) from None
