"""Runs, data sets and weights with their identities, which are part of the names of folders and files.

A name ends in a hash of everything that its content depends on, so a result cannot be mistaken for that of another
configuration, and tables share equal runs. Labels and places are no part of it, and neither are settings at their
defaults: a renamed variant, a moved data set or a new key of the configuration changes no name. Does not import torch.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lavish.config.hashing import digest
from lavish.config.options import class_attribute, has_sites, option_model
from lavish.config.schema import (
    AudioEncoderConfig,
    BackboneConfig,
    DataConfig,
    FileWeights,
    FolderAssetsConfig,
    HubWeights,
    RunConfig,
    Split,
)
from lavish.config.source_code import code_digest
from lavish.data.formats.official import OFFICIAL
from lavish.errors import LavishError
from lavish.io.checksum_cache import Checksums
from lavish.io.checksums import check_sha256
from lavish.planning.search_spaces import one_trial
from lavish.planning.weights_lock import WeightsLock
from lavish.provenance import RECIPE_VERSION

# Where weights are, as opposed to what they are.
_PLACES = {"path", "repository", "filename", "revision"}

CHECKSUMS = Path(".snakemake/lavish-checksums.json")


class MissingInput(LavishError):
    """A folder or file that the configuration names is not on this machine; `short` says so in a cell of a table."""

    def __init__(self, message: str, short: str) -> None:
        super().__init__(message)
        self.short = short


@dataclass(frozen=True)
class DataSet:
    """A data set in its official layout, and its prepared store of the same name."""

    name: str
    config: DataConfig
    composed: str | None
    """Name of the composed folder the store is prepared from; None for a data set on disk."""


@dataclass(frozen=True)
class Weights:
    """Frozen weights of a backbone or an audio encoder; `config` has only the keys that they depend on."""

    name: str
    kind: Literal["backbone", "audio_encoder"]
    config: BackboneConfig | AudioEncoderConfig

    @property
    def pretrained(self) -> bool:
        """Whether a job of the workflow trains them; others are fetched, copied or initialised randomly."""
        return self.config.weights.source == "pretrain"


@dataclass(frozen=True)
class Run:
    """A resolved configuration and its inputs."""

    name: str
    config: RunConfig
    data: DataSet
    backbone: Weights
    audio_backbone: Weights | None
    """Weights of the audio stream's own backbone, if it has one."""
    audio_encoder: Weights | None
    search: str | None = None
    """Name of the folder of the trials of its hyperparameter search, if it has one."""

    @property
    def folder(self) -> str:
        """Folder of its results."""
        return f"results/runs/{self.name}"

    @property
    def training_splits(self) -> tuple[Split, Split]:
        """The splits that a training may read: the training split and the selection split."""
        return ("train", self.config.select_on)


