"""From configuration files to what the workflow makes: runs, data sets, weights and tables, each with its identity.

A name ends in a hash over everything its content depends on, so a result can never be mistaken for that of another
configuration, and two tables that ask for the same thing share it. Nothing here imports torch or Snakemake: every row
of every table is resolved and validated each time the workflow is parsed.
"""

from __future__ import annotations

import csv
import functools
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from lavish.checksums import Checksums
from lavish.config import (
    AudioEncoderConfig,
    BackboneConfig,
    DataConfig,
    FileWeights,
    FolderAssets,
    RunConfig,
    Split,
    WorkflowConfig,
    digest,
    merge,
    parse,
)
from lavish.data.official import OFFICIAL
from lavish.errors import LavishError, nearest
from lavish.options import class_attribute, defines, option_model
from lavish.published_practice import departures
from lavish.table_config import (
    BreakdownFigure,
    ColumnKey,
    ExamplesFigure,
    TableConfig,
    needs_results,
    with_backbones,
)
from lavish.weights import check_sha256

RECIPE_VERSION = 2
"""Part of every identity: raise it with a change of code that may change numbers, and everything is made again."""

TABLES = Path("config/tables")
PUBLISHED = Path("config/published.csv")
CHECKSUMS = Path(".snakemake/lavish-checksums.json")


class MissingMaterial(LavishError):
    """A folder or file that the configuration names is not on this machine; `short` says so in a cell of a table."""

    def __init__(self, message: str, short: str) -> None:
        super().__init__(message)
        self.short = short


@dataclass(frozen=True)
class DataSet:
    """A data set in its official layout and, by the same name, its prepared store."""

    name: str
    config: DataConfig
    composed: str | None
    """Name of the composed folder the store is prepared from; None for a data set on disk."""


@dataclass(frozen=True)
class Weights:
    """Frozen weights of a backbone or an audio encoder; `config` says only what they depend on."""

    name: str
    kind: Literal["backbone", "audio_encoder"]
    config: BackboneConfig | AudioEncoderConfig

    @property
    def pretrained(self) -> bool:
        """Whether a job of the workflow trains them; all others are fetched, copied or drawn."""
        return self.config.weights.source == "pretrain"


@dataclass(frozen=True)
class Run:
    """One resolved configuration and the things it reads."""

    name: str
    config: RunConfig
    data: DataSet
    backbone: Weights
    audio_encoder: Weights | None

    @property
    def folder(self) -> str:
        """Where its results go."""
        return f"results/runs/{self.name}"

    @property
    def training_splits(self) -> tuple[Split, Split]:
        """The only splits a training may read: the one it learns from and the one its epoch is selected on."""
        return ("train", self.config.select_on)


@dataclass(frozen=True)
class Table:
    """A table or one of its figures: the runs it shows, and what the command that writes it is told."""

    name: str
    runs: tuple[Run, ...]
    spec: dict[str, Any]

    @property
    def needs_results(self) -> bool:
        """Whether its runs have to be trained; a table of costs only counts them."""
        return needs_results(self.spec["columns"])

    @property
    def draws_examples(self) -> bool:
        """Whether this is a figure of what its runs predict, and of no numbers."""
        return [figure["kind"] for figure in self.spec["figures"].values()] == ["examples"]


