"""Lay out the pages of the documentation site: `python docs/site/stage.py FOLDER`, from the repository's root.

The site has the folders of the repository, so that a link leads to the same file on the site, in an editor and on the
pages of a code host. Pages are those that the README and `mkdocs.yml` lead to, over any number of links. Sources that
they link to become pages with the text of the file; folders become a list of their files.
"""

from __future__ import annotations

import ast
import os.path
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A relative target of a Markdown link: the path, without its anchor.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^()#\s]+)")
PICTURES = {".svg", ".png", ".css"}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".cff": "yaml", ".smk": "python", ".json": "json"}


def stage(target: Path) -> list[Path]:
    """Write all pages and pictures below a folder, which is emptied first. Return them, relative to it."""
    shutil.rmtree(target, ignore_errors=True)
    pending = [
        Path("README.md"),
        *map(Path, re.findall(r"[\w/.]+\.(?:md|css)\b", (ROOT / "mkdocs.yml").read_text("utf-8"))),
    ]
    done: dict[Path, Path] = {}
    while pending:
        source = pending.pop()
        if source in done or not (ROOT / source).exists():
            continue  # a link that leads nowhere is an error of the build
        done[source] = page = page_of(source)
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in PICTURES:
            shutil.copyfile(ROOT / source, target / page)
            continue
        text = (ROOT / source).read_text("utf-8") if source.suffix == ".md" else generated(source)
        pending += [path for link in LINK.findall(text) if (path := resolved(source, link))]
        (target / page).write_text(with_links_to_pages(source, text), "utf-8")
    return sorted(done.values())


def resolved(source: Path, link: str) -> Path | None:
    """Return the file or folder of the repository that a link of a file leads to; None if there is none."""
    start = source if (ROOT / source).is_dir() else source.parent
    path = (ROOT / start / link).resolve()
    if (path / "README.md").is_file():
        path /= "README.md"
    return path.relative_to(ROOT) if path.exists() and path.is_relative_to(ROOT) else None


def page_of(source: Path) -> Path:
    """Return the page of a file or folder of the repository."""
    if (ROOT / source).is_dir():
        return source / "index.md"
    return source if source.suffix in {".md", *PICTURES} else source.with_name(f"{source.name}.md")


def with_links_to_pages(source: Path, text: str) -> str:
    """Return the text of a page in which links to files and folders lead to their pages."""

    def to_page(link: re.Match[str]) -> str:
        path = resolved(source, link[1])
        return link[1] if path is None else Path(os.path.relpath(page_of(path), page_of(source).parent)).as_posix()

    return LINK.sub(to_page, text)


def generated(source: Path) -> str:
    """Return the page of a source file, or of a folder: its files, with the first line of the docstring of each."""
    if not (ROOT / source).is_dir():
        text = (ROOT / source).read_text("utf-8")
        fence = "`" * (1 + max(map(len, re.findall(r"`{3,}", text)), default=2))
        return f"# {source.name}\n\n{fence}{LANGUAGES.get(source.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"
    lines = [f"# {source.as_posix()}/", ""]
    for path in sorted((ROOT / source).iterdir()):
        if path.is_file() and path.suffix in {".md", *LANGUAGES} and not path.name.startswith(("_", ".")):
            summary = ast.get_docstring(ast.parse(path.read_text("utf-8"))) if path.suffix == ".py" else None
            lines.append(f"- [{path.name}]({path.name})" + (f": {summary.splitlines()[0]}" if summary else ""))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
