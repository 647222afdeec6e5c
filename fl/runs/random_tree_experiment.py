"""A run under differential privacy that boosts random trees inside the noisy-or link: one noisy sum for each tree.

    once:      noisy counts of frauds at shared parties, and from them each row's q         `fl.counts`
    a tree:    its splits are drawn from the public seed                                    `fl.trees.random_trees`
               bank k adds its rows' gradients and curvatures by leaf, and its noise share  `fl.rounds.joint_noise`
               what all banks' sums give is a Newton step for each leaf

The order of one tree, on which the budget rests:

1. Each bank's sums with its share of the noise, its draft, are on disk (`fl.runs.tree_drafts`).
2. Every bank's ledger holds the tree, by the hash of the drafts. Only then is any of them sent.
3. The released sums are on disk. Only then is the draft deleted, and the next tree begun.

A process that was killed sends the same draft again, and pays nothing for it. Where the draft is gone, noise is drawn
and paid for anew. The noise was calibrated to a number of trees, so that the run ends with fewer of them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.data.federation import BankData, Rows
from fl.errors import RunFolderError
from fl.learning.evaluation import Evaluation, evaluate
from fl.learning.model import model_hash
from fl.privacy.budget import BudgetLedger
from fl.rounds.algorithms.state import State
from fl.rounds.joint_noise import JointNoise
from fl.rounds.play import Progress
from fl.runs.baselines import Baseline
from fl.runs.risk_baselines import exact_totals, personal
from fl.runs.tree_columns import TreeColumns, columns_to_split
from fl.runs.tree_drafts import TreeDraft, drop_draft, kept_draft
from fl.runs.tree_module import TreeScores
from fl.runs.tree_records import SumRecord, Told
from fl.runs.tree_run import TreeRun
from fl.secure.session import IntegerSum, encrypted_sum
from fl.trees.coding import Codes, checked_values, codes_of
from fl.trees.gradients import Labels, labels_of
from fl.trees.random_trees import drawn_tree, leaf_sums, linear_edges, public_base, with_leaves
from fl.trees.settings import TreeSettings
from fl.trees.tree import Tree, TreeModel, added_by

Integers = NDArray[np.int64]
SUMS = "sums"  # in the checkpoint: float64[trees * values], what was released of each tree


class RandomTreeExperiment(TreeRun):
    """A run in progress, as `Experiment`. Its rounds are trees."""

    @property
    def joint(self) -> JointNoise:
        """The noise of one tree."""
        assert self.plan.joint_noise is not None
        return self.plan.joint_noise

    @property
    def bare(self) -> TreeModel:
        """The model before any tree: everything about it is public."""
        columns, schema = self.columns.columns, self.plan.source.table.schema
        edges = linear_edges(columns, schema.bound, self.settings.bins)
        return TreeModel(columns, edges, public_base(self.config.model.prior), ())

    def rounds(self, progress: Progress | None = None) -> Iterator[Any]:
        """Grow the remaining trees; each is on disk when its record is yielded. Then write the model and figures."""
        with self.folder.alone():
            self.folder.drop_interrupted(self.finished)
            if self._will_spend_here:
                self.folder.require_original()
            self._share_statistics()
            grower = Grower.of(self.federation.banks, self.columns, self.bare)
            for tree in self._trees():
                grower = grower.with_tree(tree)
            while self.finished < self.config.rounds:
                draft = self._draft(grower)
                if draft is None:  # attempts that are paid for and lost leave no budget for another tree
                    break
                record, grower = self._released(draft, grower)
                if progress is not None:
                    for bank in self.plan.banks:
                        progress(bank)
                yield record
            drop_draft(self.folder.path)  # of the last tree, where a process was killed before it removed it
            self.schedule = replace(self.schedule, rounds=self.finished)
            self._require_a_round()
            self._finish()

    @property
    def module(self) -> TreeScores:
        """The trees that are finished. Raises `RunFolderError` before the first."""
        if self._state is None:
            raise RunFolderError(f"{self.folder.path}: no tree is finished: continue with train --resume")
        return TreeScores(replace(self.bare, trees=self._trees()), self.columns)

    @property
    def _splittable(self) -> tuple[int, ...]:
        return columns_to_split(self.plan.source.table.schema, self.columns)

    def _trees(self) -> tuple[Tree, ...]:
        """Those whose sums were released."""
        if self._state is None:
            return ()
        try:
            released = self._state.memory[SUMS].astype(np.float64).reshape(self.finished, self.joint.dimension)
        except (KeyError, ValueError) as fault:
            raise RunFolderError(f"{self.folder.path}: the checkpoint has no sums of its trees: start anew") from fault
        drawn = (self._drawn(number) for number in range(self.finished))
        return tuple(with_leaves(tree, sums, self.settings) for tree, sums in zip(drawn, released, strict=True))

    def _drawn(self, number: int) -> Tree:
        return drawn_tree(self.columns.columns, self.bare.edges, self._splittable, self.settings, number)

    # --- what is sent and paid ------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        """64 hexadecimal digits that name the next tree's sum: the run, and all that was released before."""
        before = b"" if self._state is None else self._state.memory[SUMS].tobytes()
        said = json.dumps([self.folder.run_id, self.finished, self.plan.source.table.schema.sha256]).encode()
        return hashlib.sha256(b"fl random trees v1" + said + before).hexdigest()

    def _draft(self, grower: Grower) -> TreeDraft | None:
        """What is sent of the next tree: the draft on disk if a ledger holds it, or a new one that is on disk now.

        None where the budget has no room for another.
        """
        if (held := self._paid_draft()) is not None:
            return held
        if not self._afford(self.plan.banks):
            return None
        sums = grower.sums(self._drawn(self.finished))
        parts = tuple(self.joint.integers(each, len(self.plan.banks)) for each in sums)
        draft = TreeDraft(self._name, self.plan.banks, parts)
        draft.write(self.folder.path)
        return draft

    def _paid_draft(self) -> TreeDraft | None:
        joint = self.joint
        draft = kept_draft(self.folder.path, self._name, self.plan.banks, joint.dimension, joint.largest)
        if draft is None or not any(self._holds(ledger, draft) for ledger in self.ledgers.values()):
            return None
        return draft

    def _holds(self, ledger: BudgetLedger, draft: TreeDraft) -> bool:
        return any(
            spend.bound_to == draft.digest and spend.mechanism == self.plan.round_cost for spend in ledger.spends()
        )

    def _begun(self) -> dict[int, int]:
        """As `Experiment._begun`, without a draft that is paid for and is sent when the run continues."""
        begun = super()._begun()
        if (draft := self._paid_draft()) is not None:
            begun = {i: begun[i] - self._holds(ledger, draft) for i, ledger in enumerate(self.ledgers.values())}
        return begun

    def _released(self, draft: TreeDraft, grower: Grower) -> tuple[SumRecord, Grower]:
        """Pay for the draft, add it up, and keep what was released."""
        number, before, cost = self.finished + 1, time.perf_counter(), self.plan.round_cost
        assert cost is not None
        for ledger in self.ledgers.values():
            if not self._holds(ledger, draft):
                ledger.spend(cost, run=self.folder.run_id, round_number=number, bound_to=draft.digest)
        at_banks = time.perf_counter() - before
        summed: IntegerSum = encrypted_sum(
            [partial(_as_drafted, part, len(draft.banks)) for part in draft.parts],
            length=self.joint.dimension,
            largest=self.joint.largest,
            model_hash=draft.name,
            engine=self.config.aggregation.engine,
        )
        sums = summed.totals.astype(np.float64) * self.joint.unit
        tree = with_leaves(self._drawn(self.finished), sums, self.settings)
        earlier = np.zeros(0) if self._state is None else self._state.memory[SUMS]
        held = np.concatenate([earlier, sums])
        record = SumRecord(
            number=number,
            kind="leaves",
            tree=number,
            level=0,
            values=self.joint.dimension,
            told=Told(0, 0),
            seconds=summed.seconds,
            preparation=summed.preparation,
            banks_seconds=at_banks,
            bytes_up=summed.bytes_up,
            bytes_down=summed.bytes_down,
            stages=summed.stages,
            members=len(draft.banks),
        )
        line = {**record.as_json(), "members": list(draft.banks), **self._spent()}
        state = State(np.array([node.leaf for node in tree.nodes], np.float32), {SUMS: held})
        self.folder.finish_round(number, line, state)
        self.finished, self._state = number, state
        self._records.append({"round": number, **line})
        drop_draft(self.folder.path)
        return record, grower.with_tree(tree)

    # --- baselines and figures ------------------------------------------------------------------------------------

    def _planned_baselines(self) -> dict[str, Baseline]:
        parties = self._parties
        assert parties is not None
        greedy = TreeSettings(seed=self.settings.seed)
        with_windows = replace(parties, windows=True, all_placed={})
        return {
            "alone_filter": lambda: personal(parties.alone, self._device),
            "alone_trees": lambda: self._alone_inside_the_link(with_windows.alone, greedy),
            "plain_without_privacy": self._without_noise,
        }

    def _without_noise(self) -> Evaluation:
        """The same trees without noise in their leaves, beside the risk of exact counts."""
        parties = self._parties
        assert parties is not None
        if parties.risk is not None:
            parties = parties.with_totals(exact_totals(self.plan, parties))
        banks = parties.released
        grower = Grower.of(banks, self.columns, self.bare)
        for number in range(self.config.rounds):
            tree = self._drawn(number)
            sums: NDArray[np.float64] = np.sum(grower.sums(tree), axis=0)
            grower = grower.with_tree(with_leaves(tree, sums, self.settings))
        module = TreeScores(grower.model, self.columns)
        return evaluate(parties.with_evidence(banks), [module] * len(banks), self._device)

    def _about_model(self) -> dict[str, Any]:
        module = self.module
        return {
            "algorithm": "random trees",
            "parameters": sum(len(tree.nodes) for tree in module.trees.trees),
            "trees": {
                "trees": len(module.trees.trees),
                "depth": self.settings.depth,
                "learning_rate": self.settings.rate,
                "bins": self.settings.bins,
                "columns": list(self.columns.names),
                "split": [self.columns.names[place] for place in self._splittable],
                "linked": True,
                "random": True,
                "model_hash": model_hash(module),
                "same_as_pooled": None,
                "told": None,
            },
        }