@dataclass
class Experiments:
    """Everything that a configuration asks for, by name."""

    seeds: list[int]
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    """Name of a figure -> name of the table whose runs it shows."""
    runs: dict[str, Run] = field(default_factory=dict)
    data: dict[str, DataSet] = field(default_factory=dict)
    composed: dict[str, DataSet] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    missing: dict[str, MissingMaterial] = field(default_factory=dict)
    """Name of a table -> why it cannot be made on this machine; other tables can."""
    missing_figures: dict[str, MissingMaterial] = field(default_factory=dict)
    """Name of a figure -> why it cannot be made although its table can, without the task that the figure shows."""

    @property
    def table_names(self) -> list[str]:
        """All tables that the configuration asks for, those that cannot be made here included."""
        return sorted([*self.tables, *self.missing])

    @property
    def figure_names(self) -> list[str]:
        """All figures that the configuration asks for, those of tables that cannot be made here included."""
        return [name for name in self.figures if name not in self.missing_figures]

    def table(self, name: str) -> Table:
        """Return a table; an error when the configuration has none of that name or its material is missing."""
        if name in self.missing:
            raise self.missing[name]
        return _lookup(self.tables, name, "table")

    def figure(self, name: str) -> Table:
        """Return a figure: the one section of its table that it draws, so that other rows are none of its concern."""
        table = self.table(_lookup(self.figures, name, "figure"))
        if name in self.missing_figures:
            raise self.missing_figures[name]
        options = table.spec["figures"][name]
        task = options["task"] or table.spec["task"]
        section = next(section for section in table.spec["sections"] if section["title"] == options["section"])
        # A table must hold its baseline, in a section that is not drawn if need be.
        baseline = next(
            row
            for section in table.spec["sections"]
            for row in section["rows"]
            if row["variant"] == table.spec["baseline"]
        )
        drawn = [_of_task(row, task) for row in section["rows"] if task in row["runs"]]
        spec = {key: table.spec[key] for key in ("name", "title", "baseline", "seeds", "titles")} | {
            "task": task,
            "columns": ["metric"],
            "figures": {name: options},
            "sections": [
                {"title": section["title"], "rows": drawn},
                {"title": "Baseline", "rows": [{**_of_task(baseline, task), "published": []}]},
            ],
        }
        folders = {row["runs"][task]["folder"] for row in drawn}
        return Table(name, tuple(run for run in table.runs if run.folder in folders), spec)

    def run(self, name: str) -> Run:
        """Return a run by the name of its folder."""
        return _lookup(self.runs, name, "run")

    def data_set(self, name: str) -> DataSet:
        """Return a data set by the name of its prepared store."""
        return _lookup(self.data, name, "data set")

    def composition(self, name: str) -> DataSet:
        """Return a data set that is prepared from the composed folder of this name."""
        return _lookup(self.composed, name, "composed data set")

    def weights_named(self, name: str) -> Weights:
        """Return weights by the name of their file."""
        return _lookup(self.weights, name, "file of weights")


