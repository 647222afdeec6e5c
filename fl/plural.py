"""Numbers with their nouns, for sentences that people read."""

from __future__ import annotations


def plural(number: int, noun: str) -> str:
    """The number, its thousands between commas, and the noun, which gets an s unless the number is 1."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"
