"""The code that docs/coming-from-pysyft.md offers in place of PySyft's runs, block by block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "coming-from-pysyft.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0])
def test_a_block_runs_by_itself_and_its_assertions_hold(block: str) -> None:
    exec(compile(block, "docs/coming-from-pysyft.md", "exec"), {"__name__": "snippet"})


def test_every_block_that_runs_ends_in_an_assertion() -> None:
    assert len(BLOCKS) == 3
    assert all("assert " in block.strip().splitlines()[-1] for block in BLOCKS)
