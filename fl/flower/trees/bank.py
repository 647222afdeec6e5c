"""A bank of a run of trees: its rows, and the integers that it adds to each sum.

The party file's [app] table is that of `fl.flower.planned_bank`, where `federation` names a plan of trees, and

    changed_members = true   # accept other members than those of this bank's earlier trees (partners.py)

Contributions are exact and have no noise. What protects a bank is that a sum is over all members of the plan, and that
it is over the same members in all sums that it ever enters:

1. Before it joins, the bank looks at its record of partners, and computes what it will contribute.
2. The roster has closed and was verified; it holds the plan's members, all of them, with the keys on the list.
3. The record of partners holds them, durably; only then is anything sealed.

Two contributions of a bank may be equal, for example where a tree added nothing to its rows' scores. The journal
recognises the second one and would refuse it, because the difference of two sums with other members shows a bank. Among
the same members the difference of two sums is what all of them together changed, so this app lets it pass (`repeats`).
A lost sum is asked for again with the same integers: then both sums are the same sum.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import secagg
from fl import options
from fl.data.federation import BankData, bank_of
from fl.errors import AggregationError, TreesError
from fl.flower.errors import ModelMismatch, SettingsError, TreesGrown, TreeSumRefused
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.parties.bank import Released, Trained
from fl.flower.planned_bank import PlannedBank
from fl.flower.private.home import keep
from fl.flower.settings import PartySettings
from fl.flower.trees.home import compare, export, told
from fl.flower.trees.partners import Partners
from fl.flower.trees.plan import TreeCourse
from fl.flower.trees.state import flat_of, kept_of
from fl.learning.model import model_hash
from fl.runs.tree_baselines import members_of
from fl.runs.tree_module import TreeScores
from fl.trees.member import Member
from fl.trees.packing import pack, unpack
from fl.trees.progress_file import Kept

NOTHING = np.empty(0, np.float32)  # in place of an update: what enters a sum is given when the roster has closed


class TreeBank(PlannedBank):
    """The application of a bank (`fl.flower.parties.bank.BankApp`) in a run of trees.

    Reads its rows when it is made. What its methods raise beside errors of `fl.flower` stays at the bank.
    """

    what = "a run of trees"
    no_rule = "sums histograms of all banks, and no rule can leave one out"
    others = ("changed_members",)

    def __init__(self, settings: PartySettings, log: RoleLog) -> None:
        super().__init__(settings, log)
        changed = settings.app.get("changed_members", False)
        if type(changed) is not bool:
            raise SettingsError(
                f"{self._file}: app.changed_members: expected true or false, got {options.shown(changed)}"
            )
        self._partners = Partners(settings.folder, changed=changed)
        self._last: tuple[bytes, Kept] | None = None  # of the model that was read last
        self._require_plan_of_rounds(self.course.settings)

    # --- what the bank's role asks ----------------------------------------------------------------------------------

    def initial(self) -> FlatModel:
        """The training before its first sum."""
        return flat_of(Kept.of(self.course.terms), self.course.cut)

    def finished(self, model: FlatModel) -> bool:
        """Whether all trees are grown. A model of another plan is refused where the bank is asked for a sum."""
        try:
            return self._kept(model).progress.finished
        except ModelMismatch:
            return False

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        """What the bank will enter the next roster with: the same in every attempt.

        Raises `TreesGrown`, `PartnersDiffer`, `ModelMismatch`.
        """
        progress = self._kept(model).progress
        if progress.finished:
            raise TreesGrown(f"all {len(progress.trees)} trees of this plan are grown: a new run needs a new plan")
        self._partners.require(self._members)
        widths = progress.request.widths
        packed = pack(self._member.contribution(progress), widths, self.course.cut).astype(np.float64)

        def entered(roster: Collection[str]) -> NDArray[np.float64]:
            self._require_members(roster, "sums of trees are")
            self._partners.note(self._members)
            return packed

        return Trained(NOTHING, draw=entered, repeats=True)

    def moved(self, model: FlatModel, released: Released) -> FlatModel:
        """The training after a sum. Raises `TreeSumRefused` for integers that no banks' rows have."""
        kept, members = self._kept(model), len(self.plan.members)
        number, widths = kept.progress.step + 1, kept.progress.request.widths
        if released.contributors != members:
            raise TreeSumRefused(f"sum {number}: expected it over {members} banks, got {released.contributors}")
        try:
            after = kept.after(unpack(released.sums, widths, self.course.cut))
        except (AggregationError, TreesError) as fault:
            # The text follows from sums that everybody sees.
            raise TreeSumRefused(f"sum {number} of {self.course.most_sums}: {fault}; end the run") from fault
        flat = flat_of(after, self.course.cut)
        self._last = flat.digest, after
        return flat

    def evaluate(self, model: FlatModel) -> dict[str, float | int | str]:
        """Hash of the grown trees; nothing before. The comparison goes to this bank's folder and standard output."""
        progress = self._kept(model).progress
        if not progress.finished:
            return {}
        module = TreeScores(progress.model, self.course.columns)
        compared = compare(self._own, module, self.course)
        keep(self._settings.folder, compared)
        export(self._settings.folder, self.plan, self.run, self._data, module, compared)
        sys.stdout.write(told(compared) + "\n")
        sys.stdout.flush()
        return {"model_hash": model_hash(module)}

    # --- what it is made of -----------------------------------------------------------------------------------------

    @cached_property
    def course(self) -> TreeCourse:
        """The run's sums."""
        return TreeCourse.of(self.plan, self.run)

    @cached_property
    def _own(self) -> BankData:
        """This bank's rows, with features from them alone."""
        return bank_of(self.rows, self.bank)

    @cached_property
    def _member(self) -> Member:
        (member,) = members_of([self._own], self.course.terms, self.course.columns)
        return member

    @cached_property
    def _members(self) -> dict[str, str]:
        """The plan's members with their signing keys. Raises `SettingsError` for one that is not enrolled."""
        enrolled = {
            each.organisation: each.key.hex() for each in secagg.Enrolment.load(self._settings.enrolment).clients
        }
        if missing := sorted(set(self.plan.members) - set(enrolled)):
            raise SettingsError(
                f"the plan's members {', '.join(missing)} are not on the enrolment list as clients: take the plan and "
                "the list that belong together"
            )
        return {name: enrolled[name] for name in self.plan.members}

    def _kept(self, model: FlatModel) -> Kept:
        if self._last is None or self._last[0] != model.digest:
            self._last = model.digest, kept_of(model, self.course.terms)
        return self._last[1]
