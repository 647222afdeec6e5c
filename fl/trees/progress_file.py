"""A training as JSON after any of its sums, so that a process that was killed continues with the next one.

# Strategy: a tree that is half grown is not written as such. The file holds the state at the beginning of the tree and
# the sums since. Reading it plays those sums again, and the result is the state that was written: `Progress.after` is a
# pure function. So there is one way to make a state, and a stranger's file can hold none that sums do not lead to.

The file holds no rows, only sums over all banks and what follows from them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl import options
from fl.errors import AggregationError, TreesError
from fl.trees.model_file import BASE, edges_from_json, tree_from_json, tree_to_json
from fl.trees.progress import Counted, Progress
from fl.trees.settings import MOST_ROWS, Terms
from fl.trees.tree import bins_of

Integers = NDArray[np.int64]

FORMAT = "fl trees training 1"

_COUNT = options.Whole(0, 2**62)


@dataclass(frozen=True)
class Kept:
    """A state at the beginning of a tree, or before the opening, and the sums since. Begin with `Kept.of`."""

    begun: Progress
    sums: tuple[Integers, ...] = field(default=(), repr=False)
    state: Progress | None = field(default=None, repr=False)

    @classmethod
    def of(cls, terms: Terms) -> Kept:
        """Before the first sum."""
        return cls(Progress.of(terms))

    @property
    def progress(self) -> Progress:
        """The state after the sums."""
        return self.begun if self.state is None else self.state

    def after(self, totals: Integers) -> Kept:
        """With one sum more. Raises as `Progress.after`."""
        state = self.progress.after(totals)
        if state.growing is None or state.growing.depth == 0:
            return Kept(state)
        return Kept(self.begun, (*self.sums, totals), state)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        begun = self.begun
        return {
            "format": FORMAT,
            "terms": begun.terms.as_json(),
            "step": begun.step,
            "chain": begun.chain.hex(),
            "counted": None if begun.counted is None else asdict(begun.counted),
            "trees": [tree_to_json(tree) for tree in begun.trees],
            "losses": list(begun.losses),
            "finished": begun.finished,
            "sums": [totals.tolist() for totals in self.sums],
        }

    @classmethod
    def from_json(cls, content: Any, terms: Terms) -> Kept:
        """The training under `terms` that a stranger wrote.

        Raises `TreesError` for anything else, one under other terms included.
        """
        try:
            fields = dict(content)
            if fields["format"] != FORMAT:
                raise TreesError(f"format: expected {FORMAT!r}, got {fields['format']!r:.60}")
            if Terms.from_json(fields["terms"]) != terms:
                raise TreesError("the file holds a training under other terms: its data or settings have changed")
            begun = replace(
                Progress.of(terms),
                step=_COUNT.of(fields["step"]),
                chain=_digest(fields["chain"]),
                counted=None if fields["counted"] is None else _counted(fields["counted"], terms),
                losses=tuple(_COUNT.of(loss) for loss in fields["losses"]),
            )
            if begun.counted is not None:
                bins = bins_of(terms.columns, begun.counted.edges)
                trees = tuple(tree_from_json(each, terms.columns, bins) for each in fields["trees"])
                begun = _at_root(replace(begun, trees=trees), options.SWITCH.of(fields["finished"]))
            kept = cls(begun)
            for totals in fields["sums"]:
                kept = kept.after(np.array([_COUNT.of(total) for total in totals], np.int64))
            return kept
        except (options.Refused, TypeError, ValueError, KeyError, AggregationError) as fault:
            raise TreesError(f"no training of trees that can be continued: {fault}") from fault


def _at_root(state: Progress, finished: bool) -> Progress:
    """The state whose next tree is to be grown; or the end of the training."""
    most, patient, trees = state.terms.settings.trees, state.terms.settings.patience > 0, len(state.trees)
    if trees > most or (finished and not patient and trees < most):
        raise TreesError(f"expected {most} trees at the end and no more before it, got {trees}")
    if len(state.losses) != (trees + finished if patient else 0):
        raise TreesError(f"expected the loss before each of {trees} trees, got {len(state.losses)} losses")
    return replace(state, finished=True) if finished else state.with_next_tree()


def _counted(content: Any, terms: Terms) -> Counted:
    fields = dict(content)
    most = options.Whole(0, MOST_ROWS * terms.members, "rows")
    return Counted(
        most.of(fields["rows"]),
        most.of(fields["validation_rows"]),
        BASE.of(fields["base"]),
        edges_from_json([list(edges) for edges in fields["edges"]], terms.columns),
    )


def _digest(content: Any) -> bytes:
    digest = bytes.fromhex(content)
    if len(digest) != 32:
        raise TreesError(f"chain: expected 64 hexadecimal digits, got {content!r:.80}")
    return digest
