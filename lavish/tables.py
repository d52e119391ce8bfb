"""Writing a table as markdown, CSV and LaTeX.

The same results give the same bytes: no dates, no machine, and measured times only where a column asks for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
from tabulate import tabulate

from lavish.comparison import Comparison, Missing, Row, compare, parse_spec
from lavish.config import needs_results
from lavish.errors import LavishError, nearest
from lavish.records import seed_directory
from lavish.table_columns import ALWAYS, COLUMNS, NOTHING, TEXT, PublishedMarks, Value, published_source

_DAGGER, _DOUBLE_DAGGER = "†", "‡"
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    "−": r"$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "↔": r"$\leftrightarrow$",
    "–": "--",
    "⁹": r"$^9$",
    _DAGGER: r"$^\dagger$",
    _DOUBLE_DAGGER: r"$^\ddagger$",
}


def write_table(spec: dict[str, Any], out: Path) -> None:
    """Write `out`.md, `out`.csv and `out`.tex from a table the workflow resolved (see :class:`TableSpec`).

    Results that do not exist yet become cells that say so. Raises LavishError for an unknown column and for results
    that cannot be right.
    """
    table = parse_spec(spec)
    for name in table.columns:
        if name not in COLUMNS:
            raise LavishError(f"table '{table.name}': key 'columns': unknown column '{name}'{nearest(name, COLUMNS)}")
    comparison = compare(table, {need for name in table.columns for need in COLUMNS[name].reads})
    texts = {"md": markdown(comparison), "csv": comma_separated(comparison), "tex": latex(comparison)}
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        (out.parent / f"{out.name}.{suffix}").write_text(text, encoding="utf-8", newline="\n")


def markdown(comparison: Comparison) -> str:
    """Return the table as markdown: one table per section, then the notes and the sources of published numbers."""
    spec = comparison.spec
    parts = [f"# {spec.title}"]
    if spec.description:
        parts.append(spec.description.strip())
    for title, rows in comparison.sections:
        body = tabulate(
            [[_markdown_cell(cell) for cell in line] for line in _lines(comparison, rows)],
            headers=[_markdown_cell(heading) for heading in _headings(comparison)],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=_alignment(comparison),
        )
        parts += [f"## {title}", body]
    parts += ["## Notes", "\n".join(f"- {note}" for note in _notes(comparison))]
    if sources := _sources(comparison):
        parts += ["### Sources of published numbers", "\n".join(f"{number}. {text}" for number, text in sources)]
    return "\n\n".join(parts) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """Return the table as CSV, one line per row of a section, in plain numbers.

    Metric values and differences are shares, not percentages. `runs` lists the directories of all trainings behind a
    line; `status` is 'ok' or says what is missing. A table that needs no results begins with `configuration`, then has
    its own columns in their order, and `cost` names the file that a line comes from.
    """
    asked = comparison.spec.columns
    if not needs_results(asked):
        return _costs_separated(comparison)
    names = [name for name in COLUMNS if name in ALWAYS or name in asked]
    lines = []
    for title, rows in comparison.sections:
        for row in rows:
            line: dict[str, Value] = {
                "section": title,
                "variant": row.spec.variant,
                "label": row.spec.label,
                "seeds": ";".join(str(seed) for seed in comparison.spec.seeds),
            }
            for name in names:
                line |= COLUMNS[name].fields(row)
            line |= {
                "selected_on": row.spec.select_on,
                "published_practice": "; ".join(row.spec.departures),
                "runs": ";".join(seed_directory(row.spec.run, seed).as_posix() for seed in comparison.spec.seeds),
                "status": "; ".join(dict.fromkeys(_reasons(row))) or "ok",
            }
            lines.append(line)
    return _csv(lines)


def _costs_separated(comparison: Comparison) -> str:
    lines = []
    for title, rows in comparison.sections:
        for row in rows:
            line: dict[str, Value] = {"configuration": row.spec.label}
            for name in comparison.spec.columns:
                line |= COLUMNS[name].fields(row)
            line |= {"section": title, "variant": row.spec.variant, "cost": (row.spec.run / "cost.json").as_posix()}
            line["status"] = "; ".join(dict.fromkeys(_reasons(row))) or "ok"
            lines.append(line)
    return _csv(lines)


def _csv(lines: list[dict[str, Value]]) -> str:
    plain = [{key: _plain(value) for key, value in line.items()} for line in lines]
    # As objects, so that an empty cell does not turn a column of integers into floats.
    return pandas.DataFrame(plain, dtype=object).to_csv(index=False, lineterminator="\n")


def latex(comparison: Comparison) -> str:
    """Return the table as one LaTeX tabular (package booktabs) inside a table environment with its caption."""
    headings = _headings(comparison)
    alignment = "".join(side[0] for side in _alignment(comparison))
    body = []
    for index, (title, rows) in enumerate(comparison.sections):
        body += [r"\midrule"] if index else []
        body.append(rf"\multicolumn{{{len(headings)}}}{{l}}{{\textit{{{_escape(title)}}}}} \\")
        body += [_latex_line(line) for line in _lines(comparison, rows)]
    notes = [*_notes(comparison), *(f"[{number}] {text}" for number, text in _sources(comparison))]
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{_escape(_caption(comparison))}}}",
            rf"\label{{tab:{comparison.spec.name.replace('_', '-')}}}",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            _latex_line(headings),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            *(rf"{_escape(note)}\par" for note in notes),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _headings(comparison: Comparison) -> list[str]:
    return ["Variant", *(text for name in comparison.spec.columns for text in COLUMNS[name].headings(comparison))]


def _alignment(comparison: Comparison) -> list[str]:
    """Text to the left, numbers to the right."""
    sides = ["left"]
    for name in comparison.spec.columns:
        side = "left" if name in TEXT else "right"
        sides += [side] * len(COLUMNS[name].headings(comparison))
    return sides


def _lines(comparison: Comparison, rows: tuple[Row, ...]) -> list[list[str]]:
    marks = PublishedMarks.of(comparison)
    return [
        [
            row.spec.label + _marks(row),
            *(cell for name in comparison.spec.columns for cell in COLUMNS[name].cells(row, marks)),
        ]
        for row in rows
    ]


def _notes(comparison: Comparison) -> list[str]:
    """What a reader must know to read the table: facts of the workflow, then each column's convention once."""
    spec = comparison.spec
    notes = [f"{key[:1].upper()}{key[1:].replace('_', ' ')}: {text}" for key, text in spec.facts.items()]
    if any(row.run is not None for row in comparison.rows):
        on_test = any(row.selected_on_test for row in comparison.rows)
        exception = f", except in rows marked {_DAGGER}" if on_test else ""
        notes.append(
            f"Checkpoints were selected on the validation split{exception}; every number is on the test split."
        )
        if on_test:
            notes.append(
                f"{_DAGGER} Checkpoint selected on the test split, as in published practice: optimistic, and not "
                "comparable with rows selected on validation."
            )
    practice = dict.fromkeys(text for row in comparison.rows for text in row.spec.departures)
    if practice:
        notes.append(
            f"{_DOUBLE_DAGGER} Replicates what published code does and its paper does not say: "
            + "; ".join(f"{text} ({_labels_with(comparison, text)})" for text in practice)
            + "."
        )
    notes += [note for name in spec.columns if (note := COLUMNS[name].note(comparison))]
    if any(NOTHING in line for _, rows in comparison.sections for line in _lines(comparison, rows)):
        notes.append(
            f"{NOTHING}: nothing to print here (no published number, a setting that does not apply, no comparison with "
            "itself, or no result)."
        )
    return list(dict.fromkeys(notes))


