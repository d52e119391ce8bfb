"""The schema of config/tables/: rows, columns and figures of a table.

Plain data like :mod:`lavish.config.schema`, validated while the workflow is being parsed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator

from lavish.config.merging import merge
from lavish.config.schema import Config, RowChoice
from lavish.errors import did_you_mean

# Only these columns need trainings; all others are counted or known beforehand.
MEASURED_COLUMNS = ("metric", "mean", "difference", "variance_share")
RELIANCE = "reliance"
"""The column of a condition, which has a measure as well."""
RECORDED_COLUMNS = ("step_time", "throughput", "peak_memory", "adapter_size", "validation")
ACROSS_COLUMNS = ("mean_rank", "probability_of_improvement", "ppt")
"""Columns that summarise the measures of all tasks of a table."""
OTHER_COLUMNS = (
    "trainable_params", "total_params", "adapter_gmacs", "total_gmacs", "published",
    "backbone", "latents", "direction", "position", "size", "learning_rate", "tuning",
    "adapter_gmacs_without_norms", "total_gmacs_without_norms", "classifier_params", "backbone_gmacs",
)  # fmt: skip
COLUMN_NAMES = (*MEASURED_COLUMNS, RELIANCE, *ACROSS_COLUMNS, *RECORDED_COLUMNS, *OTHER_COLUMNS)

_COLUMN = re.compile(r"(?P<name>\w+)(:(?P<first>\w+))?(:(?P<second>\w+))?(@(?P<task>\w+))?")
_COLUMN_SCHEMA = {
    "type": "string",
    # Editors suggest the plain names; a measure or a task after them is free text.
    "anyOf": [
        {"enum": [name for name in COLUMN_NAMES if name != RELIANCE]},
        {"pattern": rf"^({'|'.join(MEASURED_COLUMNS)})(:\w+)?(@\w+)?$"},
        {"pattern": rf"^{RELIANCE}:\w+(:\w+)?(@\w+)?$"},
        {"pattern": rf"^({'|'.join((*RECORDED_COLUMNS, *OTHER_COLUMNS))})(@\w+)?$"},
    ],
    "examples": [
        "metric",
        "mean:F_score@segmentation_ms3",
        "reliance:audio@question_answering",
        "trainable_params",
    ],
}


@dataclass(frozen=True)
class ColumnKey:
    """A parsed entry of `columns`: ``name[:measure][@task]``, or ``reliance:condition[:measure][@task]``.

    `measure` is None for the task's own metric, and `task` for the main task of the table.
    """

    name: str
    measure: str | None = None
    task: str | None = None
    condition: str | None = None

    @classmethod
    def of(cls, text: str) -> ColumnKey:
        """Parse an entry; raise ValueError with the nearest valid name for an invalid one."""
        found = _COLUMN.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is not a column: write name, name:measure, name@task or name:measure@task")
        name, first, second, task = found["name"], found["first"], found["second"], found["task"]
        if name not in COLUMN_NAMES:
            raise ValueError(f"unknown column '{name}'{did_you_mean(name, COLUMN_NAMES)}")
        if name == RELIANCE:
            if first is None:
                raise ValueError(f"column '{text}': write {RELIANCE}:condition, with a name of config/conditions.yaml")
            return cls(name, second, task, first)
        if second is not None:
            raise ValueError(f"column '{text}': only '{RELIANCE}' has a condition before its measure")
        key = cls(name, first, task)
        if key.measure is not None and key.name not in MEASURED_COLUMNS:
            names = ", ".join(f"'{name}'" for name in (*MEASURED_COLUMNS, RELIANCE))
            raise ValueError(f"column '{text}': only {names} have a measure")
        if key.name == "published" and key.task is not None:
            raise ValueError(f"column '{text}': published numbers do not depend on the task")
        if key.name in ACROSS_COLUMNS and key.task is not None:
            raise ValueError(f"column '{text}': it summarises all tasks of the table: remove '@{key.task}'")
        return key


EXAMPLE_CLIPS = 8
"""Number of clips whose predictions the workflow stores for figures."""


def _check_column(text: str) -> str:
    ColumnKey.of(text)
    return text


ColumnName = Annotated[str, AfterValidator(_check_column), WithJsonSchema(_COLUMN_SCHEMA)]


class RowConfig(Config):
    """One row of a table: defines a variant with `set`, or refers to one defined above."""

    variant: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    label: str | None = Field(default=None, description="Printed name; by default that of the defining row.")
    set: dict[str, Any] | None = Field(default=None, description="Changes to the task's defaults.")
    set_by_task: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Further changes for single tasks; merged into `set`."
    )
    published: list[str] = Field(default_factory=list, description="Ids of lines of config/published.csv.")
    tasks: list[str] | None = Field(
        default=None,
        min_length=1,
        description="The tasks of the table's columns that the variant is run on; by default all of them. Cells of "
        "the others are empty.",
    )
    task: str | None = Field(
        default=None,
        description="The task of this row instead of the table's, in a table of costs.",
    )
    match_parameters_of: str | None = Field(
        default=None,
        description="A variant of this table: the row's method gets the size (its `budget_option`, such as a rank) "
        "at which its trainable parameters are closest to that variant's.",
    )
    tuned: bool | None = Field(
        default=None, description="Whether the variant is tuned; by default what the table says with `tuned`."
    )
    each_backbone: bool = Field(
        default=False,
        description="One row for each of the configuration's `backbones`: the backbone's name and label are "
        "appended, and its `set` is merged into the row's.",
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> RowConfig:
        defining = (self.tasks, self.task, self.set_by_task, self.match_parameters_of, self.tuned is not None)
        if self.set is None and any(defining):
            raise ValueError(
                "`tasks`, `task`, `set_by_task`, `match_parameters_of` and `tuned` belong to the row that defines the "
                "variant with `set`"
            )
        if self.tasks and self.task:
            raise ValueError("give one of `tasks` (of the table's columns) and `task` (instead of the table's)")
        if self.each_backbone and self.published:
            raise ValueError("`published` numbers belong to one backbone: name them in a row without `each_backbone`")
        return self


class SectionConfig(Config):
    """A group of rows under one heading."""

    title: str
    rows: list[RowConfig] = Field(default_factory=list, description="At least one, or `rows_of`.")
    rows_of: str | None = Field(
        default=None,
        pattern=r"^\w+$",
        description="A file of config/tables/ whose section of the same title has the rows, each on its tasks there.",
    )
    each: list[RowChoice] = Field(
        default_factory=list,
        description="The section is repeated with each of these changes to its rows: their names are appended to its "
        "variants, and their labels to its title.",
    )
    baseline: str | None = Field(
        default=None,
        description="The variant that the rows of this section are compared with, instead of the table's; with `each` "
        "the one with the same change.",
    )

    @model_validator(mode="after")
    def _has_rows(self) -> SectionConfig:
        if bool(self.rows) == (self.rows_of is not None):
            raise ValueError("give either `rows` or `rows_of`, a table with a section of the same title")
        return self

    @model_validator(mode="after")
    def _repeated_rows_have_no_published_numbers(self) -> SectionConfig:
        if self.each and any(row.published or row.each_backbone for row in self.rows):
            raise ValueError("rows of a section with `each` have neither `published` numbers nor `each_backbone`")
        return self


class PublishedMethod(Config):
    """A method with published numbers only."""

    label: str
    published: list[str] = Field(min_length=1, description="Ids of lines of config/published.csv.")


class BaseFigure(Config):
    """What all figures of a table have."""

    title: str
    task: str | None = Field(default=None, description="One of the table's tasks; by default its main one.")


class SectionFigure(BaseFigure):
    """A figure of the rows of one section."""

    section: str = Field(description="Title of the section whose rows are drawn.")


class SectionsFigure(BaseFigure):
    """A figure of the rows of one or several sections, which it tells apart."""

    section: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="Title of the section whose rows are drawn, or of several."
    )


class MetricAgainstCostFigure(SectionsFigure):
    """Each row is a point: its metric against its cost."""

    kind: Literal["metric_against_cost"]
    cost: Literal["adapter_gmacs", "total_gmacs", "trainable_params"] = "adapter_gmacs"
    front: bool = Field(default=False, description="Mark the Pareto front.")


class BreakdownFigure(SectionFigure):
    """Several measures of each row, with their intervals."""

    kind: Literal["breakdown"]
    measures: list[Annotated[str, Field(pattern=r"^\w+$")]] = Field(
        min_length=1, description="Measures of the task, from left to right; 'metric' is its primary one."
    )


class LearningCurveFigure(SectionsFigure):
    """The metric against the number of training clips: one line through the rows of equal label."""

    kind: Literal["learning_curve"]


class PredictedMasksFigure(SectionFigure):
    """Predicted masks: one line per test clip with its frame, its true mask and the mask of each row."""

    kind: Literal["predicted_masks"]
    clips: int = Field(
        default=4, ge=1, description="Number of test clips, the first of the 8 that are stored for each run."
    )
    segment: int = Field(default=0, ge=0, description="The segment of each clip, counted from 0.")

    @field_validator("clips")
    @classmethod
    def _clips_are_kept(cls, clips: int) -> int:
        if clips > EXAMPLE_CLIPS:
            raise ValueError(
                f"{clips} clips, but predictions of {EXAMPLE_CLIPS} clips are stored: give at most {EXAMPLE_CLIPS}"
            )
        return clips


class RelianceFigure(SectionsFigure):
    """The change of a measure under conditions: each row has a point with its interval for each of them."""

    kind: Literal["reliance"]
    measure: Annotated[str, Field(pattern=r"^\w+$")] = Field(
        default="metric", description="A measure of the task; 'metric' is its primary one."
    )
    conditions: list[Annotated[str, Field(pattern=r"^\w+$")]] = Field(
        min_length=1, description="Names of config/conditions.yaml; each stream that they disturb has its own panel."
    )


class ExpectedBestFigure(SectionsFigure):
    """What a tuned table's searches expect of fewer trials than were made; a panel for each section."""

    kind: Literal["expected_best"]