@dataclass(frozen=True)
class _Part:
    """Training rows of a bank, coded once, and their scores after the trees so far."""

    codes: Codes = field(repr=False)
    labels: Labels = field(repr=False)
    scores: Integers = field(repr=False)


@dataclass(frozen=True)
class Grower:
    """The banks' training rows beside the trees that are finished. In a deployment each bank holds its own part."""

    model: TreeModel
    parts: tuple[_Part, ...] = field(repr=False)

    @staticmethod
    def of(banks: Sequence[BankData], columns: TreeColumns, bare: TreeModel) -> Grower:
        """Before the first tree. Raises `TreesError` for rows that trees cannot have."""

        def part(rows: Rows) -> _Part:
            codes = codes_of(checked_values(columns.fold(rows.x), bare.columns), bare.columns, bare.edges)
            return _Part(codes, labels_of(rows.y, columns.cause(rows.x)), np.full(len(codes), bare.base, np.int64))

        return Grower(bare, tuple(part(bank.train) for bank in banks))

    def sums(self, tree: Tree) -> list[NDArray[np.float64]]:
        """Of each bank: float64[2 * leaves], as `fl.trees.random_trees.leaf_sums`."""
        return [leaf_sums(tree, part.codes, self.model.bins, part.scores, part.labels) for part in self.parts]

    def with_tree(self, tree: Tree) -> Grower:
        """With one tree more."""
        parts = tuple(
            replace(part, scores=part.scores + added_by(tree, part.codes, self.model.bins)) for part in self.parts
        )
        return Grower(replace(self.model, trees=(*self.model.trees, tree)), parts)


def _as_drafted(part: Integers, banks: int, roster: int) -> Integers:
    """A bank's draft, for the roster it was made for alone. Raises `RunFolderError` for another."""
    if roster != banks:
        raise RunFolderError(f"a draft is made for a roster of {banks} banks, got {roster}: start the run anew")
    return part