def _marks(row: Row) -> str:
    marks = (_DAGGER if row.selected_on_test else "") + (_DOUBLE_DAGGER if row.spec.departures else "")
    return f" {marks}" if marks else ""


def _labels_with(comparison: Comparison, practice: str) -> str:
    labels = dict.fromkeys(row.spec.label for row in comparison.rows if practice in row.spec.departures)
    return ", ".join(f"'{label}'" for label in labels)


def _sources(comparison: Comparison) -> list[tuple[int, str]]:
    if "published" not in comparison.spec.columns:
        return []
    published = {number.id: number for row in comparison.rows for number in row.spec.published}
    return [(mark, published_source(published[name])) for name, mark in PublishedMarks.of(comparison).numbers.items()]


def _caption(comparison: Comparison) -> str:
    spec = comparison.spec
    return f"{spec.title}. {' '.join(spec.description.split())}".strip()


def _reasons(row: Row) -> list[str]:
    return [result.reason for result in (row.run, row.difference, row.cost) if isinstance(result, Missing)]


def _plain(value: Value) -> Value:
    """Return a CSV value; seven digits are more than any result is good for and hide the last bits' rounding."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _markdown_cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_line(cells: list[str]) -> str:
    # A line that begins with '[' would be taken for the optional argument of the line break before it.
    return "{}" + " & ".join(_escape(cell) for cell in cells) + r" \\"
