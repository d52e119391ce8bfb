"""Resolves configuration files to tables, and to the runs, data sets and weights that they need.

Imports neither torch nor Snakemake, because every row of every table is resolved and validated each time the workflow
is parsed.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lavish.config.conditions import NamedCondition
from lavish.config.measures import Measure
from lavish.config.merging import merge
from lavish.config.options import budget_option, task_measures
from lavish.config.schema import HubWeights, RunConfig, WorkflowConfig
from lavish.config.validation import parse
from lavish.errors import LavishError, did_you_mean
from lavish.io.yaml_files import read_yaml
from lavish.planning.conditions import asked_conditions, describe_conditions, describe_streams, evaluations
from lavish.planning.frozen_features import Features, audio_encoder_features, frozen_features
from lavish.planning.identities import DataSet, Identities, MissingInput, Run, Weights, with_options
from lavish.planning.parameter_budgets import sizes
from lavish.planning.run_labels import RunLabel
from lavish.planning.search_spaces import with_search
from lavish.planning.tables.captions import describe_matches, describe_run, describe_runs
from lavish.planning.tables.draft import Draft
from lavish.planning.tables.rows import check_figures, check_measures, resolve_rows
from lavish.planning.tables.schema import TableConfig, drawn_sections, expanded, needs_results
from lavish.planning.tables.shared_rows import with_shared_rows
from lavish.planning.weights_lock import WeightsLock
from lavish.runtime.gpus import gpu_is_visible

TABLES = Path("config/tables")
PUBLISHED = Path("config/published.csv")


@dataclass(frozen=True)
class Table:
    """A table or one of its figures: its runs, and the specification for the command that writes it."""

    name: str
    runs: tuple[Run, ...]
    spec: dict[str, Any]

    @property
    def needs_results(self) -> bool:
        """Whether its runs must be trained; a table of costs only counts them."""
        return needs_results(self.spec["columns"])

    @property
    def seeds(self) -> list[int]:
        """The seeds that its runs are trained with."""
        return self.spec["seeds"]

    @property
    def draws_predictions(self) -> bool:
        """Whether this is a figure of predictions instead of numbers."""
        return [figure["kind"] for figure in self.spec["figures"].values()] == ["predicted_masks"]

    @property
    def evaluations(self) -> list[tuple[str, str]]:
        """The run and the folder of each evaluation under a condition."""
        return list(evaluations(self.spec))


@dataclass
class Experiments:
    """Everything that a configuration defines, by name."""

    device: Literal["cpu", "cuda"]
    """Where jobs run; for `device: auto` decided by what this machine has."""
    device_setting: Literal["auto", "cpu", "cuda"]
    """`device` as configured."""
    jobs_per_gpu: int
    """Jobs that share a GPU of this machine."""
    cache_features: bool
    """Whether features of frozen backbones are computed once."""
    fork_server: bool
    monitor: str
    """Whether the workflow starts a fork server for its jobs."""
    tables: dict[str, Table] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    """The table of each figure, by names."""
    runs: dict[str, Run] = field(default_factory=dict)
    searches: dict[str, Run] = field(default_factory=dict)
    """By the name of each hyperparameter search a run whose trials it has."""
    data: dict[str, DataSet] = field(default_factory=dict)
    composed: dict[str, DataSet] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    conditions: dict[str, NamedCondition] = field(default_factory=dict)
    """By the names of folders of evaluations without the split."""
    labels: list[RunLabel] = field(default_factory=list)
    """The rows of tables that runs belong to."""
    missing: dict[str, MissingInput] = field(default_factory=dict)
    """The tables that cannot be made on this machine, with the reason."""
    missing_figures: dict[str, MissingInput] = field(default_factory=dict)
    """The figures that cannot be made although their table can, with the reason."""

    @property
    def table_names(self) -> list[str]:
        """All tables of the configuration, including those that cannot be made on this machine."""
        return sorted([*self.tables, *self.missing])

    @property
    def figure_names(self) -> list[str]:
        """All figures of the configuration, including those of tables that cannot be made on this machine."""
        return [name for name in self.figures if name not in self.missing_figures]

    def table(self, name: str) -> Table:
        """Return a table; raise an error if the configuration has no such table or its inputs are missing."""
        if name in self.missing:
            raise self.missing[name]
        return _lookup(self.tables, name, "table")

    def figure(self, name: str) -> Table:
        """Return a figure with the sections of its table that it draws, so that it does not depend on other rows."""
        table = self.table(_lookup(self.figures, name, "figure"))
        if name in self.missing_figures:
            raise self.missing_figures[name]
        options = table.spec["figures"][name]
        task = options["task"] or table.spec["task"]
        titles = [options["section"]] if isinstance(options["section"], str) else options["section"]
        drawn = [
            {
                "title": section["title"],
                "rows": [_of_task(row, task) for row in section["rows"] if task in row["runs"]],
            }
            for section in table.spec["sections"]
            if section["title"] in titles
        ]
        # A table must contain its baseline, if necessary in a section that is not drawn.
        baseline = next(
            row
            for section in table.spec["sections"]
            for row in section["rows"]
            if row["variant"] == table.spec["baseline"]
        )
        spec = {key: table.spec[key] for key in ("name", "title", "baseline", "seeds", "titles", "measures")} | {
            "task": task,
            "columns": ["metric"],
            "figures": {name: options},
            "sections": [
                *(section for section in drawn if section["rows"]),
                {"title": "Baseline", "rows": [{**_of_task(baseline, task), "published": []}]},
            ],
        }
        if options["kind"] == "reliance":
            measure = "" if options["measure"] == "metric" else f":{options['measure']}"
            spec["columns"] = ["metric", *(f"reliance:{name}{measure}" for name in options["conditions"])]
            spec["conditions"] = {name: table.spec["conditions"][name] for name in options["conditions"]}
        folders = {row["runs"][task]["folder"] for section in drawn for row in section["rows"]}
        return Table(name, tuple(run for run in table.runs if run.folder in folders), spec)

    def run(self, name: str) -> Run:
        """Return a run by the name of its folder."""
        return _lookup(self.runs, name, "run")

    def search(self, name: str) -> Run:
        """Return a run by the name of its search; what its trials depend on is in its configuration."""
        return _lookup(self.searches, name, "search")

    def data_set(self, name: str) -> DataSet:
        """Return a data set by the name of its prepared store."""
        return _lookup(self.data, name, "data set")

    def composition(self, name: str) -> DataSet:
        """Return a data set that is prepared from the composed folder of this name."""
        return _lookup(self.composed, name, "composed data set")

    def frozen_features(self, run: Run) -> dict[str, Features]:
        """Return, by stream, the features of the frozen backbone that a run reads instead of images."""
        return frozen_features(run) if self.cache_features and self.device == "cpu" else {}

    def condition(self, identity: str) -> NamedCondition:
        """Return a condition by its name with the hash of what it does."""
        return _lookup(self.conditions, identity, "condition")

    def features_named(self, name: str) -> Features:
        """Return features by the name of their folder."""
        return _lookup(self._features, name, "features")

    @functools.cached_property
    def _features(self) -> dict[str, Features]:
        runs = self.runs.values()
        # Also those that this configuration does not use: a job that has read them keeps them as inputs.
        found = [features for run in runs for features in frozen_features(run).values()]
        found += [features for run in runs if (features := audio_encoder_features(run)) is not None]
        return {features.name: features for features in found}

    def weights_named(self, name: str) -> Weights:
        """Return weights by the name of their file."""
        return _lookup(self.weights, name, "file of weights")


def load(
    files: Sequence[Path],
    overrides: Mapping[str, Any] | None = None,
    *,
    trust_checksums: bool = False,
    ask_hub: bool = False,
) -> Experiments:
    """Read configuration files, merge each into the previous ones, and resolve every table.

    Args:
        files: YAML files, merged by :func:`lavish.config.merging.merge`.
        overrides: values from the command line, merged last.
        trust_checksums: see :class:`lavish.planning.identities.Identities`.
        ask_hub: see :class:`lavish.planning.weights_lock.WeightsLock`.

    Raises:
        LavishError: naming file, row and key of the first mistake. Missing inputs are only an error when a table that
            needs them is requested.
    """
    return _resolver(files, overrides or {}, trust_checksums=trust_checksums, ask_hub=ask_hub).resolve()


def weights_on_hub(files: Sequence[Path]) -> list[tuple[HubWeights, str]]:
    """Return the weights from the model hub that the results of a configuration need, each with the model's name.

    Data need not be there.

    Raises:
        LavishError: naming file, row and key of the first mistake.
    """
    resolver = _resolver(files, {})
    found: dict[str, tuple[HubWeights, str]] = {}
    for draft in resolver.drafts():
        if not needs_results(draft.table.columns):
            continue
        for config in (config for variant in draft.variants.values() for config in variant.configs.values()):
            encoder = config.audio_encoder
            users = [(used.weights, used.model) for used in config.used_backbones()]
            users += [(encoder.weights, encoder.kind)] if encoder is not None and encoder.use != "none" else []
            for weights, model in users:
                if isinstance(weights, HubWeights):
                    found[f"{model} {weights}"] = (weights, model)
    return list(found.values())


def _resolver(
    files: Sequence[Path], overrides: Mapping[str, Any], *, trust_checksums: bool = False, ask_hub: bool = False
) -> _Resolver:
    base = _read_yaml(files[0])
    values = base
    for file in files[1:]:
        values = merge(values, _read_yaml(file))
    where = " + ".join(str(file) for file in files)
    config = parse(WorkflowConfig, merge(values, overrides), where)
    repeated = {seed for seed in config.seeds if config.seeds.count(seed) > 1}
    if repeated:
        raise LavishError(f"{where}: key 'seeds': {min(repeated)} is listed more than once")
    named = [name for name, task in config.tasks.items() if "task" in task.changes or "task" in config.defaults]
    for name in config.tasks:
        if name not in named:  # a misspelt name would change nothing, and nobody would know
            raise LavishError(
                f"{where}: tasks.{name} does not say which task it is{did_you_mean(name, named)}: correct the name, or "
                f"give tasks.{name}.task.name"
            )
    lock = WeightsLock(ask_hub=ask_hub, frozen=config.frozen_weights)
    return _Resolver(config, where, base, files[0], Identities(trust_checksums=trust_checksums, lock=lock))


def task_defaults(files: Sequence[Path], task: str) -> RunConfig:
    """Return the default run of a task, including the options at their defaults.

    Raises:
        LavishError: a file is wrong or has no task of this name.
    """
    values = functools.reduce(merge, map(_read_yaml, files))
    where = " + ".join(map(str, files))
    config = parse(WorkflowConfig, values, where)
    _lookup(config.tasks, task, "task")
    return with_options(_defaults_of(config, task, where).resolved())


def _defaults_of(config: WorkflowConfig, task: str, where: str) -> RunConfig:
    """Return the run that the rows of a task start from; an error says which change of the task does not fit."""
    changes = config.tasks[task].changes
    try:
        return parse(RunConfig, merge(config.defaults, changes), f"{where}: defaults with tasks.{task}")
    except LavishError as error:
        for key in changes:
            with suppress(LavishError):
                parse(RunConfig, merge(config.defaults, {k: v for k, v in changes.items() if k != key}), where)
                remedy = f"tasks.{task}.{key} does not fit: change it, or set it to null to keep that of the defaults"
                break
        else:
            raise
        raise LavishError(f"{error}\n  {remedy}") from None


class _Resolver:
    def __init__(
        self, config: WorkflowConfig, where: str, base: Mapping[str, Any], base_file: Path, identities: Identities
    ) -> None:
        self.config, self.where = config, where
        self.base, self.base_file = base, base_file
        self.identities = identities
        self.experiments = Experiments(
            device=("cuda" if gpu_is_visible() else "cpu") if config.device == "auto" else config.device,
            device_setting=config.device,
            jobs_per_gpu=config.jobs_per_gpu,
            cache_features=config.cache_features == "auto",
            fork_server=config.fork_server,
            monitor=config.monitor,
            runs=self.identities.runs,
            searches=self.identities.searches,
            data=self.identities.data,
            composed=self.identities.composed,
            weights=self.identities.weights,
        )

    def drafts(self) -> list[Draft]:
        files = {name: TABLES / f"{name}.yaml" for name in self.config.tables}
        for name, file in files.items():
            if not file.is_file():
                known = [path.stem for path in TABLES.glob("*.yaml")]
                raise LavishError(f"{self.where}: key 'tables': there is no {file}{did_you_mean(name, known)}")
        return [self._draft(name, file) for name, file in files.items()]

    def resolve(self) -> Experiments:
        drafts = self.drafts()
        matches = sizes({name: one for draft in drafts for name, one in draft.requests().items()})
        for draft in drafts:
            self._table(draft.with_sizes(matches))
        return self.experiments

    def _draft(self, name: str, file: Path) -> Draft:
        table = with_shared_rows(_read_table(file), file, functools.partial(_read_other, file))
        config, where = self._configuration(table, file)
        try:
            table = expanded(table, config.backbones)
        except ValueError as error:
            raise LavishError(f"{file}: {error}") from None
        measures: dict[str, dict[str, Measure]] = {}
        own = [row.task for row in table.rows if row.task is not None]
        for task in dict.fromkeys([*table.tasks, *own]):
            if task not in config.tasks:
                raise LavishError(f"{file}: unknown task '{task}'{did_you_mean(task, config.tasks)}")
            defaults = _defaults_of(config, task, where)
            measures[task] = task_measures(defaults.task.name)
        check_measures(table, {task: list(found)[1:] for task, found in measures.items()}, file)
        variants = resolve_rows(table, file, config)
        check_figures(table, variants, file)
        conditions = asked_conditions(table, variants, file)
        return Draft(name, file, table, config, where, variants, measures, conditions)

    def _table(self, draft: Draft) -> None:
        name, file, table, config, variants = draft.name, draft.file, draft.table, draft.config, draft.variants
        self._name_figures(name, table, file)
        published = {
            id: self._published(id, f"{file}: {where}")
            for where, ids in [
                *((f"row '{row.variant}'", row.published) for row in table.rows),
                *((f"published_only '{method.label}'", method.published) for method in table.published_only),
            ]
            for id in ids
        }
        self.identities.needs_inputs = needs_results(table.columns)
        runs: dict[str, dict[str, Run]] = {variant: {} for variant in variants}
        missing: dict[str, dict[str, MissingInput]] = {variant: {} for variant in variants}
        for variant, resolved in variants.items():
            for task, run in resolved.configs.items():
                run = self._searched(draft, variant, task, run)
                try:
                    runs[variant][task] = self.identities.run(run)
                except MissingInput as error:
                    if task == resolved.task and variant == table.baseline:
                        error = MissingInput(f"table '{name}' cannot be made: {error}", error.short)
                        self.experiments.missing[name] = error
                        return
                    missing[variant][task] = error
        self._exclude_figures(table, missing)
        self.experiments.labels += [
            RunLabel(run.name, name, task, row.variant, row.label or variants[row.variant].label)
            for row in table.rows
            for task, run in runs[row.variant].items()
        ]
        unique = {run.name: run for of_task in runs.values() for run in of_task.values()}
        sections = [
            {
                "title": section.title,
                "rows": [
                    {
                        "variant": row.variant,
                        "label": row.label or variants[row.variant].label,
                        "task": variants[row.variant].task,
                        "baseline": section.baseline,
                        "runs": {
                            task: describe_run(run) | describe_streams(run.config)
                            for task, run in runs[row.variant].items()
                        },
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
            "measures": {
                task: [asdict(one) | {"limits": list(one.limits)} for one in draft.measures[task].values()]
                for task in table.tasks
            },
            # A table of costs must not change with the seeds.
            "seeds": table.seeds(self.config.seeds if self.identities.needs_inputs else config.seeds),
            "sections": sections,
            "facts": describe_runs(
                [*baseline, *(run.config for run in unique.values())],
                self.identities.needs_inputs,
                [str(error) for of_task in missing.values() for error in of_task.values()],
            )
            | describe_matches(draft.matched),
        }
        if draft.conditions:
            spec["conditions"] = describe_conditions(draft.conditions)
            self.experiments.conditions |= {one.identity: one for one in draft.conditions.values()}
        self.experiments.tables[name] = Table(name, tuple(unique.values()), spec)

    def _searched(self, draft: Draft, variant: str, task: str, run: RunConfig) -> RunConfig:
        """Return a run of a table, with its search if it is tuned; options that its row sets are not searched."""
        [row] = [row for row in draft.table.rows if row.variant == variant and row.set is not None]
        tuning = draft.config.tuning
        if tuning == "none" or not (draft.table.tuned if row.tuned is None else row.tuned):
            return run
        changes = merge(row.set or {}, row.set_by_task.get(task, {}))
        fixed = {*changes.get("adapter", {}).get("options", {})}
        matched = [one.match_parameters_of for one in draft.table.rows]
        if row.match_parameters_of is not None or variant in matched:
            fixed |= {option for option in [budget_option(run.adapter.method)] if option is not None}
        return with_search(
            run,
            tuning,
            rates=_defaults_of(draft.config, task, draft.where),
            reported=draft.table.seeds(self.config.seeds),
            fixed=fixed,
            where=f"{draft.file}: row '{variant}', task '{task}'",
        )

    def _name_figures(self, name: str, table: TableConfig, file: Path) -> None:
        for figure in table.figures:
            if figure in self.experiments.figures:
                other = self.experiments.figures[figure]
                raise LavishError(f"{file}: figure '{figure}' is also one of table '{other}': rename one of them")
            self.experiments.figures[figure] = name

    def _exclude_figures(self, table: TableConfig, missing: Mapping[str, Mapping[str, MissingInput]]) -> None:
        """Record the figures that need a run whose inputs are missing."""
        sections = {section.title: section for section in table.sections}
        for figure, options in table.figures.items():
            task = options.task or table.task
            rows = [row for title in drawn_sections(options) for row in sections[title].rows]
            for variant in [table.baseline, *(row.variant for row in rows)]:
                if task in missing[variant]:
                    error = missing[variant][task]
                    error = MissingInput(f"figure '{figure}' cannot be made: {error}", error.short)
                    self.experiments.missing_figures[figure] = error

    def _configuration(self, table: TableConfig, file: Path) -> tuple[WorkflowConfig, str]:
        """Return the configuration of a table, and its name for messages."""
        if table.configuration is None:
            return self.config, self.where
        own = TABLES.parent / f"{table.configuration}.yaml"
        if not own.is_file():
            raise LavishError(f"{file}: key 'configuration': there is no {own}")
        where = f"{self.base_file} + {own}"
        return parse(WorkflowConfig, merge(self.base, _read_yaml(own)), where), where

    @functools.cached_property
    def published(self) -> dict[str, dict[str, str]]:
        if not PUBLISHED.is_file():
            raise LavishError(f"there is no {PUBLISHED}: it contains the published numbers that tables refer to")
        with PUBLISHED.open(newline="", encoding="utf-8") as lines:
            rows = csv.DictReader(lines, strict=True)
            published: dict[str, dict[str, str]] = {}
            try:
                for row in rows:
                    where = f"{PUBLISHED}, line {rows.line_num}"
                    if "id" not in row or None in row or None in row.values():
                        raise LavishError(f"{where}: other columns than in the first line, or no 'id': correct it")
                    if row["id"] in published:
                        raise LavishError(f"{where}: id '{row['id']}' is there twice: remove one")
                    published[row["id"]] = row
                return published
            except (csv.Error, UnicodeDecodeError) as error:
                raise LavishError(f"{PUBLISHED}: not a table ({error}): correct it") from None

    def _published(self, id: str, where: str) -> dict[str, str]:
        if id not in self.published:
            raise LavishError(f"{where}: {PUBLISHED} has no id '{id}'{did_you_mean(id, self.published)}")
        return self.published[id]


def _of_task(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a row of a table with its run on one task only."""
    return {**row, "task": task, "runs": {task: row["runs"][task]}}


def _read_table(file: Path) -> TableConfig:
    return parse(TableConfig, _read_yaml(file), str(file))


def _read_other(file: Path, name: str) -> TableConfig:
    """Return the table whose rows `file` takes."""
    other = TABLES / f"{name}.yaml"
    if not other.is_file():
        known = [path.stem for path in TABLES.glob("*.yaml")]
        raise LavishError(f"{file}: key 'rows_of': there is no {other}{did_you_mean(name, known)}")
    return _read_table(other)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = read_yaml(file)
    except FileNotFoundError:
        raise LavishError(f"there is no configuration file {file}") from None
    if not isinstance(values, dict):
        raise LavishError(f"{file}: there are no keys in it: expected `key: value` lines")
    return values


def _lookup(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise LavishError(f"the configuration has no {what} '{name}'{did_you_mean(name, known)}")
    return known[name]
