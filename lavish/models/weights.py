"""Files of frozen weights: fetched from the hub or read from disk, checked against their sha256, never unpickled."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavish.errors import LavishError
from lavish.io.atomic import replacing, write_text
from lavish.io.checksums import check_sha256, sha256_of
from lavish.io.downloads import instead_of_file
from lavish.io.hub import HubFile, download

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lavish.config.schema import FileWeights, HubWeights


def read_weights(path: Path, *, only_header: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file (none of them with `only_header`).

    Raises LavishError for a missing file and for a file of another format: reading a pickle can run code.
    """
    tensors = _tensors(path)
    if only_header:
        next(tensors, None)
        return {}
    return dict(tensors)


def check_content(path: Path) -> None:
    """Raise LavishError unless a safetensors file is complete and holds finite numbers; reads tensor by tensor."""
    for name, tensor in _tensors(path):
        if "mask" not in name:  # masks of attention may be infinite, and are no weights
            _check_finite(tensor, f"{path}: tensor '{name}'")


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, key: str, prefix: str = "") -> None:
    """Copy `tensors` into `module`, or raise LavishError that says what is missing, left over or does not fit.

    Args:
        module: its parameters and buffers must have exactly the names of the tensors.
        tensors: finite numbers, of any precision.
        path: the file of the tensors, for messages.
        key: key of the configuration that describes the module, for messages.
        prefix: prefix of the names in the file, for messages.
    """
    expected = module.state_dict()
    differences = {
        "not in the file": sorted(expected.keys() - tensors.keys()),
        "only in the file": sorted(tensors.keys() - expected.keys()),
        "of another shape": [name for name, own in expected.items() if tensors.get(name, own).shape != own.shape],
    }
    if any(differences.values()):
        found = [
            f"{len(names)} {what} ({_few(f'{prefix}{name}' for name in names)})"
            for what, names in differences.items()
            if names
        ]
        for name in differences["of another shape"][:1]:
            found[-1] += f", the first {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        raise LavishError(
            f"{path} does not fit this {type(module).__name__} of {len(expected)} tensors: {'; '.join(found)}; does "
            f"{key} describe these weights?"
        )
    for name, tensor in sorted(tensors.items()):
        where = f"{path}: tensor '{prefix}{name}'"
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise LavishError(f"{where} is {tensor.dtype} instead of {expected[name].dtype}; the file is damaged")
        _check_finite(tensor, where)
    module.load_state_dict(tensors)


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LavishError(f"no weights at {path}: check the path under `weights`")
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                yield key, file.get_tensor(key)
    except SafetensorError as error:
        raise LavishError(f"{path} is not a safetensors file but {_kind(path, error)}") from None


def _kind(path: Path, error: Exception) -> str:
    """Return what a file is that is not a complete safetensors file, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "empty: fetch it again"
    if (download := instead_of_file(start)) is not None:
        return download
    if start.startswith((b"PK", b"\x80")):
        return "a pickle (.pt, .pth, .bin): if you trust it, convert it with safetensors.torch.save_file"
    if start[8:9] == b"{":  # after the length of the header, which is JSON
        return f"a part of one, cut off or damaged ({error}): fetch it again"
    return "damaged or another format: fetch it again, or convert it with safetensors.torch.save_file"


def _few(names: Iterable[str], most: int = 3) -> str:
    quoted = [f"'{name}'" for name in names]
    return ", ".join(quoted[:most] + ["..."] * (len(quoted) > most))


def _check_finite(tensor: Tensor, where: str) -> None:
    # Types of one byte have no `isfinite`.
    wrong = int((~(tensor.float() if tensor.element_size() == 1 else tensor).isfinite()).sum())
    if wrong:
        raise LavishError(
            f"{where} does not hold finite real numbers ({wrong} of {tensor.numel()} are NaN or infinite): the file is "
            "damaged or its training diverged: fetch it again, or use another"
        )


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
    """Return a description of a safetensors file as text.

    Raises LavishError for a missing file, for a file of another format, for numbers that are not finite, and if the
    description beside it (`<name>.json`) belongs to another content.
    """
    from safetensors import safe_open

    check_content(path)
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
    check_content(weights.path)
    check_sha256(weights.path, weights.sha256, "weights.sha256")
    with replacing(out) as temporary:
        shutil.copyfile(weights.path, temporary)
    describe_weights(out, {"source": "file", "path": str(weights.path)})


def fetch(weights: HubWeights, model: str, out: Path) -> None:
    """Download weights from the model hub at a fixed revision, check their sha256 and write them to `out`.

    An interrupted download is resumed, and an `out` that already has the pinned sha256 is kept. `model` is the
    timm name with its tag; the repository defaults to timm's.
    """
    file = HubFile.of(weights, model)
    facts = {"source": "hub", "repository": file.repository, "revision": file.revision, "model": model}
    if weights.sha256 and out.is_file() and sha256_of(out) == weights.sha256.lower():
        check_content(out)
        describe_weights(out, facts)
        return
    cached = download(file)
    check_content(cached)
    check_sha256(cached, weights.sha256, "weights.sha256")
    with replacing(out) as temporary:
        shutil.copyfile(cached, temporary)
    describe_weights(out, facts)
