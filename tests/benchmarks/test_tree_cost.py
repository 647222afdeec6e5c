"""`python -m benchmarks trees`: a training is grown over encrypted sums, each equal to that of numpy, and timed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import tree_cost
from benchmarks.__main__ import cli
from benchmarks.errors import WrongResult
from benchmarks.tree_cost import Level, Rows, Training

SMALL = Rows(rows=1200, columns=4, banks=3, bins=8)


def test_a_small_training_is_measured_by_level_beside_tenseal_and_numpy() -> None:
    said: list[str] = []
    (found,) = tree_cost.measure([(2, 3)], SMALL, 1, said.append)
    opening, root, below = found.levels
    assert [level.name for level in found.levels] == ["opening", "root", "level 1"]
    assert (opening.sums, root.sums, below.sums) == (1, 3, 3) and root.values == 3 * 3 * 4 * (8 + 1)
    assert all(min(level.seconds, level.cpu_s, level.up, level.down, level.plain_s) > 0 for level in found.levels)
    assert all(level.stock_sums == 1 and 0 <= level.stock_error < 1e-3 for level in found.levels)
    assert root.stock_s > 0 and root.stock_up / 3 == pytest.approx(334_000, rel=0.02)  # one ciphertext a sum
    assert found.seconds > found.learner_s > 0 and found.up == sum(level.up for level in found.levels)
    assert said[-1] == "depth 2: 3 sums through TenSEAL"


def test_without_stock_sums_no_other_library_is_measured() -> None:
    (found,) = tree_cost.measure([(1, 1)], SMALL, 0, lambda _: None)
    assert all(level.stock_sums == 0 and level.stock_s == 0 for level in found.levels)


def test_a_sum_that_is_not_that_of_numpy_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_cost, "add_plainly", lambda request, contributions: np.sum(contributions, axis=0) + 1)
    with pytest.raises(WrongResult, match="sum 1 of the training"):
        tree_cost.measure([(1, 1)], SMALL, 0, lambda _: None)


def test_made_up_rows_are_the_same_for_a_seed_and_hold_both_labels() -> None:
    (x, y), (again, _), (other, _) = (tree_cost.made_up(Rows(1000, 2, seed=seed)) for seed in (1, 1, 2))
    assert (x == again).all() and (x != other).any() and x.shape == (1000, 2) and set(y.tolist()) == {0.0, 1.0}


def test_the_command_prints_tables_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    levels = (Level("opening", 1, 100, 0.5, 0.4, 2e6, 3e6, 0.01), Level("root", 2, 80, 1.0, 0.8, 4e6, 6e6, 0.02, 7.0))
    found = Training(4, 2, SMALL, 2.5, 2.0, 1.0, 0.8, 0.1, levels)
    monkeypatch.setattr(tree_cost, "measure", lambda *given: (asked.append(given[:3]), [found])[1])
    shown = CliRunner().invoke(cli, ["trees", "--stock", "0"], catch_exceptions=False, env={"COLUMNS": "120"}).stdout
    assert "depth 4, 2 trees" in shown and "6.0" in shown and "500.0" in shown and "7.0" in shown
    words = ["trees", "--trees", "9", "--rows", "5000", "--banks", "4", "--json"]
    (told,) = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert told["up"] == 6e6 and told["levels"][1]["sums"] == 2 and told["rows"]["banks"] == 3
    assert asked == [
        (((4, 50), (5, 100)), Rows(), 0),
        (((4, 9),), Rows(5000, 30, 4), 2),
    ]
