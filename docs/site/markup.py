"""Markdown extension of the site: formulas become MathML, and the roles in docstrings (:class:`Task`) code.

Browsers show MathML without a script, so that nothing is fetched and formulas are there offline.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor
from markdown.preprocessors import Preprocessor
from pymdownx.arithmatex import ArithmatexExtension

ROLE = re.compile(r":(?:class|mod|func|meth|attr|data):(?=`)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


class _Roles(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return [ROLE.sub("", line) for line in lines]


class _Formulas(Postprocessor):
    def run(self, text: str) -> str:
        return FORMULA.sub(self._mathml, text)

    @staticmethod
    def _mathml(found: re.Match[str]) -> str:
        block = found[1] == "div"
        formula = convert(" ".join(html.unescape(found[2]).split()), display="block" if block else "inline")
        return f'<div class="formula">{formula}</div>' if block else formula


class Markup(Extension):
    """Finds `$...$` and `$$...$$` as `pymdownx.arithmatex` does, which leaves prices and shell variables alone."""

    def extendMarkdown(self, md: Markdown) -> None:
        ArithmatexExtension(generic=True, preview=False).extendMarkdown(md)
        md.preprocessors.register(_Roles(md), "roles", 10)
        md.postprocessors.register(_Formulas(md), "formulas", 0)  # the last one: others restore stashed HTML


def makeExtension(**options: object) -> Markup:
    """Called by Markdown."""
    return Markup(**options)
