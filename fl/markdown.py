"""Escape text from outside for Markdown, so that it is shown literally and never becomes HTML, a link or emphasis.

Follows CommonMark 0.31 (backslash escapes, entities, code spans) and GitHub's tables.
"""

from __future__ import annotations

import re
from html import escape

_MARKS = re.compile(r"[\\`*\[\]~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|!(?=\[)")
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def text(value: object) -> str:
    """The value in running text or in a cell of a table, on one line."""
    plain = _BREAKS.sub(" ", str(value))
    marked = _MARKS.sub(lambda found: "\\" + found[0], escape(plain, quote=False))
    return marked.replace("|", "&#124;")  # in a table a backslash before it would be escaped again


def code(value: object) -> str:
    """The value as a code span, in which no character is markup. Not for tables."""
    plain = _BREAKS.sub(" ", str(value))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    pad = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{pad}{plain}{pad}{fence}"
