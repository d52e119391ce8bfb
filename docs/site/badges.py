"""Write the badges of the README from pyproject.toml: `python docs/site/badges.py`, from the repository's root.

They are files of the repository, so that they say what it holds, also offline. A test compares them with
pyproject.toml.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 6.6  # of a character, about


def badges() -> dict[str, str]:
    """Return the SVG of each badge by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    facts = {"version": project["version"], "python": project["requires-python"], "licence": project["license"]}
    return {name: svg(name, value) for name, value in facts.items()}


def svg(name: str, value: str) -> str:
    """Return a badge with a name on grey and a value on blue."""
    left, right = (round(12 + WIDTH * len(text)) for text in (name, value))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{name}: {escape(value)}">'
        f'<rect width="{left + right}" height="20" rx="3" fill="#555"/>'
        f'<path d="M{left} 0h{right - 3}a3 3 0 0 1 3 3v14a3 3 0 0 1 -3 3h-{right - 3}z" fill="#3257a8"/>'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11">'
        f'<text x="{left / 2}" y="14">{name}</text>'
        f'<text x="{left + right / 2}" y="14">{escape(value)}</text></g></svg>\n'
    )


if __name__ == "__main__":
    for badge, text in badges().items():
        (ROOT / f"docs/site/{badge}.svg").write_text(text, "utf-8")
