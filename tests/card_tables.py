"""Reads the tables of the task cards, so that tests can check what they say."""

from __future__ import annotations

from pathlib import Path

CARDS = Path(__file__).parents[1] / "docs" / "task_cards"


def table(card: str, first_column: str) -> list[list[str]]:
    """Return the cells of the rows of the one table of a card whose header begins with `first_column`."""
    lines = (CARDS / f"{card}.md").read_text(encoding="utf-8").splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows
