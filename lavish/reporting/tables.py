"""Writing a table as markdown, CSV and LaTeX.

The same results give the same bytes: no dates, no machine, and measured times only where a column asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
from pylatexenc.latexencode import unicode_to_latex
from tabulate import tabulate

from lavish.io.atomic import write_text
from lavish.planning.tables.schema import ACROSS_COLUMNS, ColumnKey, needs_results
from lavish.reporting import columns
from lavish.reporting.across_tasks import with_summaries
from lavish.reporting.columns import (
    ALWAYS,
    DOUBLE_DAGGER,
    NOTHING,
    TEXT,
    PublishedMarks,
    Value,
    measure_words,
    published_source,
)
from lavish.reporting.comparison import Comparison, Missing, Reads, Row, TableSpec, compare, parse_spec
from lavish.reporting.records import seed_directory
from lavish.reporting.resolution import resolution_notes
from lavish.reporting.summary_columns import SUMMARIES

_DAGGER = "†"
COLUMNS = columns.COLUMNS | SUMMARIES
_MAIN_COSTS = ("trainable_params", "total_params", "adapter_gmacs", "total_gmacs")


def write_table(spec: dict[str, Any], out: Path) -> None:
    """Write `out`.md, `out`.csv and `out`.tex from a table the workflow resolved (see :class:`TableSpec`).

    Missing results become cells that say so. Raises LavishError for an unknown column or measure and for invalid
    results.
    """
    table = parse_spec(spec)
    comparison = with_summaries(compare(table, reads_of(table)))
    texts = {"md": markdown(comparison), "csv": comma_separated(comparison), "tex": latex(comparison)}
    for suffix, text in texts.items():
        write_text(out.parent / f"{out.name}.{suffix}", text)


def reads_of(table: TableSpec) -> dict[str, Reads]:
    """Return the results that the columns of a table and of its CSV need from the runs of each task."""
    reads = {task: Reads(cost=True) for task in table.tasks} if needs_results(table.columns) else {}
    for key in map(ColumnKey.of, table.columns):
        task = key.task or table.task
        reads[task] = reads.get(task, Reads()) | COLUMNS[key.name].reads(key)
    return reads


def markdown(comparison: Comparison) -> str:
    """Return the table as markdown: one table per section, then the notes and the sources of published numbers."""
    spec = comparison.spec
    parts = [f"# {spec.title}"]
    if spec.description:
        parts.append(spec.description.strip())
    for title, rows in comparison.sections:
        # Methods that were not run have only this column.
        keys = _keys(comparison) if any(row.spec.runs for row in rows) else [ColumnKey("published")]
        body = tabulate(
            [[_markdown_cell(cell) for cell in line] for line in _lines(comparison, rows, keys)],
            headers=[_markdown_cell(heading) for heading in _headings(comparison, keys)],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=_alignment(comparison, keys),
        )
        parts += [f"## {title}", body]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes_of(comparison))]
    if sources := sources_of(comparison):
        parts += ["### Sources of published numbers", "\n".join(f"{number}. {text}" for number, text in sources)]
    return "\n\n".join(parts) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """Return the table as CSV, one line per row of a section, in plain numbers.

    Metric values and differences are fractions, not percentages. `seed<k>` is the mean of one seed, and `runs` lists
    the folders of all trainings of a line; `status` is 'ok' or says what is missing. Fields of a measure begin with its
    name and, if the table prints several tasks, with the task's. A table that needs no results begins with
    `configuration`, followed by its own columns in their order; `cost` names the file of a line.
    """
    spec = comparison.spec
    if not needs_results(spec.columns):
        return _costs_separated(comparison)
    keys = _csv_keys(spec)
    lines = []
    for title, rows in comparison.sections:
        for row in rows:
            line: dict[str, Value] = {
                "section": title,
                "variant": row.spec.variant,
                "label": row.spec.label,
                "seeds": ";".join(str(seed) for seed in spec.seeds),
            }
            for key in keys:
                line |= _fields(spec, row, key)
            runs = row.spec.runs.values()
            line |= {
                "selected_on": "; ".join(dict.fromkeys(run.select_on for run in runs)),
                "published_practice": "; ".join(row.deviations),
                "runs": ";".join(seed_directory(run.folder, seed).as_posix() for run in runs for seed in spec.seeds),
                "status": _status(row),
            }
            lines.append(line)
    return _csv(lines)


def _csv_keys(spec: TableSpec) -> list[ColumnKey]:
    """The columns of the CSV by task, in the order of COLUMNS; those without a task come last."""
    asked = [replace(key, task=key.task or spec.task) for key in map(ColumnKey.of, spec.columns)]
    keys = []
    for task in spec.tasks:
        for name in COLUMNS:
            always = [ColumnKey(name, None, task)] if name in ALWAYS else []
            keys += [*always, *(key for key in asked if (key.name, key.task) == (name, task))]
    published = [ColumnKey("published")]
    return [*(key for key in dict.fromkeys(keys) if key.name != "published"), *published]


def _fields(spec: TableSpec, row: Row, key: ColumnKey) -> dict[str, Value]:
    across = key.name in (*ACROSS_COLUMNS, "published")
    prefix = f"{key.task or spec.task}_" if len(spec.tasks) > 1 and not across else ""
    return {prefix + name: value for name, value in COLUMNS[key.name].fields(row, key).items()}


def _status(row: Row) -> str:
    return "; ".join(dict.fromkeys(_reasons(row))) or ("ok" if row.spec.runs else "published")


def _costs_separated(comparison: Comparison) -> str:
    lines = []
    for title, rows in comparison.sections:
        for row in rows:
            line: dict[str, Value] = {"configuration": row.spec.label}
            for key in _keys(comparison):
                line |= _fields(comparison.spec, row, key)
            result = row.of(None)
            cost = None if result is None or result.spec is None else (result.spec.folder / "cost.json").as_posix()
            line |= {"section": title, "variant": row.spec.variant, "cost": cost, "status": _status(row)}
            lines.append(line)
    return _csv(lines)


def _csv(lines: list[dict[str, Value]]) -> str:
    plain = [{key: _plain(value) for key, value in line.items()} for line in lines]
    # As objects, so that an empty cell does not turn a column of integers into floats.
    return pandas.DataFrame(plain, dtype=object).to_csv(index=False, lineterminator="\n")


def latex(comparison: Comparison) -> str:
    """Return the table as one LaTeX tabular (package booktabs) inside a table environment with its caption."""
    keys = _keys(comparison)
    lines: list[list[str]] = []
    titles: dict[int, str] = {}
    for title, rows in comparison.sections:
        titles[len(lines)] = title
        lines += [[cell.replace("\n", " ") for cell in line] for line in _lines(comparison, rows, keys)]
    headings = _headings(comparison, keys)
    tabular = tabulate(
        lines, headings, tablefmt="latex_booktabs", colalign=_alignment(comparison, keys), disable_numparse=True
    )
    # tabulate escapes what is special in LaTeX; each row is one line between four lines of head and two of foot.
    table = unicode_to_latex(tabular, non_ascii_only=True).splitlines()
    # A row that begins with '[' would be read as the optional argument of the line break before it.
    body = [f"{{}}{line}" if line.lstrip().startswith("[") else line for line in table[4:-2]]
    for index, title in reversed(titles.items()):
        heading = rf"\multicolumn{{{len(headings)}}}{{l}}{{\textit{{{unicode_to_latex(title)}}}}} \\"
        body[index:index] = [r"\midrule", heading] if index else [heading]
    notes = [*notes_of(comparison), *(f"[{number}] {text}" for number, text in sources_of(comparison))]
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{unicode_to_latex(_caption(comparison))}}}",
            rf"\label{{tab:{comparison.spec.name.replace('_', '-')}}}",
            *table[:4],
            *body,
            *table[-2:],
            "",
            r"\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            *(rf"{unicode_to_latex(note)}\par" for note in notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _keys(comparison: Comparison) -> list[ColumnKey]:
    return [ColumnKey.of(column) for column in comparison.spec.columns]


def main_keys(comparison: Comparison) -> list[ColumnKey]:
    """Return the columns that answer the question of a table.

    They are, for each task, the measures that are tested, with their differences, else its first measure; then the
    trainable parameters. In a table of costs they are parameters and multiply-adds.
    """
    spec, keys = comparison.spec, _keys(comparison)
    if not needs_results(spec.columns):
        return [key for key in keys if key.name in _MAIN_COSTS]
    found: list[ColumnKey] = []
    for task in spec.tasks:
        mine = [key for key in keys if (key.task or spec.task) == task]
        tested = [key.measure for key in mine if key.name == "difference"]
        values = [key for key in mine if key.name in ("metric", "mean")]
        shown = tested or [value.measure for value in values[:1]]
        found += [key for key in mine if key.name in ("metric", "mean", "difference") and key.measure in shown]
    return [*found, *[key for key in keys if key.name == "trainable_params"][:1]]


def _headings(comparison: Comparison, keys: list[ColumnKey]) -> list[str]:
    return ["Variant", *(text for key in keys for text in COLUMNS[key.name].headings(comparison, key))]


def _alignment(comparison: Comparison, keys: list[ColumnKey]) -> list[str]:
    """Align text to the left, numbers to the right."""
    sides = ["left"]
    for key in keys:
        side = "left" if key.name in TEXT else "right"
        sides += [side] * len(COLUMNS[key.name].headings(comparison, key))
    return sides


def _lines(comparison: Comparison, rows: tuple[Row, ...], keys: list[ColumnKey]) -> list[list[str]]:
    marks = PublishedMarks.of(comparison)
    return [
        [label_of(row), *(cell for key in keys for cell in COLUMNS[key.name].cells(row, key, marks))] for row in rows
    ]


def notes_of(comparison: Comparison) -> list[str]:
    """Return the notes below the table: facts from the workflow, then the convention of each column once."""
    spec = comparison.spec
    notes = [f"{key[:1].upper()}{key[1:].replace('_', ' ')}: {text}" for key, text in spec.facts.items()]
    if needs_results(spec.columns):
        on_test = any(row.selected_on_test for row in comparison.rows)
        exception = f", except in rows marked {_DAGGER}" if on_test else ""
        notes.append(
            f"Checkpoints were selected on the validation split{_by_metric(comparison)}{exception}; results "
            "are on the test split."
        )
        if on_test:
            notes.append(
                f"{_DAGGER} Checkpoint and thresholds selected on the test split, as in published practice: optimistic "
                "and not comparable with rows selected on validation."
            )
    notes += comparison.differences
    practice = dict.fromkeys(text for row in comparison.rows for text in row.deviations)
    if practice:
        notes.append(
            f"{DOUBLE_DAGGER} Replicates published code where it deviates from its paper: "
            + "; ".join(f"{text} ({_labels_with(comparison, text)})" for text in practice)
            + "."
        )
    measures = [comparison.measure(key.task, key.measure) for key in _keys(comparison) if key.measure is not None]
    as_published = dict.fromkeys(f"'{measure_words(measure)}'" for measure in measures if measure.as_published)
    if as_published:
        notes.append(
            f"{', '.join(as_published)}: computed as in published code, with thresholds chosen on the test clips "
            "themselves; for comparison with published numbers only. Our definition is in the column without the mark."
        )
    explained: dict[Callable[[Comparison, Sequence[ColumnKey]], str], list[ColumnKey]] = {}
    for key in _keys(comparison):
        explained.setdefault(COLUMNS[key.name].note, []).append(key)
    notes += [text for note, keys in explained.items() if (text := note(comparison, keys))]
    notes += resolution_notes(comparison)
    cells = (
        cell for _, rows in comparison.sections for line in _lines(comparison, rows, _keys(comparison)) for cell in line
    )
    if NOTHING in cells:
        notes.append(
            f"{NOTHING}: no value (no published number, a task or setting that does not apply, no "
            "comparison with itself, no interval, or no result)."
        )
    return list(dict.fromkeys(notes))


def _by_metric(comparison: Comparison) -> str:
    """State the metric that selected checkpoints, if a table prints more than one."""
    spec = comparison.spec
    if len(spec.tasks) == 1 and all(key.measure is None for key in _keys(comparison)):
        return ""
    title = {task: f" ({spec.title_of(task)})" if len(spec.tasks) > 1 else "" for task in spec.tasks}
    return ", by " + " and ".join(
        f"{comparison.measure(task).name.replace('_', ' ')}{title[task]}" for task in spec.tasks
    )


def label_of(row: Row) -> str:
    """Return the label of a row with the marks that the notes explain."""
    marks = (_DAGGER if row.selected_on_test else "") + (DOUBLE_DAGGER if row.deviations else "")
    return f"{row.spec.label} {marks}".rstrip()


def _labels_with(comparison: Comparison, practice: str) -> str:
    labels = dict.fromkeys(row.spec.label for row in comparison.rows if practice in row.deviations)
    return ", ".join(f"'{label}'" for label in labels)


def sources_of(comparison: Comparison) -> list[tuple[int, str]]:
    """Return the sources of published numbers, each with its footnote number."""
    if "published" not in comparison.spec.columns:
        return []
    published = {number.id: number for row in comparison.rows for number in row.spec.published}
    return [(mark, published_source(published[name])) for name, mark in PublishedMarks.of(comparison).numbers.items()]


def _caption(comparison: Comparison) -> str:
    spec = comparison.spec
    return f"{spec.title}. {' '.join(spec.description.split())}".strip()


def _reasons(row: Row) -> list[str]:
    return [
        found.reason
        for result in row.results.values()
        for found in (
            result.run,
            *result.estimates.values(),
            *result.differences.values(),
            *result.reliance.values(),
            result.cost,
        )
        if isinstance(found, Missing)
    ]


def _plain(value: Value) -> Value:
    """Return a CSV value; seven digits are more than enough and hide rounding in the last bits."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _markdown_cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
