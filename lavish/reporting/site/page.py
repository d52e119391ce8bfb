"""Writes the page: one HTML file, the two libraries, and our style and script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from lavish.io.atomic import write_text
from lavish.reporting.across_tasks import with_summaries
from lavish.reporting.comparison import compare, parse_spec
from lavish.reporting.site.runs import RunView, views
from lavish.reporting.site.view import TableView, view
from lavish.reporting.tables import reads_of

_VEGA_LITE = "6.4"
"""The version that the specifications in files/site.js are for."""


def write_site(specs: Sequence[dict[str, Any]], out: Path, invocation: str = "") -> None:
    """Write the results page of tables (see :class:`lavish.reporting.comparison.TableSpec`) to the folder `out`.

    Missing results become cells that say so. The folder needs no network and no server, and may be copied elsewhere;
    only its links to the files of a run point outside it, to `../runs`.

    Args:
        specs: the tables, as the workflow resolved them.
        out: folder of the page.
        invocation: options of Snakemake that plan the same runs, such as `--configfile config/smoke.yaml`.

    Raises:
        LavishError: a table or a result is invalid.
    """
    tables = [parse_spec(spec) for spec in specs]
    comparisons = [with_summaries(compare(table, reads_of(table))) for table in tables]
    environment = Environment(
        loader=PackageLoader("lavish.reporting.site", "files"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    ours, bundle = files("lavish.reporting.site") / "files", files("itables") / "html"
    style = bundle.joinpath("dt_bundle.css").read_text("utf-8") + ours.joinpath("site.css").read_text("utf-8")
    shown, runs = [view(comparison) for comparison in comparisons], views(comparisons, invocation)
    page = environment.get_template("index.html").render(
        tables=shown, runs=runs, choices=_choices(shown), examples=_examples(shown, runs), style=style
    )
    # Browsers load no module from the disk, so the script gets the text of this one and imports it from memory.
    module = json.dumps(bundle.joinpath("dt_bundle.js").read_text("utf-8"))
    write_text(out / "datatables.js", f"window.dataTablesModule = {module};\n")
    write_text(out / "vega.js", vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VEGA_LITE))
    write_text(out / "site.js", ours.joinpath("site.js").read_text("utf-8"))
    write_text(out / "index.html", page)


def _choices(tables: Sequence[TableView]) -> dict[str, dict[str, str]]:
    """Return the values of each filter with their texts."""
    lines = [line for table in tables for line in table.lines]
    values = {name: sorted({getattr(line, name) for line in lines}) for name in ("kind", "backbone", "budget")}
    return {
        "task": {task: title for table in tables for task, title in table.tasks.items()},
        **{name: dict(zip(found, found, strict=True)) for name, found in values.items()},
    }


def _examples(tables: Sequence[TableView], runs: Sequence[RunView]) -> dict[str, dict[str, list[RunView]]]:
    """Return by table and task the runs that have example masks of the same clips as the first of them."""
    found: dict[str, dict[str, list[RunView]]] = {table.name: {} for table in tables}
    named = {run.name: run for run in runs if run.examples is not None}
    for table in tables:
        for name in dict.fromkeys(name for line in table.lines for name in line.runs.values() if name in named):
            run = named[name]
            others = found[table.name].setdefault(run.task, [])
            if not others or _clips(others[0]) == _clips(run):
                others.append(run)
    return found


def _clips(run: RunView) -> tuple[str, ...]:
    return run.examples.clips if run.examples else ()
