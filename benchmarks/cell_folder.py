"""A folder of figures, one file per cell, so that an interrupted measurement goes on: its settings and its cells.

settings.json    what all cells have in common; a measurement with other settings is refused
NAME.json        the figures of one cell
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.errors import ResumeMismatch, UnreadableResults
from fl.durable import replace_durably
from fl.runs.config import DataSettings

SETTINGS = "settings.json"


def without_folders(data: DataSettings) -> dict[str, Any]:
    """`data` as JSON, with the names of files alone: results are given to others."""
    named = asdict(data)
    for name in ("source", "schema", "partition"):
        named[name] = None if named[name] is None else named[name].rpartition("/")[2]
    return named


def require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make `folder` one of cells with these `settings`, or see that it is. Raises `ResumeMismatch` where it is not."""
    folder.mkdir(parents=True, exist_ok=True)
    path, asked = folder / SETTINGS, json.loads(json.dumps(settings))
    if path.exists():
        try:
            there = json.loads(path.read_bytes())
        except (OSError, ValueError) as fault:
            raise UnreadableResults(f"{path}: expected the settings of a measurement, got {fault}") from fault
        if there != asked:
            raise ResumeMismatch(f"{folder} holds figures of other data or options: give another --folder")
        return
    replace_durably(path, json.dumps(asked, indent=1).encode())


def write_cell(path: Path, content: Mapping[str, Any]) -> None:
    """Write what one cell holds; the file appears whole or not at all."""
    replace_durably(path, json.dumps(content, indent=1).encode())


def read_cells(folder: Path, check: Callable[[dict[str, Any]], object]) -> list[dict[str, Any]]:
    """What every cell of `folder` holds, in the order of the files' names.

    `check` looks at all that is used of a cell, and raises what a wrong type or a missing name raises. Raises
    `UnreadableResults`.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name == SETTINGS:
            continue
        try:
            content = json.loads(path.read_bytes())
            check(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            raise UnreadableResults(f"{path}: expected figures of one cell, got {fault}; remove the file") from fault
        found.append(content)
    return found
