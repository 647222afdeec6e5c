"""Fixtures of the Flower app's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flower_federation import Federation


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Federation]]:
    """Makes federations whose parties are closed at the end. Structured logs go to a file: SECAGG_LOG."""
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    made: list[Federation] = []

    def make(**options: object) -> Federation:
        made.append(Federation(tmp_path / f"federation-{len(made)}", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()