class Identities:
    """Names runs, data sets and weights; equal configurations give the same object.

    Args:
        trust_checksums: take known checksums of data and weights without looking at the files, as jobs on other
            machines do.
        lock: pins weights from the model hub; by default the lock file, without asking the hub.

    Attributes:
        needs_inputs: whether data and weights must exist and are part of identities; false for tables of costs.
        runs, data, composed, weights: everything named so far.
        searches: by the name of each search a run whose trials it has.
    """

    def __init__(self, *, trust_checksums: bool = False, lock: WeightsLock | None = None) -> None:
        self.needs_inputs = True
        self.runs: dict[str, Run] = {}
        self.searches: dict[str, Run] = {}
        self.data: dict[str, DataSet] = {}
        self.composed: dict[str, DataSet] = {}
        self.weights: dict[str, Weights] = {}
        self._checksums = Checksums(CHECKSUMS, trusted=trust_checksums)
        self._lock = WeightsLock() if lock is None else lock

    def run(self, config: RunConfig) -> Run:
        """Return the run of a resolved configuration."""
        if config.audio_encoder is not None and config.audio_encoder.use == "none":
            config = config.model_copy(update={"audio_encoder": None})
        config = config.resolved()
        data = self._data(config.data)
        backbone, *own_audio = map(self._weights, config.used_backbones())
        audio_backbone = own_audio[0] if own_audio else None
        audio_encoder = self._weights(config.audio_encoder) if config.audio_encoder else None
        # Measured checksums, digests of code and options at their defaults are part of the record of a run.
        resolved = with_code(with_options(config)).with_weights(
            backbone.config.weights, audio_backbone.config.weights if audio_backbone else None
        )
        resolved = resolved.model_copy(
            update={
                "data": data.config.model_copy(update={"fraction": config.data.fraction}),
                "audio_encoder": config.audio_encoder
                and config.audio_encoder.model_copy(update={"weights": audio_encoder and audio_encoder.config.weights}),
            }
        )
        # Data and weights are identified by their content, sources by the digest of their code. Runs on a part of the
        # clips have the data of those on all.
        own = {"options": True, "source": True}
        content = resolved.model_dump(
            mode="json",
            exclude_defaults=True,
            exclude={
                "data": True,
                "backbone": {"weights"},
                "backbones": {"audio": {"weights"}},
                "audio_encoder": {"weights", "spec", "code"},
                "adapter": own,
                "task": own,
            },
        )
        options = [
            chosen_options("methods", resolved.adapter.method, resolved.adapter.options),
            chosen_options("tasks", resolved.task.name, resolved.task.options),
        ]
        if config.tuning is not None:
            # What the search replaces is not what the run is trained with.
            for section, *_, replaced in (key.split(".") for key in config.tuning.space):
                (content.get("training", {}) if section == "training" else options[0]).pop(replaced, None)
        frozen = [backbone.name, *(own.name for own in own_audio), audio_encoder.name if audio_encoder else None]
        part = [] if config.data.fraction == 1 else [{"fraction": config.data.fraction}]

        def named(content: dict[str, Any]) -> str:
            return f"{config.task.name}-{digest(content, options, data.name, *frozen, *part, RECIPE_VERSION)}"

        name, search = named(content), None
        if config.tuning is not None:
            search = named(content | {"tuning": one_trial(config.tuning).model_dump(mode="json")})
        run = Run(name, resolved, data, backbone, audio_backbone, audio_encoder, search)
        if search is not None:
            self.searches.setdefault(search, run)
        return self.runs.setdefault(name, run)

    def _data(self, config: DataConfig) -> DataSet:
        composed = None
        if config.compose is None:
            assert config.root is not None
            checksum = self._fingerprint(
                config.root,
                config.sha256,
                config.format,
                functools.partial(_listed_files, config.format, config.root),
                f"data set '{config.name}' ({config.format})",
                "data.sha256",
                _remedy(config),
            )
            config = config.model_copy(update={"sha256": checksum})
        else:
            assets = config.compose.assets
            kind = assets.kind
            if isinstance(assets, FolderAssetsConfig):
                remedy = (
                    "it must contain one folder per class with images/*.png (cut-outs with alpha) and sounds/*; "
                    "set data.compose.assets.root to its location"
                )
                key = "data.compose.assets.sha256"
                checksum = self._fingerprint(
                    assets.root,
                    assets.sha256,
                    "assets",
                    functools.partial(_asset_files, assets.root),
                    "folder of assets",
                    key,
                    remedy,
                )
                assets = assets.model_copy(update={"sha256": checksum})
                config = config.model_copy(update={"compose": config.compose.model_copy(update={"assets": assets})})
            composition = config.composition().model_dump(
                mode="json", exclude={"compose": {"assets": {"root"}}}, exclude_defaults=True
            )
            composed = f"{config.format}-{digest('composed', composition, kind, RECIPE_VERSION)}"
        content = config.model_dump(
            mode="json", exclude={"name", "root", "compose", "max_lost", "fraction"}, exclude_defaults=True
        )
        name = f"{config.format}-{digest('prepared', content, composed, RECIPE_VERSION)}"
        whole = config.model_copy(update={"fraction": 1.0})  # runs on parts of it share the store
        data = self.data.setdefault(name, DataSet(name, whole, composed))
        if composed:
            self.composed.setdefault(composed, data)
        return data

    def _weights(self, config: BackboneConfig | AudioEncoderConfig) -> Weights:
        source = config.weights
        if isinstance(source, FileWeights):
            if self.needs_inputs and not source.path.is_file():
                raise MissingInput(
                    f"there is no weights file {source.path}; set weights.path to its location",
                    f"weights missing: {source.path}",
                )
            if self.needs_inputs:
                measured = self._checksums.of_file(source.path)
                try:
                    check_sha256(source.path, source.sha256, "weights.sha256", measured)
                except LavishError as error:
                    raise MissingInput(str(error), f"weights differ from the pinned ones: {source.path}") from None
                source = source.model_copy(update={"sha256": measured})
        elif isinstance(source, HubWeights) and self.needs_inputs:
            try:
                source = self._lock.pinned(source, config.model)
            except LavishError as error:
                raise MissingInput(str(error), f"weights not pinned: {source.repository or config.model}") from None
        # Settings of how weights are used are removed, so that rows which differ in them share one file.
        kind: Literal["backbone", "audio_encoder"]
        if isinstance(config, BackboneConfig):
            kind = "backbone"
            config = BackboneConfig(model=config.model, spec=config.spec, weights=source)
        else:
            kind = "audio_encoder"
            spec = chosen_options("audio_encoders", config.kind, config.spec)
            code = code_digest("audio_encoders", config.kind)
            config = AudioEncoderConfig(kind=config.kind, spec=spec, code=code, weights=source)
        # A file of the hub is identified by its place only as long as nobody has asked for its checksum.
        places = {"path"} if isinstance(source, HubWeights) and source.sha256 is None else _PLACES
        content = config.model_dump(mode="json", exclude={"weights": places}, exclude_defaults=True)
        name = f"{config.model}-{digest(kind, content, source.source, RECIPE_VERSION)}"
        return self.weights.setdefault(name, Weights(name, kind, config))

    def _fingerprint(
        self,
        root: Path,
        expected: str | None,
        kind: str,
        files: Callable[[], Iterable[Path]],
        what: str,
        key: str,
        remedy: str,
    ) -> str | None:
        """Return the checksum over the files of a data set or of a folder of assets, `expected` for tables of costs."""
        if not self.needs_inputs:
            return expected
        if not root.is_dir():
            raise MissingInput(f"{what}: there is no folder {root}; {remedy}", f"data missing: {root}")
        try:
            measured = self._checksums.of_files(root, kind, files)
        except LavishError as error:
            raise MissingInput(f"{what}: {error}", f"data not readable: {root}") from None
        if expected is not None and expected != measured:
            raise LavishError(
                f"{what}: the checksum over {root} is {measured}, but {key} says {expected}: files were changed, added "
                "or lost; restore them, or correct the key if the change is meant"
            )
        return measured