def load(files: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> Experiments:
    """Read configuration files, each laid over the ones before it, and resolve every table they name.

    Args:
        files: YAML files; `lavish.config.merge` says how one is laid over another.
        overrides: values from the command line, laid over all files.

    Raises:
        LavishError: naming file, row and key of the first thing that is wrong. Missing material is no error here:
            it is raised when a table that needs it is asked for.
    """
    base = _read_yaml(files[0])
    values = base
    for file in files[1:]:
        values = merge(values, _read_yaml(file))
    where = " + ".join(str(file) for file in files)
    config = parse(WorkflowConfig, merge(values, overrides or {}), where)
    repeated = {seed for seed in config.seeds if config.seeds.count(seed) > 1}
    if repeated:
        raise LavishError(f"{where}: key 'seeds': {min(repeated)} is listed more than once")
    return _Resolver(config, where, base, files[0]).resolve()


def task_defaults(files: Sequence[Path], task: str) -> RunConfig:
    """Return the run that the rows of a task's tables start from, the options left at their defaults included.

    Raises:
        LavishError: a file is wrong or has no task of this name.
    """
    values = functools.reduce(merge, map(_read_yaml, files))
    where = " + ".join(map(str, files))
    config = parse(WorkflowConfig, values, where)
    start = merge(config.defaults, _lookup(config.tasks, task, "task").changes)
    return _with_options(parse(RunConfig, start, f"{where}: defaults with tasks.{task}"))


class _Resolver:
    def __init__(self, config: WorkflowConfig, where: str, base: Mapping[str, Any], base_file: Path) -> None:
        self.config, self.where = config, where
        self.base, self.base_file = base, base_file
        self.material = True  # whether data and weights have to be there and are part of identities
        self.experiments = Experiments(seeds=config.seeds)
        self.by_hash: dict[str, Run] = {}
        self.checksums = Checksums(CHECKSUMS)

    def resolve(self) -> Experiments:
        files = {name: TABLES / f"{name}.yaml" for name in self.config.tables}
        for name, file in files.items():
            if not file.is_file():
                known = [path.stem for path in TABLES.glob("*.yaml")]
                raise LavishError(f"{self.where}: key 'tables': there is no {file}{nearest(name, known)}")
        # In sorted order, so that which name a run shared by two tables gets does not depend on what is asked for.
        for name, file in sorted(files.items()):
            self._table(name, file)
        return self.experiments

    def _table(self, name: str, file: Path) -> None:
        table = parse(TableConfig, _read_yaml(file), str(file))
        config, where = self._configuration(table, file)
        try:
            table = with_backbones(table, config.backbones)
        except ValueError as error:
            raise LavishError(f"{file}: {error}") from None
        measures: dict[str, tuple[str, ...]] = {}
        own = [row.task for row in table.rows if row.task is not None]
        for task in dict.fromkeys([*table.tasks, *own]):
            if task not in config.tasks:
                raise LavishError(f"{file}: unknown task '{task}'{nearest(task, config.tasks)}")
            start = merge(config.defaults, config.tasks[task].changes)
            defaults = parse(RunConfig, start, f"{where}: defaults with tasks.{task}")
            measures[task] = class_attribute("tasks", defaults.task.name, "measures", ())
        _check_measures(table, measures, file)
        variants = _resolve_rows(table, file, config)
        self._check_figures(name, table, variants, file)
        published = {
            id: self._published(id, f"{file}: {where}")
            for where, ids in [
                *((f"row '{row.variant}'", row.published) for row in table.rows),
                *((f"published_only '{method.label}'", method.published) for method in table.published_only),
            ]
            for id in ids
        }
        self.material = needs_results(table.columns)
        runs: dict[str, dict[str, Run]] = {variant: {} for variant in variants}
        missing: dict[str, dict[str, MissingMaterial]] = {variant: {} for variant in variants}
        for variant, resolved in variants.items():
            for task, run in resolved.configs.items():
                try:
                    runs[variant][task] = self._run(task, variant, run)
                except MissingMaterial as error:
                    if task == resolved.task:
                        error = MissingMaterial(f"table '{name}' cannot be made: {error}", error.short)
                        self.experiments.missing[name] = error
                        return
                    missing[variant][task] = error
        self._leave_out_figures(table, missing)
        unique = {run.name: run for of_task in runs.values() for run in of_task.values()}
        sections = [
            {
                "title": section.title,
                "rows": [
                    {
                        "variant": row.variant,
                        "label": row.label or variants[row.variant].label,
                        "task": variants[row.variant].task,
                        "runs": {task: _run_spec(run) for task, run in runs[row.variant].items()},
                        "missing": {task: error.short for task, error in missing[row.variant].items()},
                        "published": [published[id] for id in row.published],
                    }
                    for row in section.rows
                ],
            }
            for section in table.sections
        ]
        if table.published_only:
            sections.append(
                {
                    "title": "Published, other methods",
                    "rows": [
                        {
                            "variant": "",
                            "label": method.label,
                            "task": table.task,
                            "runs": {},
                            "published": [published[id] for id in method.published],
                        }
                        for method in table.published_only
                    ],
                }
            )
        baseline = [run.config for run in runs[table.baseline].values()]
        spec = {
            "name": name,
            **table.model_dump(mode="json", include={"title", "description", "task", "baseline", "columns", "figures"}),
            "titles": {task: config.tasks[task].title or task.replace("_", " ") for task in table.tasks},
            # What no training depends on is not to change when seeds do.
            "seeds": self.config.seeds if self.material else config.seeds,
            "sections": sections,
            "facts": _facts(
                [*baseline, *(run.config for run in unique.values())],
                self.material,
                [str(error) for of_task in missing.values() for error in of_task.values()],
            ),
        }
        self.experiments.tables[name] = Table(name, tuple(unique.values()), spec)

    def _check_figures(self, name: str, table: TableConfig, variants: Mapping[str, _Variant], file: Path) -> None:
        sections = {section.title: section for section in table.sections}
        for figure, options in table.figures.items():
            if options.section not in sections:
                hint = nearest(options.section, sections)
                raise LavishError(f"{file}: figure '{figure}': unknown section '{options.section}'{hint}")
            if options.task is not None and options.task not in table.tasks:
                hint = nearest(options.task, table.tasks)
                raise LavishError(f"{file}: figure '{figure}': no column is of task '{options.task}'{hint}")
            drawn = {
                row.variant: config
                for row in sections[options.section].rows
                if (config := variants[row.variant].configs.get(options.task or table.task)) is not None
            }
            if not drawn:
                raise LavishError(
                    f"{file}: figure '{figure}': no row of section '{options.section}' is run on task "
                    f"'{options.task or table.task}'"
                )
            if isinstance(options, ExamplesFigure):
                _check_examples(options, drawn, f"{file}: figure '{figure}'")
            if figure in self.experiments.figures:
                other = self.experiments.figures[figure]
                raise LavishError(f"{file}: figure '{figure}' is also one of table '{other}': rename one of them")
            self.experiments.figures[figure] = name

    def _leave_out_figures(self, table: TableConfig, missing: Mapping[str, Mapping[str, MissingMaterial]]) -> None:
        """Note the figures that show, or compare with, a run whose material is not here."""
        sections = {section.title: section for section in table.sections}
        for figure, options in table.figures.items():
            task = options.task or table.task
            for variant in [table.baseline, *(row.variant for row in sections[options.section].rows)]:
                if task in missing[variant]:
                    error = missing[variant][task]
                    error = MissingMaterial(f"figure '{figure}' cannot be made: {error}", error.short)
                    self.experiments.missing_figures[figure] = error

    def _configuration(self, table: TableConfig, file: Path) -> tuple[WorkflowConfig, str]:
        """Return the configuration a table starts from, and how to name it in messages."""
        if table.configuration is None:
            return self.config, self.where
        own = TABLES.parent / f"{table.configuration}.yaml"
        if not own.is_file():
            raise LavishError(f"{file}: key 'configuration': there is no {own}")
        where = f"{self.base_file} + {own}"
        return parse(WorkflowConfig, merge(self.base, _read_yaml(own)), where), where

    def _run(self, task: str, variant: str, config: RunConfig) -> Run:
        if config.audio_encoder is not None and config.audio_encoder.use == "none":
            config = config.model_copy(update={"audio_encoder": None})
        data = self._data(config.data)
        backbone = self._weights(config.backbone)
        audio_encoder = self._weights(config.audio_encoder) if config.audio_encoder else None
        # What was measured of the material is part of the record of a run, and so are options left at their defaults.
        resolved = _with_options(config).model_copy(
            update={
                "data": data.config,
                "backbone": config.backbone.model_copy(update={"weights": backbone.config.weights}),
                "audio_encoder": config.audio_encoder
                and config.audio_encoder.model_copy(update={"weights": audio_encoder and audio_encoder.config.weights}),
            }
        )
        key = digest(
            # Data and weights are named by their content: the same ones in another place make the same run.
            resolved.model_dump(
                mode="json", exclude={"data": True, "backbone": {"weights"}, "audio_encoder": {"weights"}}
            ),
            data.name,
            backbone.name,
            audio_encoder.name if audio_encoder else None,
            RECIPE_VERSION,
        )
        if key not in self.by_hash:
            run = Run(f"{task}-{variant}-{key}", resolved, data, backbone, audio_encoder)
            self.by_hash[key] = self.experiments.runs[run.name] = run
        return self.by_hash[key]

    def _data(self, config: DataConfig) -> DataSet:
        composed = None
        if config.compose is None:
            assert config.root is not None
            checksum = self._fingerprint(
                config.root,
                config.sha256,
                f"data set '{config.name}' ({config.format})",
                "data.sha256",
                _remedy(config),
            )
            config = config.model_copy(update={"sha256": checksum})
        else:
            assets = config.compose.assets
            if isinstance(assets, FolderAssets):
                remedy = (
                    "it holds one folder a class with images/*.png (cut-outs with an alpha channel) and sounds/*; "
                    "set data.compose.assets.root to where it lies"
                )
                key = "data.compose.assets.sha256"
                checksum = self._fingerprint(assets.root, assets.sha256, "folder of assets", key, remedy)
                assets = assets.model_copy(update={"sha256": checksum})
                config = config.model_copy(update={"compose": config.compose.model_copy(update={"assets": assets})})
            composition = config.composition().model_dump(mode="json", exclude={"compose": {"assets": {"root"}}})
            composed = f"{config.name}_{config.format}-{digest('composed', composition, RECIPE_VERSION)}"
        content = config.model_dump(mode="json", exclude={"root": True, "compose": True})
        name = f"{config.name}_{config.format}-{digest('prepared', content, composed, RECIPE_VERSION)}"
        data = self.experiments.data.setdefault(name, DataSet(name, config, composed))
        if composed:
            self.experiments.composed.setdefault(composed, data)
        return data

    def _weights(self, config: BackboneConfig | AudioEncoderConfig) -> Weights:
        source = config.weights
        if isinstance(source, FileWeights):
            if self.material and not source.path.is_file():
                raise MissingMaterial(
                    f"there is no file of weights {source.path}; set weights.path to where it lies",
                    f"weights not here: {source.path}",
                )
            if self.material:
                measured = self.checksums.of_file(source.path)
                try:
                    check_sha256(source.path, source.sha256, "weights.sha256", measured)
                except LavishError as error:
                    raise MissingMaterial(str(error), f"other weights than the pinned ones: {source.path}") from None
                source = source.model_copy(update={"sha256": measured})
        # How the weights are used does not change them: rows that differ in it share one file.
        kind: Literal["backbone", "audio_encoder"]
        if isinstance(config, BackboneConfig):
            kind, model = "backbone", config.model
            config = BackboneConfig(model=config.model, spec=config.spec, weights=source)
        else:
            kind, model = "audio_encoder", config.kind
            config = AudioEncoderConfig(kind=config.kind, spec=config.spec, weights=source)
        content = config.model_dump(mode="json", exclude={"weights": {"path"}})
        name = f"{model}-{digest(kind, content, RECIPE_VERSION)}"
        return self.experiments.weights.setdefault(name, Weights(name, kind, config))

    def _fingerprint(self, root: Path, expected: str | None, what: str, key: str, remedy: str) -> str | None:
        if not self.material:
            return expected
        if not root.is_dir():
            raise MissingMaterial(f"{what}: there is no folder {root}; {remedy}", f"data not here: {root}")
        measured = self.checksums.of_folder(root)
        if expected is not None and expected != measured:
            raise LavishError(
                f"{what}: the checksum over {root} is {measured}, but {key} says {expected}: files were changed, added "
                "or lost; restore them, or correct the key if the change is meant"
            )
        return measured

    @functools.cached_property
    def published(self) -> dict[str, dict[str, str]]:
        if not PUBLISHED.is_file():
            raise LavishError(f"there is no {PUBLISHED}: it holds the published numbers that rows of tables name")
        with PUBLISHED.open(newline="", encoding="utf-8") as lines:
            try:
                return {row["id"]: row for row in csv.DictReader(lines)}
            except csv.Error as error:
                raise LavishError(f"{PUBLISHED}: not a table ({error}): correct it") from None

    def _published(self, id: str, where: str) -> dict[str, str]:
        if id not in self.published:
            raise LavishError(f"{where}: {PUBLISHED} has no id '{id}'{nearest(id, self.published)}")
        return self.published[id]


def _check_measures(table: TableConfig, measures: Mapping[str, Collection[str]], file: Path) -> None:
    """Stop at a measure that a task does not have: nobody wants to learn that after the trainings."""
    asked = [(f"column '{column}'", key.task, key.measure) for column in table.columns if (key := ColumnKey.of(column))]
    asked += [
        (f"figure '{name}'", figure.task, measure)
        for name, figure in table.figures.items()
        if isinstance(figure, BreakdownFigure)
        for measure in figure.measures
        if measure != "metric"
    ]
    for where, task, measure in asked:
        known = measures[task or table.task]
        if measure is not None and measure not in known:
            raise LavishError(
                f"{file}: {where}: task '{task or table.task}' has no measure '{measure}'{nearest(measure, known)}"
            )


def _check_examples(options: ExamplesFigure, drawn: Mapping[str, RunConfig], where: str) -> None:
    """Stop at a figure of what a task does not draw, or of a step that clips do not have."""
    for variant, config in drawn.items():
        if not defines("tasks", config.task.name, "pictures"):
            raise LavishError(
                f"{where}: row '{variant}': task '{config.task.name}' draws no pictures, and figures of 'examples' "
                "show nothing else: choose another kind or task"
            )
        if options.step >= config.data.steps:
            raise LavishError(
                f"{where}: step {options.step} is counted from 0, but clips of row '{variant}' have data.steps: "
                f"{config.data.steps}"
            )


@dataclass(frozen=True)
class _Variant:
    """A row that defines a variant, resolved: its configuration on each of its tasks."""

    label: str
    task: str
    """The task of columns that name none."""
    configs: dict[str, RunConfig]


def _resolve_rows(table: TableConfig, file: Path, config: WorkflowConfig) -> dict[str, _Variant]:
    """Return all variants of a table by name."""
    variants: dict[str, _Variant] = {}
    for row in table.rows:
        where = f"{file}: row '{row.variant}'"
        if row.set is None:
            if row.variant not in variants:
                raise LavishError(
                    f"{where}: refers to a variant that no row above defines{nearest(row.variant, variants)}; "
                    "define it with `set` (`set: {}` for the defaults themselves)"
                )
            continue
        if row.variant in variants:
            raise LavishError(f"{where}: defined twice; a row without `set` refers to the one above")
        for task in row.tasks or ():
            if task not in table.tasks:
                raise LavishError(f"{where}: no column is of task '{task}'{nearest(task, table.tasks)}")
        for task in row.set_by_task:
            if task not in config.tasks:
                raise LavishError(f"{where}: key 'set_by_task': unknown task '{task}'{nearest(task, config.tasks)}")
        tasks = [row.task] if row.task else [task for task in table.tasks if not row.tasks or task in row.tasks]
        variants[row.variant] = _Variant(
            row.label or row.variant,
            row.task or table.task,
            {
                task: parse(
                    RunConfig,
                    functools.reduce(
                        merge, [config.defaults, config.tasks[task].changes, row.set, row.set_by_task.get(task, {})]
                    ),
                    where if len(table.tasks) == 1 else f"{where}, task '{task}'",
                )
                for task in tasks
            },
        )
    if table.baseline not in variants:
        raise LavishError(
            f"{file}: key 'baseline': no row defines '{table.baseline}'{nearest(table.baseline, variants)}"
        )
    absent = [task for task in table.tasks if task not in variants[table.baseline].configs]
    if absent:
        raise LavishError(f"{file}: key 'baseline': row '{table.baseline}' is not run on task '{absent[0]}'")
    return variants


def _run_spec(run: Run) -> dict[str, Any]:
    """What a table is told of a run."""
    return {
        "folder": run.folder,
        "select_on": run.config.select_on,
        "departures": departures(run.config),
        "settings": _settings(run.config),
    }


def _of_task(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a row of a table with its run on one task alone."""
    return {**row, "task": task, "runs": {task: row["runs"][task]}}


def _with_options(config: RunConfig) -> RunConfig:
    """Return a run that names the options of its task and its adapter which were left at their defaults."""
    task, adapter = config.task, config.adapter
    return config.model_copy(
        update={
            "task": task.model_copy(update={"options": _complete("tasks", task.name, task.options)}),
            "adapter": adapter.model_copy(update={"options": _complete("adapters", adapter.method, adapter.options)}),
        }
    )


def _complete(kind: str, method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a method, those left at their default included: saying a default changes nothing."""
    return {} if method == "none" else option_model(kind, method).model_validate(options).model_dump(mode="json")


def _settings(config: RunConfig) -> dict[str, str | int | None]:
    """What a table can print of a run's configuration; None for what does not apply to it."""
    adapted = config.adapter.method != "none"
    crosses = adapted and config.modalities == "audio_visual" and config.fusion.direction != "none"
    return {
        "backbone": config.backbone.model,
        "latents": config.adapter.options.get("latents") if crosses else None,
        "direction": config.fusion.direction if crosses else "none",
        "position": config.fusion.position if adapted else "none",
    }


def _facts(configs: Sequence[RunConfig], material: bool, missing: Sequence[str]) -> dict[str, str]:
    """What a table's caption says of the data and the backbones of its runs, the baseline's first."""
    facts: dict[str, str] = {}
    if material:
        facts["data"] = "; ".join(dict.fromkeys(_describe_data(config.data) for config in configs))
        facts["backbone"] = "; ".join(
            dict.fromkeys(_describe_weights(config.backbone.model, config.backbone) for config in configs)
        )
    if any(config.backbone.classifier == "counted" for config in configs):
        facts["classifier"] = (
            "total parameters include the pretraining classifier of the backbone, which nothing uses, as the paper's do"
        )
    if missing:
        facts["not here"] = "; ".join(dict.fromkeys(missing))
    return facts


def _remedy(config: DataConfig) -> str:
    """Say how to come by a data set that is not there."""
    remedy = "put it there, or set data.root to where it lies"
    if config.format not in OFFICIAL:  # a layout of one's own videos
        return remedy
    return (
        f"{OFFICIAL[config.format].obtained}; {remedy}, and see what is missing with: lavish data check --task "
        f"{config.format} --root {shlex.quote(str(config.root))}"
    )


def _describe_data(data: DataConfig) -> str:
    layout = data.format.upper().replace("_", "-")
    if data.compose is None:
        return f"{data.name} (official {layout} layout, {data.steps} steps a clip)"
    clips = data.compose.clips
    assets = "procedural assets" if data.compose.assets.kind == "procedural" else "a folder of pictures and sounds"
    return (
        f"{data.name} ({layout} layout): {clips.train}/{clips.val}/{clips.test} clips (train/val/test) of {data.steps} "
        f"{'step' if data.steps == 1 else 'steps'}, made of {assets}"
    )


def _describe_weights(model: str, config: BackboneConfig) -> str:
    sizes = ", ".join(f"{key} {value}" for key, value in config.spec.items())
    source = {
        "hub": "weights from the model hub",
        "file": "weights from a file",
        "pretrain": "pretrained in the workflow",
        "random": "untrained",
    }[config.weights.source]
    return f"{model} ({sizes}; {source})" if sizes else f"{model} ({source})"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LavishError(f"there is no configuration file {file}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LavishError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise LavishError(f"{file} holds no keys: expected `key: value` lines")
    return values


def _lookup(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise LavishError(f"the configuration has no {what} '{name}'{nearest(name, known)}")
    return known[name]
