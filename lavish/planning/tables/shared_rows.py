"""Sections that take their rows from another table (`rows_of`), so that no row is written twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lavish.errors import LavishError, did_you_mean
from lavish.planning.tables.schema import RowConfig, TableConfig


def with_shared_rows(table: TableConfig, file: Path, read: Callable[[str], TableConfig]) -> TableConfig:
    """Return the table with the rows of each section `rows_of` filled in.

    A row keeps its label, its changes and, of this table's tasks, those that it has there. A row that a section above
    defines in the same way repeats that one.

    Args:
        table: the table.
        file: its file, for messages.
        read: returns another table by the name of its file.

    Raises:
        LavishError: there is no such section, or a row cannot be taken.
    """
    defined: dict[str, RowConfig] = {}
    sections = []
    for section in table.sections:
        rows = section.rows
        if section.rows_of is not None:
            where = f"{file}: section '{section.title}': key 'rows_of'"
            other = read(section.rows_of)
            rows = [
                _taken(row, other, table, defined, f"{where}: row '{row.variant}'")
                for row in _rows(section.title, section.rows_of, other, table, where)
            ]
        defined |= {row.variant: row for row in rows if row.set is not None}
        sections.append(section.model_copy(update={"rows": rows, "rows_of": None}))
    return table.model_copy(update={"sections": sections})


def _rows(title: str, name: str, other: TableConfig, table: TableConfig, where: str) -> list[RowConfig]:
    titles = {section.title: section for section in other.sections}
    if title not in titles:
        raise LavishError(f"{where}: table '{name}' has no section of this title{did_you_mean(title, titles)}")
    if titles[title].rows_of is not None:
        raise LavishError(f"{where}: table '{name}' takes these rows from '{titles[title].rows_of}': name that one")
    if other.configuration != table.configuration:
        raise LavishError(
            f"{where}: table '{name}' has `configuration: {other.configuration or 'none'}`, and this one "
            f"{table.configuration or 'none'}: the rows would be other runs"
        )
    return titles[title].rows


def _taken(
    row: RowConfig, other: TableConfig, table: TableConfig, defined: dict[str, RowConfig], where: str
) -> RowConfig:
    source = (
        row
        if row.set is not None
        else next((one for one in other.rows if one.variant == row.variant and one.set is not None), row)
    )
    if source.task is not None:
        raise LavishError(f"{where}: is of a table of costs and has a task of its own: write the row here")
    label = row.label or source.label
    tasks = [task for task in table.tasks if task in (source.tasks or other.tasks)]
    above = defined.get(row.variant)
    if above is None:
        if not tasks:
            raise LavishError(f"{where}: is not run on a task of this table's columns")
        tuned = other.tuned if source.tuned is None else source.tuned
        return source.model_copy(update={"label": label, "published": row.published, "tasks": tasks, "tuned": tuned})
    if _changes(above, table) != _changes(source, other):
        raise LavishError(f"{where}: is defined above with other changes: rename one of the two")
    if absent := [task for task in tasks if above.tasks is not None and task not in above.tasks]:
        raise LavishError(f"{where}: is defined above without the task '{absent[0]}': add it to `tasks` there")
    return RowConfig(variant=row.variant, label=label, published=row.published)


def _changes(row: RowConfig, table: TableConfig) -> object:
    tuned = table.tuned if row.tuned is None else row.tuned
    return tuned, row.set, row.set_by_task, row.match_parameters_of, row.each_backbone
