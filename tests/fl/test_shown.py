"""What `repr` shows and pickle takes along: no update, no model, no table of rows, no statistics of a bank in plain."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fl.flower.parties.bank import Trained

ROOT = Path(__file__).parents[2]
# Annotations whose values are, or hold, rows, updates, models or sums.
PLAIN = re.compile(
    r"\b(NDArray|ndarray|F64|F32|I64|U64|U32|U8|Values|Vector|Floats|Ints|Tensor|DataFrame|Table|Positions|Trained|FlatModel)\b"
)


def shown(source: str) -> Iterator[str]:
    """Fields of dataclasses whose generated repr shows such values."""
    for each in ast.walk(ast.parse(source)):
        if not isinstance(each, ast.ClassDef) or any(getattr(part, "name", "") == "__repr__" for part in each.body):
            continue
        made = [ast.unparse(decorator) for decorator in each.decorator_list]
        if not any(text.startswith("dataclass") and "repr=False" not in text for text in made):
            continue
        for part in each.body:
            if isinstance(part, ast.AnnAssign) and PLAIN.search(ast.unparse(part.annotation)):
                value = "" if part.value is None else ast.unparse(part.value)
                if "repr=False" not in value and not ast.unparse(part.annotation).startswith("ClassVar"):
                    yield f"{each.name}.{ast.unparse(part.target)}"


def test_the_search_finds_a_field_that_shows_and_passes_one_that_is_hidden() -> None:
    source = "@dataclass(frozen=True)\nclass A:\n    x: NDArray[np.float64]\n    y: Vector = field(repr=False)\n"
    assert list(shown(source)) == ["A.x"]
    assert list(shown(source.replace("frozen=True", "repr=False"))) == []


@pytest.mark.parametrize("package", ["fl", "secagg"])
def test_no_dataclass_shows_arrays_models_or_tables_in_its_repr(package: str) -> None:
    sources = sorted((ROOT / package).rglob("*.py"))
    assert len(sources) > 20
    assert [f"{path.relative_to(ROOT)}: {name}" for path in sources for name in shown(path.read_text("utf-8"))] == []


def test_what_training_gave_is_neither_shown_nor_pickled_nor_copied() -> None:
    trained = Trained(np.array([0.7316502914, 0.25]), weight=31_337)
    for text in (repr(trained), str(trained), f"{trained}", repr([trained]), repr({"trained": trained})):
        assert "0.73" not in text and "31337" not in text
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(trained, protocol)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            duplicate(trained)