AnyFigure = (
    MetricAgainstCostFigure
    | BreakdownFigure
    | LearningCurveFigure
    | PredictedMasksFigure
    | RelianceFigure
    | ExpectedBestFigure
)
FigureConfig = Annotated[AnyFigure, Field(discriminator="kind")]


def drawn_sections(figure: AnyFigure) -> list[str]:
    """Return the titles of the sections that a figure draws."""
    return [figure.section] if isinstance(figure.section, str) else figure.section


class TableConfig(Config):
    """One file of config/tables/."""

    title: str
    description: str = ""
    task: str = Field(description="The main task, of columns without a task.")
    baseline: str = Field(description="The variant that every other row is compared with.")
    columns: list[ColumnName] = Field(
        min_length=1,
        description="`name[:measure][@task]`: 'metric' (with interval), 'mean' (without) and 'difference' are for the "
        "task's own metric or a further measure; `reliance:condition[:measure][@task]` is its change under a condition "
        "of config/conditions.yaml.",
    )
    configuration: str | None = Field(
        default=None,
        pattern=r"^\w+$",
        description="File of config/ that is merged into config.yaml for this table, instead of `--configfile`.",
    )
    tuned: bool = Field(
        default=False,
        description="Each row's values of its method's `search_space` come from a search with the configuration's "
        "`tuning`, on validation.",
    )
    seed_factor: int = Field(
        default=1,
        ge=1,
        description="This table has so many times the configuration's seeds, counted on from the largest: a variance "
        "needs more of them than a mean.",
    )
    sections: list[SectionConfig] = Field(min_length=1)
    published_only: list[PublishedMethod] = Field(
        default_factory=list, description="Other methods with published numbers only, in a separate section."
    )
    figures: dict[str, FigureConfig] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _figures_draw_results(self) -> TableConfig:
        if self.figures and not needs_results(self.columns):
            raise ValueError("`figures` need results, but no column has any: add 'metric' or remove the figures")
        return self

    @model_validator(mode="after")
    def _searches_are_of_results(self) -> TableConfig:
        if self.tuned and not needs_results(self.columns):
            raise ValueError("`tuned` needs results, but no column has any: add 'metric' or remove the key")
        for name, figure in self.figures.items():
            if isinstance(figure, ExpectedBestFigure) and not self.tuned:
                raise ValueError(f"figure '{name}' is about a search: say `tuned: true`, or remove it")
        return self

    @model_validator(mode="after")
    def _rows_of_other_tasks_are_only_counted(self) -> TableConfig:
        of_its_own = [row.variant for row in self.rows if row.task is not None]
        if of_its_own and needs_results(self.columns):
            raise ValueError(f"row '{of_its_own[0]}' has another task: a column cannot mix the results of two tasks")
        if of_its_own and len(self.tasks) > 1:
            raise ValueError(f"row '{of_its_own[0]}' has its own task, so columns must not name a task")
        return self

    @model_validator(mode="after")
    def _summaries_have_something_to_summarise(self) -> TableConfig:
        across = [column for column in self.columns if ColumnKey.of(column).name in ACROSS_COLUMNS]
        if across and not summarised(self.columns, self.task):
            raise ValueError(f"column '{across[0]}' summarises the columns 'metric' and 'mean': add one for each task")
        return self

    @model_validator(mode="after")
    def _published_methods_are_printed(self) -> TableConfig:
        if self.published_only and "published" not in self.columns:
            raise ValueError("`published_only` needs the column 'published'")
        return self

    @property
    def rows(self) -> list[RowConfig]:
        """The rows of all sections."""
        return [row for section in self.sections for row in section.rows]

    def seeds(self, of_all: list[int]) -> list[int]:
        """Return the seeds of this table from those of the configuration."""
        more = (self.seed_factor - 1) * len(of_all)
        return [*of_all, *range(max(of_all) + 1, max(of_all) + 1 + more)]

    @property
    def tasks(self) -> list[str]:
        """The tasks whose results or costs the table prints, the main one first."""
        return tasks_of(self.columns, self.task)


