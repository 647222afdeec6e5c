"""The baselines of a run that trains trees, on the same rows and the same test days.

- `alone_trees`: each bank grows trees on its own rows, with bins of its own; they score its own customers. Where the
  run's trees grow inside the noisy-or link, so do these, with the risk that the bank's own labels show, and they learn
  from eight weeks of its rows.
- `pooled_trees`: trees on all banks' rows in one place, with the columns of the run. They are the run's own trees, bit
  for bit: a sum of integers does not depend on how rows are divided among banks. Each run grows them again and says
  whether that held.
- `network`: the network that the same banks train in rounds, averaged without encryption. It has the same columns, and
  q as scaled log odds.

All of them read the same rows outside of every secure sum: evaluation only.
"""

from __future__ import annotations

from collections.abc import Sequence

from fl.data.federation import BankData, Rows
from fl.runs.tree_columns import TreeColumns
from fl.trees.member import Member, TreeRows
from fl.trees.settings import Terms, TreeSettings
from fl.trees.training import add_plainly, grow
from fl.trees.tree import TreeModel


def tree_rows(rows: Rows, columns: TreeColumns) -> TreeRows:
    """Rows of a bank as its trees see them. A row's id is its position in the source."""
    return TreeRows(columns.fold(rows.x), rows.y, rows.index, columns.cause(rows.x))


def members_of(banks: Sequence[BankData], terms: Terms, columns: TreeColumns) -> list[Member]:
    """The banks' parts of a training. Raises `TreesError` for rows that trees cannot have."""
    return [Member(terms, tree_rows(bank.train, columns), tree_rows(bank.validation, columns)) for bank in banks]


def grown_in_one_place(bank: BankData, columns: TreeColumns, settings: TreeSettings) -> TreeModel:
    """Trees on the rows of one bank, or of all banks as one, without any sum over banks."""
    terms = Terms(columns.columns, settings, 1)
    *_, last = grow(members_of([bank], terms, columns), terms, add_plainly)
    return last.model