def _listed_files(format_name: str, root: Path) -> Iterable[Path]:
    from lavish.data.formats.listed import listed_files  # imports NumPy, which composed data does not need

    return listed_files(format_name, root)


def _asset_files(root: Path) -> Iterable[Path]:
    from lavish.data.synthetic.assets import asset_files

    return asset_files(root)


def without_places(config: RunConfig) -> dict[str, Any]:
    """Return a run as JSON values without what its results do not depend on: places, and the name of the data."""
    return config.model_dump(
        mode="json",
        exclude={
            "data": {"name": True, "root": True, "max_lost": True, "compose": {"assets": {"root"}}},
            "backbone": {"weights": _PLACES},
            "backbones": {"visual": {"weights": _PLACES}, "audio": {"weights": _PLACES}},
            "audio_encoder": {"weights": _PLACES},
            "adapter": {"source"},
            "task": {"source"},
        },
    )


def with_options(config: RunConfig) -> RunConfig:
    """Return a run with the defaults of its task's and method's options, positions and arrangement filled in."""
    task, adapter, fusion = config.task, config.adapter, config.fusion
    own = {"position": "both", "arrangement": "parallel"}
    if adapter.method != "none":
        has = has_sites(adapter.method)
        own = {key: class_attribute("methods", adapter.method, key, own[key]) for key in own} if has else {}
    return config.model_copy(
        update={
            "fusion": fusion.model_copy(
                update={key: value for key, value in own.items() if getattr(fusion, key) == "default"}
            ),
            "task": task.model_copy(update={"options": _complete("tasks", task.name, task.options)}),
            "adapter": adapter.model_copy(update={"options": _complete("methods", adapter.method, adapter.options)}),
        }
    )


def chosen_options(kind: str, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method, task or audio encoder that differ from their defaults."""
    if method == "none":
        return {}
    return option_model(kind, method).model_validate(options).model_dump(mode="json", exclude_defaults=True)


def with_code(config: RunConfig) -> RunConfig:
    """Return a run with the digests of the code of its task and method filled in."""
    task, adapter = config.task, config.adapter
    method = None if adapter.method == "none" else code_digest("methods", adapter.method)
    return config.model_copy(
        update={
            "task": task.model_copy(update={"code": code_digest("tasks", task.name)}),
            "adapter": adapter.model_copy(update={"code": method}),
        }
    )


def _complete(kind: str, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a method, including those at their defaults."""
    return {} if method == "none" else option_model(kind, method).model_validate(options).model_dump(mode="json")


def _remedy(config: DataConfig) -> str:
    """Return the remedy for a missing data set."""
    remedy = "put it there, or set data.root to its location"
    if config.format not in OFFICIAL:  # a layout for the user's own videos
        return remedy
    return (
        f"{OFFICIAL[config.format].obtained}; {remedy}, and see what is missing with: lavish data check --task "
        f"{config.format} --root {shlex.quote(str(config.root))}"
    )
