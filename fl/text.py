"""Escape control characters in text from outside, so that it is safe on a terminal and in a log.

A line separator splits a line of a log into two, an escape sequence or a C1 control character rewrites what a terminal
shows, and a bidirectional override shows letters in another order than they stand in. Whatever Unicode does not call
printable (controls, formats, separators of lines and paragraphs, surrogates, private and unassigned code points) is
shown as its number. Spaces of every width stay.
"""

from __future__ import annotations

import json
import unicodedata


def printable(text: str, keep: str = "") -> str:
    """`text` with every character that could control a terminal as its Python escape. keep: characters kept."""
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) or c in keep else _escaped(c) for c in text)


def printable_json(document: str) -> str:
    """A JSON document, on one line, with such characters as JSON escapes. It reads as the same value."""
    if document.isprintable():
        return document
    # Outside strings, JSON has only white space of this kind, and json.dumps writes none of it without an indent.
    return "".join(c if _harmless(c) else _json_escaped(c) for c in document)


def _harmless(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 2**16 else json.dumps(character)[1:-1]
