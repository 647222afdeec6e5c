"""Boosted trees beside the federated network on files that are nearly all categories, five banks and three seeds each.

Both files are made up. The first is the claims file that tests of strangers' files use: 30 categories, each of which
moves the odds by itself, so that nothing in it favours trees but that they need no weights for words that say nothing.
The second (`ring_claims`) hides fraud in combinations, where a tree is at home. `pytest -s` prints the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import ring_claims

import fl
from benchmarks.foreign_files import FOREIGN

pytestmark = pytest.mark.long

SEEDS = (0, 1, 2)
Files = Callable[[Path, int], tuple[Path, Path]]


def separate_answers(folder: Path, seed: int) -> tuple[Path, Path]:
    """(file, schema) of 6,000 claims whose categories move the odds one by one."""
    foreign = next(each for each in FOREIGN if each.name == "claims")
    schema = folder / "claims.toml"
    schema.write_text(foreign.edited, encoding="utf-8")
    return foreign.write(folder / f"claims-{seed}.csv", foreign.make(seed)), schema


def rings(folder: Path, seed: int) -> tuple[Path, Path]:
    """(file, schema) of 15,000 claims whose frauds are combinations of categories."""
    return ring_claims.write(folder, 15_000, seed)


def found(folder: Path, files: Files, model: str) -> list[float]:
    """Average precision on test rows, by seed."""
    figures = []
    for seed in SEEDS:
        data, schema = files(folder, seed)
        run = fl.train(
            data,
            schema=schema,
            clients=5,
            seed=seed,
            no_dp=True,
            model=model,
            no_baselines=True,
            aggregation="plain",  # the same sums and averages as encrypted ones, in less time
            run_dir=folder / f"{model}-{seed}",
        )
        figures.append(run.metrics["average_precision"])
    print(files.__name__, model, " ".join(f"{figure:.3f}" for figure in figures), f"mean {fmean(figures):.3f}")
    return figures


def test_trees_find_more_than_the_network_where_each_category_counts_by_itself(tmp_path: Path) -> None:
    trees, network = found(tmp_path, separate_answers, "trees"), found(tmp_path, separate_answers, "mlp")
    assert fmean(trees) >= fmean(network) + 0.03
    assert all(ours > theirs for ours, theirs in zip(trees, network, strict=True))


def test_trees_find_far_more_than_the_network_where_combinations_count(tmp_path: Path) -> None:
    trees, network = found(tmp_path, rings, "trees"), found(tmp_path, rings, "mlp")
    assert all(ours >= theirs + 0.1 for ours, theirs in zip(trees, network, strict=True))
