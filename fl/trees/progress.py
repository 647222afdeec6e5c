"""A training as everybody sees it: what is summed next, and what follows from the sum.

# Strategy: the training is a pure function of sums. `Progress.request` says which integers all banks add up next, and
# `Progress.after` takes the sum and returns the next state. Nothing else enters: neither rows nor randomness nor time.
# So every bank and every server that holds the sums has the same state, whoever computes it, and a process that was
# killed continues from the state of the last sum. The rows of a bank are in `fl.trees.member`.

The sums are, in this order:

    opening   rows, frauds and validation rows, and the counts of every column of numbers on the public grid
    level     one for each level of each tree: for each node that earlier sums do not give, the histogram of gradients,
              hessians and rows. With early stopping, the root's also has the validation loss of the trees before
    loss      with early stopping, the validation loss of all trees

Of two siblings only the smaller is summed: the other is their parent without it. Leaves need no sum, since a split's
sums are those of its sides. A node too small to be split needs none either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl.errors import AggregationError, TreesError
from fl.trees.gradients import CAUSE_BITS, LARGEST, LIFT
from fl.trees.grid import Grid
from fl.trees.sampling import drawn_columns
from fl.trees.settings import MOST_ROWS, Terms
from fl.trees.splits import UNBOUNDED, Bounds, Cells, Finder, Sums
from fl.trees.tables import MOST_LOSS, SCORE_BITS
from fl.trees.tree import MOST_BASE, Node, Tree, TreeModel, bins_of

Integers = NDArray[np.int64]
Kind = Literal["opening", "level", "loss"]


@dataclass(frozen=True)
class Counted:
    """What the opening sum gives. `edges`: of each column; none of a categorical one."""

    rows: int
    validation_rows: int
    base: int
    edges: tuple[tuple[float, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class Growing:
    """The tree that is being grown. `level`: its deepest nodes that may be split. `build`: whose histograms are summed.

    `histograms`: of the parents of those nodes. `parents`: by node. `bounds`: of each node's step.
    The root's own sums are known once its histogram is.
    """

    cells: Cells
    nodes: tuple[Node, ...] = field(repr=False)
    bounds: tuple[Bounds, ...] = field(repr=False)
    level: tuple[int, ...]
    build: tuple[int, ...]
    parents: Mapping[int, int] = field(repr=False)
    histograms: Mapping[int, Integers] = field(repr=False)
    depth: int = 0


@dataclass(frozen=True)
class Request:
    """The next sum. `name`: 64 hexadecimal digits that name the state it belongs to, bound into every contribution.

    `widths`: int64[values], bits of each value of the sum over all banks. A value is never negative.
    """

    kind: Kind
    step: int
    name: str
    widths: Integers = field(repr=False)


@dataclass(frozen=True)
class Progress:
    """The state after `step` sums. Begin with `Progress.of(terms)`.

    `chain`: SHA-256 over the terms and all sums so far. `trees`: finished. `losses`: validation losses of no tree, of
    one tree and so on, in units of 2^-12 nats, with early stopping. `growing`: None before the opening and at the end.
    """

    terms: Terms
    step: int
    chain: bytes = field(repr=False)
    counted: Counted | None = None
    trees: tuple[Tree, ...] = field(default=(), repr=False)
    losses: tuple[int, ...] = ()
    growing: Growing | None = field(default=None, repr=False)
    finished: bool = False

    @classmethod
    def of(cls, terms: Terms) -> Progress:
        """Before the first sum."""
        return cls(terms, 0, hashlib.sha256(b"fl trees v1" + terms.digest).digest())

    @property
    def request(self) -> Request:
        """What is summed next. Raises `TreesError` when the training is finished."""
        if self.finished:
            raise TreesError("the training is finished: there is no sum to ask for")
        return Request(self._kind, self.step, self.chain.hex(), self._widths)

    @property
    def asks_for_loss(self) -> bool:
        """Whether the next sum begins with the validation loss."""
        return (
            self.terms.settings.patience > 0
            and (self.growing is None or self.growing.depth == 0)
            and self.counted is not None
        )

    def after(self, totals: Integers) -> Progress:
        """The state after the sum `totals`, int64[values of the request].

        Raises `AggregationError` for totals that no banks' rows have, and `TreesError` where nothing can be learned.
        """
        widths = self.request.widths
        if totals.shape != widths.shape or (totals < 0).any() or (totals >> widths).any():
            raise AggregationError(
                f"sum {self.step + 1}: expected {len(widths)} totals within their fields, got others"
            )
        after = _AFTER[self._kind](self, totals)
        chain = hashlib.sha256(self.chain + totals.astype("<i8").tobytes()).digest()
        return replace(after, step=self.step + 1, chain=chain)

    @property
    def model(self) -> TreeModel:
        """The model of the finished trees, without those after the lowest validation loss.

        Raises `TreesError` before the opening.
        """
        if self.counted is None:
            raise TreesError("the training has not begun: there is no model yet")
        kept = self.losses.index(min(self.losses)) if self.finished and self.losses else len(self.trees)
        return TreeModel(
            self.terms.columns,
            self.counted.edges,
            self.counted.base,
            self.trees[:kept],
            self.terms.settings.weight_bits,
        )

    @property
    def grid(self) -> Grid:
        """On which columns of numbers are counted."""
        return Grid.of(self.terms.settings.bins)

    @cached_property
    def finder(self) -> Finder:
        """Finds the splits of this training."""
        return Finder(self.terms.columns, self.terms.settings)

    @property
    def _kind(self) -> Kind:
        if self.counted is None:
            return "opening"
        return "loss" if self.growing is None else "level"

    @property
    def _widths(self) -> Integers:
        if self.counted is None:
            rows = MOST_ROWS * self.terms.members
            numbers = sum(column.categories == 0 for column in self.terms.columns)
            return _widths([rows, rows << CAUSE_BITS, rows] + [rows] * (self.grid.cells * numbers))
        parts = []
        if self.asks_for_loss:
            parts.append(_widths([(self.counted.validation_rows * MOST_LOSS) << self.terms.settings.weight_bits]))
        if self.growing is not None:
            for node in self.growing.build:
                rows = self.growing.nodes[node].rows
                parts.append(np.tile(_widths([rows * LARGEST, rows * LARGEST, rows]), self.growing.cells.count))
        return np.concatenate(parts)

    def _opened(self, totals: Integers) -> Progress:
        rows, unexplained, validation = (int(each) for each in totals[:3])
        if rows == 0:
            raise TreesError("the banks have no training rows: there is nothing to learn from")
        if self.terms.settings.patience and validation == 0:
            raise TreesError("early stopping needs validation rows, and the banks have none: set patience to 0")
        frauds = Decimal(unexplained) / (1 << CAUSE_BITS)
        if frauds > rows:
            raise AggregationError(f"the banks' sums name {frauds} frauds in {rows} rows: a bank sent wrong counts")
        base = base_score(frauds * self.terms.settings.class_weight, rows - frauds)
        counted = Counted(rows, validation, base, self._edges(totals[3:]))
        return replace(self, counted=counted).with_next_tree()

    def _edges(self, counts: Integers) -> tuple[tuple[float, ...], ...]:
        of_numbers = iter(counts.reshape(-1, self.grid.cells))
        return tuple(
            () if column.categories else self.grid.edges_from(next(of_numbers), self.terms.settings.bins)
            for column in self.terms.columns
        )

    def with_next_tree(self) -> Progress:
        """With the root of the next tree to build; or with none, when all trees are grown."""
        settings, counted, number = self.terms.settings, self.counted, len(self.trees)
        assert counted is not None
        if number == settings.trees:
            return replace(self, growing=None, finished=settings.patience == 0)
        columns = drawn_columns(len(self.terms.columns), settings.column_share, settings.seed, number)
        bins = bins_of(self.terms.columns, counted.edges)
        cells = Cells(columns, tuple(bins[column] for column in columns))
        # The root's own sums are not known yet; it has at most all rows.
        root = Node(counted.rows, 0, 0)
        return replace(self, growing=Growing(cells, (root,), (UNBOUNDED,), (0,), (0,), {}, {}))

    def _with_loss(self, loss: int) -> Progress:
        """After the validation loss of the finished trees: finished, when enough trees did not lower it."""
        losses = (*self.losses, loss)
        waited = len(losses) - 1 - losses.index(min(losses))
        over = self.growing is None or waited >= self.terms.settings.patience
        return replace(self, losses=losses, finished=over, growing=None if over else self.growing)

    def _measured(self, totals: Integers) -> Progress:
        return self._with_loss(int(totals[0]))

    def _grown(self, totals: Integers) -> Progress:
        """After the histograms of a level: its splits, and what is summed for their children."""
        state = self
        if self.asks_for_loss:
            state, totals = self._with_loss(int(totals[0])), totals[1:]
        growing = state.growing
        if growing is None:
            return state
        histograms = self._histograms(growing, totals)
        nodes = list(growing.nodes)
        if growing.depth == 0:
            nodes[0] = _node(_sums(histograms[0], growing.cells))
        bounds = list(growing.bounds)
        parents: dict[int, int] = {}
        for place in growing.level:
            sums = (nodes[place].gradient, nodes[place].hessian, nodes[place].rows)
            if not self.finder.may_split(sums):
                continue
            found = self.finder.best(histograms[place], growing.cells, sums, bounds[place])
            if found is None:
                continue
            nodes[place] = replace(nodes[place], split=found.split, left=len(nodes))
            parents.update({len(nodes): place, len(nodes) + 1: place})
            left = found.left
            nodes += [_node(left), _node((sums[0] - left[0], sums[1] - left[1], sums[2] - left[2]))]
            bounds += found.bounds
        depth = growing.depth + 1
        level, build = self._next_level(nodes, parents) if depth < self.terms.settings.depth else ((), ())
        if not level:
            return replace(state, trees=(*state.trees, self._tree(nodes, bounds))).with_next_tree()
        kept = {parents[place]: histograms[parents[place]] for place in level}
        next_ = Growing(growing.cells, tuple(nodes), tuple(bounds), level, build, parents, kept, depth)
        return replace(state, growing=next_)

    def _histograms(self, growing: Growing, totals: Integers) -> dict[int, Integers]:
        """By node of the level: its histogram, summed or as the rest of its parent's."""
        summed = totals.reshape(len(growing.build), growing.cells.count, 3).copy()
        summed[:, :, 0] -= summed[:, :, 2] * LIFT
        found: dict[int, Integers] = {}
        for place, histogram in zip(growing.build, summed, strict=True):
            sums = _sums(histogram, growing.cells)
            node = growing.nodes[place]
            if growing.depth == 0:
                if sums[2] > node.rows:
                    raise AggregationError(f"the histogram has {sums[2]} rows, and all banks have {node.rows}")
            elif sums != (node.gradient, node.hessian, node.rows):
                raise AggregationError("a node's histogram does not add up to what its parent's split left it")
            found[place] = histogram
            if growing.depth:
                sibling = place + (1 if growing.nodes[growing.parents[place]].left == place else -1)
                rest = growing.histograms[growing.parents[place]] - histogram
                if (rest[:, 1:] < 0).any():
                    raise AggregationError("a node's histogram has rows that its parent's does not have")
                found[sibling] = rest
        return found

    def _next_level(self, nodes: list[Node], parents: Mapping[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The children that may be split, and those whose histograms are summed: the smaller of two, or the left."""
        level: list[int] = []
        build: list[int] = []
        for left in sorted(parents)[::2]:
            pair = [
                place
                for place in (left, left + 1)
                if self.finder.may_split((nodes[place].gradient, nodes[place].hessian, nodes[place].rows))
            ]
            if pair:
                level += pair
                build.append(left if nodes[left].rows <= nodes[left + 1].rows else left + 1)
        return tuple(level), tuple(build)

    def _tree(self, nodes: list[Node], bounds: list[Bounds]) -> Tree:
        return Tree(
            tuple(
                node
                if node.split
                else replace(node, leaf=self.finder.leaf((node.gradient, node.hessian, node.rows), bounds[place]))
                for place, node in enumerate(nodes)
            )
        )


_AFTER = {"opening": Progress._opened, "level": Progress._grown, "loss": Progress._measured}


def base_score(frauds: Decimal, others: Decimal) -> int:
    """log(frauds / others) in multiples of 2^-16, within 14 nats: the score before any tree.

    By decimal arithmetic, whose logarithm is rounded correctly and so is the same on every machine.
    """
    with localcontext(prec=50):
        if frauds <= 0 or others <= 0:
            return -MOST_BASE if frauds <= 0 else MOST_BASE
        score = int(((frauds / others).ln() * (1 << SCORE_BITS)).to_integral_value())
    return min(max(score, -MOST_BASE), MOST_BASE)


def _widths(largest: list[int]) -> Integers:
    """Bits of values from 0 up to these."""
    return np.array([max(each.bit_length(), 1) for each in largest], np.int64)


def _node(sums: Sums) -> Node:
    return Node(sums[2], sums[0], sums[1])


def _sums(histogram: Integers, cells: Cells) -> Sums:
    """The sums of all cells of a column, which are the same for every column.

    Raises `AggregationError` where they are not.
    """
    by_column = np.add.reduceat(histogram, cells.starts, axis=0)
    if (by_column != by_column[0]).any():
        raise AggregationError(
            "a node's histogram has other sums by one column than by another: a bank sent wrong ones"
        )
    gradient, hessian, rows = by_column[0]
    return int(gradient), int(hessian), int(rows)