def tasks_of(columns: Iterable[str], main: str) -> list[str]:
    """Return the tasks that columns name, the main one first."""
    named = (ColumnKey.of(column).task for column in columns)
    return list(dict.fromkeys([main, *(task for task in named if task is not None)]))


def summarised(columns: Iterable[str], main: str) -> dict[str, str | None]:
    """Return by task the measure that summaries over tasks use: that of its first column 'metric' or 'mean'."""
    keys = [key for key in map(ColumnKey.of, columns) if key.name in ("metric", "mean")]
    found: dict[str, str | None] = {}
    for key in keys:
        found.setdefault(key.task or main, key.measure)
    return found


def needs_results(columns: Iterable[str]) -> bool:
    """Tell whether a table of these columns needs trained runs."""
    return any(ColumnKey.of(column).name in (*MEASURED_COLUMNS, RELIANCE, *RECORDED_COLUMNS) for column in columns)


def expanded(table: TableConfig, backbones: Sequence[RowChoice]) -> TableConfig:
    """Return the table with its sections and rows repeated: see :class:`SectionConfig` and :class:`RowConfig`.

    Each section with `each` becomes one section per change, and each row with `each_backbone` one row per backbone. A
    row without `set` repeats the variant it refers to, with the change. Raises ValueError naming the row if there are
    no backbones or no row above defines the variant.
    """
    defined: dict[str, RowConfig] = {}
    sections: list[SectionConfig] = []
    titles: dict[str, list[str]] = {}
    for section in table.sections:
        if section.each:
            sources = [_source(row, defined) for row in section.rows]
            of_section = {row.variant for row in section.rows}
            for choice in section.each:
                rows = [
                    _changed(row, source, choice, row.label or source.label or row.variant, of_section)
                    for row, source in zip(section.rows, sources, strict=True)
                ]
                own = section.baseline
                update = {
                    "title": f"{section.title}: {choice.label}",
                    "rows": rows,
                    "each": [],
                    "baseline": f"{own}_{choice.name}" if own in of_section else own,
                }
                sections.append(section.model_copy(update=update))
                titles.setdefault(section.title, []).append(sections[-1].title)
                defined |= {row.variant: row for row in rows}
            continue
        rows = []
        for row in section.rows:
            if not row.each_backbone:
                rows.append(row)
                if row.set is not None:
                    defined[row.variant] = row
                continue
            if not backbones:
                raise ValueError(f"row '{row.variant}' is for each backbone, but the configuration has no `backbones`")
            source = _source(row, defined)
            label = row.label or source.label or row.variant
            made = [_changed(row, source, one, f"{label}, {one.label}") for one in backbones]
            rows += made
            defined |= {row.variant: row for row in made}
        sections.append(section.model_copy(update={"rows": rows}))
    figures = {
        name: figure.model_copy(
            update={"section": [new for title in drawn_sections(figure) for new in titles.get(title, [title])]}
        )
        if not titles.keys().isdisjoint(drawn_sections(figure)) and isinstance(figure, SectionsFigure)
        else figure
        for name, figure in table.figures.items()
    }
    return table.model_copy(update={"sections": sections, "figures": figures})


def _source(row: RowConfig, defined: Mapping[str, RowConfig]) -> RowConfig:
    """Return the row itself, or the one above that defines its variant."""
    if row.set is None and row.variant not in defined:
        raise ValueError(
            f"row '{row.variant}': refers to a variant that no row above defines"
            f"{did_you_mean(row.variant, defined)}; define it with `set` (`set: {{}}` for the defaults)"
        )
    return row if row.set is not None else defined[row.variant]


def _changed(
    row: RowConfig, source: RowConfig, choice: RowChoice, label: str, repeated: Collection[str] | None = None
) -> RowConfig:
    """Return a row with a change; a size is matched to that of the changed variant, if it is `repeated` (None: all)."""
    target = source.match_parameters_of
    if target is not None and (repeated is None or target in repeated):
        target = f"{target}_{choice.name}"
    return source.model_copy(
        update={
            "variant": f"{row.variant}_{choice.name}",
            "label": label,
            "set": merge(source.set or {}, choice.set),
            "set_by_task": merge(source.set_by_task, choice.set_by_task),
            "match_parameters_of": target,
            "published": [],
            "each_backbone": False,
        }
    )
