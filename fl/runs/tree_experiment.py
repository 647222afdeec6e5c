"""A run that trains boosted trees: bin edges in one secure sum, then one secure sum for each level of each tree.

What it does: `fl.runs.experiment` with sums in place of rounds. Each sum is on disk before anything that follows from
it is asked for, so that a run that was killed in the middle of a tree continues with the next sum, and no sum that was
kept is made twice. The trees are those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.data.federation import Federation, pooled_local
from fl.durable import JsonLines, replace_durably
from fl.errors import RunFolderError, TreesError
from fl.learning.evaluation import Evaluation, evaluate
from fl.learning.model import model_hash
from fl.rounds.play import Progress as Told
from fl.rounds.play import trained_models
from fl.runs.baselines import Baseline
from fl.runs.folder import RunFolder
from fl.runs.plan import RunPlan
from fl.runs.tree_baselines import grown_in_one_place, members_of
from fl.runs.tree_columns import TreeColumns
from fl.runs.tree_module import TreeScores
from fl.runs.tree_records import SumRecord, told_by, told_in
from fl.runs.tree_run import TreeRun
from fl.secure.session import IntegerRounds, IntegerSum, plain_sum
from fl.trees.member import Member
from fl.trees.progress import Progress, Request
from fl.trees.progress_file import Kept
from fl.trees.settings import MOST_ROWS, Terms
from fl.trees.training import add_plainly, sum_encrypted

Integers = NDArray[np.int64]

TRAINING = "trees_training.json"  # the state after the last sum
POOLED = "pooled_trees.json"  # the hash of the trees on pooled rows


@dataclass(frozen=True)
class _Summed:
    """A sum, and what it took. `cost`: None where nothing was encrypted."""

    totals: Integers = field(repr=False)
    seconds: float
    cost: IntegerSum | None = None


class TreeExperiment(TreeRun):
    """A run in progress, as `Experiment`. Its rounds are sums."""

    def __init__(self, folder: RunFolder, plan: RunPlan, federation: Federation) -> None:
        super().__init__(folder, plan, federation)
        self._lines = JsonLines(folder.path / "metrics.jsonl")
        self._kept, self._records = self._read()

    @cached_property
    def terms(self) -> Terms:
        """What the banks agree on. The purpose names this run and its schema."""
        said = [self.folder.run_id, self.plan.source.table.schema.sha256]
        purpose = hashlib.sha256(json.dumps(said).encode()).hexdigest()
        return Terms(self.columns.columns, self.settings, len(self.plan.banks), purpose)

    @property
    def parts_done(self) -> int:
        """The opening sum, and levels of trees."""
        return levels_done(self._kept.progress)

    @property
    def parts(self) -> int:
        """The opening sum, and all levels of all trees."""
        return 1 + self.settings.trees * self.settings.depth

    def rounds(self, progress: Told | None = None) -> Iterator[Any]:
        """Make the remaining sums; each is on disk when its record is yielded. Then write the model and its metrics."""
        with self.folder.alone():
            self._continue_where_it_ended()
            self._share_statistics()
            members = members_of(self.federation.banks, self.terms, self.columns)
            while not self._kept.progress.finished:
                record = self._next_sum(members)
                if progress is not None:
                    for bank in self.plan.banks:
                        progress(bank)
                yield record
            self._finish()

    def _read(self) -> tuple[Kept, list[dict[str, Any]]]:
        """The state on disk, and the records of the sums that led to it."""
        content, path = self.folder.read_json(TRAINING), self.folder.path / TRAINING
        try:
            kept = Kept.from_json(content, self.terms) if content else Kept.of(self.terms)
        except TreesError as fault:
            raise RunFolderError(f"{path} is damaged ({fault}): start the run anew") from fault
        try:
            records = self._lines.read(kept.progress.step)
        except ValueError:
            records = []
        if [record.get("round") for record in records] != list(range(1, kept.progress.step + 1)):
            raise RunFolderError(
                f"{self._lines.path}: expected the sums 1 to {kept.progress.step}, as in {TRAINING}; start the run anew"
            )
        return kept, records

    def _continue_where_it_ended(self) -> None:
        """Drop the line of a sum whose result was not kept. Raises `RunFolderError` when another process went on."""
        kept, _ = self._read()
        if kept.progress.step != self._kept.progress.step:
            raise RunFolderError(
                f"{self.folder.path}: another process has made sums: expected {self._kept.progress.step}, got "
                f"{kept.progress.step}: resume the run again"
            )
        self._lines.keep(kept.progress.step)

    def _next_sum(self, members: list[Member]) -> SumRecord:
        before = self._kept.progress
        begun = time.perf_counter()
        contributions = [member.contribution(before) for member in members]
        at_banks = time.perf_counter() - begun
        request = before.request
        summed = self._summed(request, contributions)
        kept = self._kept.after(summed.totals)
        cost, growing = summed.cost, before.growing
        record = SumRecord(
            number=before.step + 1,
            kind=request.kind,
            tree=0 if growing is None else len(before.trees) + 1,
            level=0 if growing is None else growing.depth,
            values=len(request.widths),
            told=told_by(before, summed.totals),
            seconds=summed.seconds,
            preparation=0.0 if cost is None else cost.preparation,
            banks_seconds=at_banks,
            bytes_up=0 if cost is None else cost.bytes_up,
            bytes_down=0 if cost is None else cost.bytes_down,
            stages={} if cost is None else cost.stages,
            members=len(members),
        )
        line = {"round": record.number, **record.as_json()}
        self._lines.append(json.dumps(line).encode())
        content = json.dumps(kept.as_json(), separators=(",", ":"), allow_nan=False)
        replace_durably(self.folder.path / TRAINING, content.encode())
        self._kept = kept
        self._records.append(line)
        return record

    def _summed(self, request: Request, contributions: list[Integers]) -> _Summed:
        """The sum, encrypted as a round of its own with keys of its own, or plain."""
        begun = time.perf_counter()
        if self.config.aggregation.mode == "plain":
            totals = add_plainly(request, contributions)
            return _Summed(totals, time.perf_counter() - begun)
        summed = sum_encrypted(request, contributions, rounds=self._encrypted)
        return _Summed(summed.totals, summed.seconds, summed)

    @cached_property
    def _encrypted(self) -> IntegerRounds:
        """The encrypted rounds of this process: identities, ledger and journals for all its sums."""
        return IntegerRounds(len(self.plan.banks), engine=self.config.aggregation.engine)

    @cached_property
    def module(self) -> TreeScores:
        """The finished trees. Raises `RunFolderError` before they are."""
        if not self._kept.progress.finished:
            raise RunFolderError(f"{self.folder.path}: the trees are not finished: continue with train --resume")
        return TreeScores(self._kept.progress.model, self.columns)

    def _planned_baselines(self) -> dict[str, Baseline]:
        planned: dict[str, Baseline] = {"alone_trees": self._alone}
        if sum(len(bank.train) for bank in self.federation.banks) <= MOST_ROWS:
            planned["pooled_trees"] = self._pooled
        planned["network"] = self._network
        return planned

    def _alone(self) -> Evaluation:
        if self._parties is not None:
            return self._alone_inside_the_link(self._parties.alone, self.settings)
        columns = TreeColumns.of(self.plan.source.table.schema, self._local.feature_names)
        grown = [grown_in_one_place(bank, columns, self.settings) for bank in self._local.banks]
        return evaluate(self._local.banks, [TreeScores(trees, columns) for trees in grown], self._device)

    def _pooled(self) -> Evaluation:
        trees = grown_in_one_place(pooled_local(self.federation), self.columns, self.settings)
        module = TreeScores(trees, self.columns)
        self.folder.write_json(POOLED, {"model_hash": model_hash(module)})
        return evaluate(self.federation.banks, [module] * len(self.plan.banks), self._device)

    def _network(self) -> Evaluation:
        schedule = replace(self.plan.schedule(self.config.rounds), kind="mlp")
        banks, average = self.federation.banks, partial(plain_sum, clip=self.config.aggregation.clip)
        if self._parties is not None:
            # The network has the risk as scaled log odds, and learns from the training period as all networks do.
            banks = replace(self._parties, scale="log odds", learns_from=0).released
        rounds = self._rounds(schedule, self.plan.algorithm, average, banks)
        return evaluate(banks, trained_models(rounds), self._device)

    def _about_model(self) -> dict[str, Any]:
        trees = self.module.trees.trees
        pooled = self.folder.read_json(POOLED).get("model_hash")
        return {
            "algorithm": "boosting",
            "rounds": self._kept.progress.step,
            "rounds_lost": 0,
            "parameters": sum(len(tree.nodes) for tree in trees),
            "trees": {
                "trees": len(trees),
                "depth": self.settings.depth,
                "learning_rate": self.settings.rate,
                "bins": self.settings.bins,
                "columns": list(self.columns.names),
                "monotone": self.plan.source.table.schema.monotone,
                "linked": self.columns.linked,
                "model_hash": model_hash(self.module),
                "same_as_pooled": None if pooled is None else pooled == model_hash(self.module),
                "told": told_in(self._records),
            },
        }


def levels_done(progress: Progress) -> int:
    """Levels of trees that are finished, the opening sum included."""
    if progress.counted is None:
        return 0
    settings, growing = progress.terms.settings, progress.growing
    if progress.finished:
        return 1 + settings.trees * settings.depth
    return 1 + len(progress.trees) * settings.depth + (0 if growing is None else growing.depth)
