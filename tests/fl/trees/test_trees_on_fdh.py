"""Real card payments: federations of 3 and 10 banks under encryption grow the trees of the pooled rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slow_trees
from tree_worlds import add_encrypted, asked_of, plain_rows, said, taken

from fl.data.federation import Federation, load_federation
from fl.trees.member import Member, TreeRows
from fl.trees.settings import Column, Terms, TreeSettings
from fl.trees.training import Sum, add_plainly, grow
from fl.trees.tree import TreeModel

pytestmark = [pytest.mark.long, pytest.mark.shared_data]


@pytest.fixture(scope="module")
def payments(shared_data: Path) -> Federation:
    return load_federation(
        shared_data / "transactions_2018-04_to_2018-08.csv.gz",
        partition=f"{shared_data / 'customer_partition.csv'}:BANK10_RANDOM",
    )


def columns_of(federation: Federation) -> tuple[Column, ...]:
    return tuple(Column(name) for name in federation.feature_names)


def rows_of(federation: Federation, banks: int, every: int = 1) -> list[TreeRows]:
    """The training rows of ten banks, or of as many groups of them."""
    groups = [federation.banks[bank::banks] for bank in range(banks)]
    return [
        TreeRows(
            np.concatenate([bank.train.x[::every] for bank in group]),
            np.concatenate([bank.train.y[::every] for bank in group]),
            np.concatenate([bank.train.index[::every] for bank in group]),
        )
        for group in groups
    ]


def grown(columns: tuple[Column, ...], rows: list[TreeRows], settings: TreeSettings, add: Sum) -> TreeModel:
    terms = Terms(columns, settings, len(rows))
    *_, last = grow([Member(terms, each) for each in rows], terms, add)
    return last.model


def test_encrypted_sums_of_3_and_10_banks_grow_the_trees_of_the_reference(payments: Federation) -> None:
    """Of every eighth row, because the reference looks at each row again for each candidate."""
    columns, settings = columns_of(payments), TreeSettings(trees=3, depth=3, row_share=0.8, seed=4)
    (pooled,) = rows_of(payments, 1, every=8)
    expected = slow_trees.train(plain_rows(pooled, np.zeros(len(pooled), int)), [], asked_of(columns, settings))
    assert sum(len(tree) for tree in expected[1]) > 20
    for banks in (3, 10):
        assert said(grown(columns, rows_of(payments, banks, every=8), settings, add_encrypted)) == expected


def test_fifty_encrypted_trees_of_3_and_10_banks_are_those_of_the_pooled_rows(payments: Federation) -> None:
    columns, settings = columns_of(payments), TreeSettings()
    pooled = grown(columns, rows_of(payments, 1), settings, add_plainly)
    assert len(pooled.trees) == 50
    for banks in (3, 10):
        assert grown(columns, rows_of(payments, banks), settings, add_encrypted) == pooled


def test_one_row_more_at_one_bank_is_another_model(payments: Federation) -> None:
    """The control of the comparison above."""
    columns, settings = columns_of(payments), TreeSettings(trees=2)
    rows = rows_of(payments, 10)
    fewer = [taken(rows[0], np.arange(1, len(rows[0]))), *rows[1:]]
    assert grown(columns, rows, settings, add_plainly) != grown(columns, fewer, settings, add_plainly)
