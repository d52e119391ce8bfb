"""What the README shows is what the reference results hold, and its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_shown_are_those_of_the_reference_results():
    rows = [line for line in README.splitlines() if line.startswith("| ")]
    reference = (ROOT / "results/reference/table_ablation.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 3
    assert not [row for row in rows if row not in reference]


def test_local_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_make_targets_named_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
