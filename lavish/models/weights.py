"""Files of frozen weights: fetched from the hub or read from disk, checked against their sha256, never unpickled."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.errors import LavishError
from lavish.io.atomic import replacing, write_text
from lavish.io.checksums import check_sha256, sha256_of
from lavish.io.hub import HubFile, download

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lavish.config.schema import FileWeights, HubWeights


def read_weights(path: Path, *, only_header: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file (none of them with `only_header`).

    Raises LavishError for a missing file and for a file of another format: reading a pickle can run code.
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
            f"{path} is not a safetensors file but {kind}; if you trust it, convert it with safetensors.torch.save_file"
        ) from None


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, spec: str, prefix: str = "") -> None:
    """Copy `tensors` into `module`, or raise LavishError naming the first one that is missing or does not fit.

    Args:
        module: its parameters and buffers must have exactly the names of the tensors.
        tensors: finite numbers, of any precision.
        path: the file of the tensors, for messages.
        spec: key of the configuration that gives the module's sizes, for messages.
        prefix: prefix of the names in the file, for messages.
    """
    expected = module.state_dict()
    hint = f"for this {type(module).__name__}; do the sizes in {spec} describe these weights?"
    for name in sorted(expected.keys() - tensors.keys()):
        raise LavishError(f"{path}: tensor '{prefix}{name}' is missing {hint}")
    for name in sorted(tensors.keys() - expected.keys()):
        raise LavishError(f"{path}: tensor '{prefix}{name}' is unexpected {hint}")
    for name, tensor in sorted(tensors.items()):
        where, own = f"{path}: tensor '{prefix}{name}'", expected[name]
        if tensor.shape != own.shape:
            raise LavishError(f"{where} has shape {tuple(tensor.shape)} instead of {tuple(own.shape)} {hint}")
        if tensor.is_floating_point() != own.is_floating_point() or not tensor.isfinite().all():
            raise LavishError(f"{where} does not hold finite real numbers; the file is damaged")
    module.load_state_dict(tensors)


def write_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write tensors and, beside them, `<name>.json` with the metadata and the file's sha256; atomically."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary)
    describe_weights(path, metadata)


def describe_weights(path: Path, metadata: dict[str, Any]) -> None:
    """Write `<name>.json` beside a file of weights: its origin and sha256."""
    values = {**metadata, "sha256": sha256_of(path)}
    write_text(path.with_suffix(".json"), json.dumps(values, indent=2, sort_keys=True) + "\n")


def inspect_weights(path: Path) -> dict[str, str]:
    """Return a description of a safetensors file as text; only its header is interpreted.

    Raises LavishError for a missing file, for a file of another format, and if the description beside it
    (`<name>.json`) belongs to another content.
    """
    from safetensors import safe_open

    read_weights(path, only_header=True)
    tensors, parameters, types = 0, 0, set()
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            tensor = file.get_slice(key)
            tensors, parameters = tensors + 1, parameters + math.prod(tensor.get_shape())
            types.add(str(tensor.get_dtype()))
    facts = {
        "file": str(path),
        "format": "safetensors",
        "sha256": sha256_of(path),
        "size": f"{path.stat().st_size / 1e6:,.1f} MB",
        "tensors": f"{tensors:,}",
        "parameters": f"{parameters:,}",
        "types": ", ".join(sorted(types)),
    }
    description = read_description(path, facts["sha256"])
    return facts | {key: str(value) for key, value in sorted(description.items()) if key not in facts}


def read_description(path: Path, measured: str) -> dict[str, Any]:
    """Return the content of `<name>.json` beside a file of weights; empty if there is none.

    Raises LavishError if it is damaged or belongs to another content than `measured`, the file's sha256.
    """
    description = path.with_suffix(".json")
    if not description.is_file():
        return {}
    remedy = f"remove it, and fetch {path.name} again if it is not the file you mean"
    try:
        values = json.loads(description.read_text(encoding="utf-8"))
        described = values.get("sha256")
    except (ValueError, AttributeError) as error:
        raise LavishError(f"{description}: not readable as JSON ({error}): {remedy}") from None
    if described not in (None, measured):
        raise LavishError(f"{description}: says sha256 {described}, but {path.name} has {measured}: {remedy}")
    return values


def take_file(weights: FileWeights, out: Path) -> None:
    """Check a safetensors file on disk and link (or copy) it to `out`."""
    read_weights(weights.path, only_header=True)
    check_sha256(weights.path, weights.sha256, "weights.sha256")
    with replacing(out) as temporary:
        shutil.copyfile(weights.path, temporary)
    describe_weights(out, {"source": "file", "path": str(weights.path)})


def fetch(weights: HubWeights, model: str, out: Path) -> None:
    """Download weights from the model hub at a fixed revision, check their sha256 and write them to `out`.

    An interrupted download is resumed, and an `out` that already has the pinned sha256 is kept. `model` is the
    timm name with its tag; the repository defaults to timm's.
    """
    file = HubFile(weights.repository or f"timm/{model}", weights.filename, weights.revision)
    facts = {"source": "hub", "repository": file.repository, "revision": file.revision, "model": model}
    if weights.sha256 and out.is_file() and sha256_of(out) == weights.sha256.lower():
        read_weights(out, only_header=True)
        describe_weights(out, facts)
        return
    cached = download(file)
    read_weights(cached, only_header=True)
    check_sha256(cached, weights.sha256, "weights.sha256")
    with replacing(out) as temporary:
        shutil.copyfile(cached, temporary)
    describe_weights(out, facts)
