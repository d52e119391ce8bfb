"""Files of frozen weights: fetched from the hub or taken from disk, checked against their sha256, never unpickled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.errors import LavishError
from lavish.provenance import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

    from lavish.config import FileWeights, HubWeights


def read_weights(path: Path, *, only_header: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file (none of them with `only_header`).

    Raises LavishError for a missing file and for anything that is no safetensors file: a pickle can run code when read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LavishError(f"no weights at {path}: check the path under `weights`")
    try:
        with safe_open(path, framework="pt") as file:
            return {} if only_header else {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError:
        with path.open("rb") as file:
            start = file.read(2)
        kind = (
            "a pickle (.pt, .pth, .bin)" if start in (b"PK", b"\x80\x02", b"\x80\x04") else "damaged or another format"
        )
        raise LavishError(
            f"{path} is no safetensors file but {kind}; convert it with safetensors.torch.save_file where you trust it"
        ) from None


def write_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write tensors and, beside them, `<name>.json` with the metadata and the file's sha256; whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, partial)
    os.replace(partial, path)
    describe_weights(path, metadata)


def describe_weights(path: Path, metadata: dict[str, Any]) -> None:
    """Write `<name>.json` beside a file of weights: where it came from, and its sha256."""
    values = {**metadata, "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_sha256(path: Path, expected: str | None, key: str) -> str:
    """Return the file's sha256; an error when one was expected and differs."""
    measured = sha256_of(path)
    if expected and measured != expected.lower():
        raise LavishError(
            f"{path}: sha256 is {measured}, but {key} says {expected}; the file is not the one the configuration pins: "
            "fetch it again, or correct the key if the new file is meant"
        )
    return measured


def take_file(weights: FileWeights, out: Path) -> None:
    """Check a safetensors file on disk and link (or copy) it to `out`."""
    read_weights(weights.path, only_header=True)
    check_sha256(weights.path, weights.sha256, "weights.sha256")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.copyfile(weights.path, partial)
    os.replace(partial, out)
    describe_weights(out, {"source": "file", "path": str(weights.path)})


def fetch(weights: HubWeights, model: str, out: Path) -> None:
    """Download weights from the model hub at a fixed revision, check their sha256 and write them to `out`.

    The download resumes where it was cut off. `model` is the timm name with its tag; the repository defaults to timm's.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository = weights.repository or f"timm/{model}"
    try:
        cached = Path(hf_hub_download(repository, weights.filename, revision=weights.revision))
    except LocalEntryNotFoundError as error:
        raise LavishError(
            f"the model hub is out of reach and {repository}/{weights.filename} is not in its cache ({error}); fetch "
            "the file where there is a network and give it as `weights: {source: file, path: ...}`"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise LavishError(
            f"{repository}/{weights.filename} at revision {weights.revision} could not be fetched: {first}; check "
            "weights.repository, weights.filename and weights.revision, or give a local file"
        ) from None
    read_weights(cached, only_header=True)
    check_sha256(cached, weights.sha256, "weights.sha256")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.copyfile(cached, partial)
    os.replace(partial, out)
    describe_weights(out, {"source": "hub", "repository": repository, "revision": weights.revision, "model": model})
