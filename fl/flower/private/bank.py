"""A bank of a private run: its rows, its drafts of counts, its privacy ledger, and its part in each sum.

The party file's [app] table says where they are, for example

    [app]
    federation = "federation.toml"   # the plan, the same at every bank (plan.py); its registers lie beside it
    data = "transactions.csv"        # this bank's rows
    schema = "schema.toml"
    partition = "BANK"               # column that names the bank of a row; leave it out where all rows are this bank's
    bank = "Bank A"                  # name in that column, and among the plan's members
    salt = "salt"                    # 32 random bytes that the banks share, and nobody else knows
    budget = "budget"                # folder of the bank's privacy ledger, kept for the life of its data

Order, which the budget rests on:

1. Before it joins, the bank asks its ledger for room, and computes what it will contribute, without noise.
2. The roster has closed and was verified; it holds the plan's members, all of them.
3. The ledger holds the release (of counts: by the hash of the draft, once for all their rounds), synced.
4. Noise is drawn, once for this contribution; only then is anything sealed.

What was paid and did not enter a release is lost: a step that is played again is paid again, with new noise, and the
run ends that many steps earlier. A draft of counts is kept on disk from before it is paid until all counts are
released, and goes to the same members again. A bank whose paid draft is gone stops (`DraftLost`): if it alone drew
anew, two sums would hold the same noise of all others.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fl.counts.drafts import Drafts
from fl.counts.entity_risk import read_episodes, write_episodes
from fl.counts.key_slots import SALT_BYTES, AllSlots
from fl.counts.plan import StatisticsPlan, Totals
from fl.counts.settings import key_slots
from fl.data.federation import federation_of
from fl.errors import BudgetError, BudgetExhausted, BudgetLedgerError
from fl.flower.app_table import require_entries
from fl.flower.errors import DraftLost, PrivateRunEnded, SettingsError
from fl.flower.logs import RoleLog
from fl.flower.models import FlatModel
from fl.flower.parties.bank import Released, Trained
from fl.flower.planned_bank import PlannedBank
from fl.flower.private.export import RUN, export
from fl.flower.private.home import compare, keep, told
from fl.flower.private.plan import Course
from fl.flower.private.state import RunState
from fl.flower.settings import PartySettings
from fl.learning.model import flatten, model_hash, unflatten
from fl.privacy.budget import BudgetLedger, ledger_path
from fl.rounds.algorithms.state import ReleasedAverage, Seat, State
from fl.rounds.joint_noise import JointNoise
from fl.runs.budgets import STATISTICS_ROUND, CountsPayment, require_paid, trainings_paid
from fl.runs.risk import RiskOfParties

NOTHING = np.empty(0, np.float32)  # in place of an update, where what enters a sum is drawn later
ANY_THRESHOLD = 0.5  # where a bank has too few frauds to choose one


class PrivateBank(PlannedBank):
    """The application of a bank (`fl.flower.parties.bank.BankApp`) in a private run.

    Reads its rows when it is made. What its methods raise beside errors of `fl.flower` stays at the bank.
    """

    what = "a private run"
    no_rule = "sums steps of all banks, whose noise is for all of them, and no rule can leave one out"
    texts = ("salt", "budget")

    def __init__(self, settings: PartySettings, log: RoleLog) -> None:
        super().__init__(settings, log)
        if self.plan.config.trees is not None:
            raise SettingsError(f"{self._file}: app.federation: expected the plan of a private run, got one of trees")
        self._require_plan_of_rounds(self.course.settings(len(self.plan.members)))

    # --- what the bank's role asks ----------------------------------------------------------------------------------

    def initial(self) -> FlatModel:
        """The state before round 1: the plan's fingerprint, and nothing released."""
        return self._state(np.empty(0, np.int64), 0, None).flat()

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        """What the bank will enter the next roster with. Raises `BudgetExhausted`, `PrivateRunEnded`."""
        state = RunState.of(model, self.fingerprint)
        self._require_honest_ledger(state)
        if len(state.counts) < self.course.counts:
            return Trained(NOTHING, draw=self._counts(state))
        if state.steps >= self.course.steps:
            raise PrivateRunEnded(f"all {self.course.steps} steps of this plan are done: a new run needs a new plan")
        return Trained(NOTHING, draw=self._step(state))

    def moved(self, model: FlatModel, released: Released) -> FlatModel:
        """The state after a release."""
        state = RunState.of(model, self.fingerprint)
        if len(state.counts) < self.course.counts:
            return self._state(np.concatenate([state.counts, released.sums]), 0, None).flat()
        noise, algorithm = self._noise, self.run.own_algorithm
        average = noise.averaged(released.sums)
        whole = np.ones(len(average), bool)
        applied = ReleasedAverage(state.steps + 1, average, whole, released.contributors, released.total_weight)
        training = algorithm.apply(self._training(state), applied)
        return self._state(state.counts, state.steps + 1, training).flat()

    def finished(self, model: FlatModel) -> bool:
        return False  # the plan's maker tells the aggregator how many rounds there are

    def evaluate(self, model: FlatModel) -> dict[str, float | int | str]:
        """Hash of the weights; the comparison goes to this bank's own folder and standard output."""
        state = RunState.of(model, self.fingerprint)
        module = self._scoring(state)
        if len(state.counts) == self.course.counts and state.steps:
            parties = self._parties(state)
            compared = compare(parties, self.run, module, self.ledger.reckoned().epsilon)
            keep(self._settings.folder, compared)
            threshold = compared["figures"]["federated"]["threshold"] if "figures" in compared else ANY_THRESHOLD
            release = None if self.run.sharing is None else (self._totals(state), self.keys)
            folder = self._settings.folder / RUN
            export(folder, self.plan, self.run, parties, release, module, threshold, self._data)
            sys.stdout.write(told(compared) + "\n")
            sys.stdout.flush()
        return {"model_hash": model_hash(module)}

    # --- counts -----------------------------------------------------------------------------------------------------

    def _counts(self, state: RunState) -> Callable[[Collection[str]], NDArray[np.float64]]:
        """The next part of this bank's draft."""
        drafts, payment = self._drafts, self._payment
        if drafts.release is None and self._counts_paid:
            # Others would contribute what they drew before: two sums with their noise in both would show more of them
            # than they paid for.
            raise DraftLost(
                "this bank has paid for its noised counts, and they are no longer on its disk: nobody draws twice by "
                "one plan; make a plan with another name, by which all banks draw and pay anew"
            )
        self._within_budget(lambda: payment.require_room(drafts.release))
        start = len(state.counts)

        def draw(roster: Collection[str]) -> NDArray[np.float64]:
            self._require_members(roster, "the plan's noise is")
            whole: list[NDArray[np.int64]] = []
            self._within_budget(lambda: whole.append(drafts.of(0, payment, len(roster))))
            return whole[0][start : start + state.length].astype(np.float64)

        return draw

    @cached_property
    def _drafts(self) -> Drafts:
        folder = self._settings.folder / "statistics"
        folder.mkdir(mode=0o700, exist_ok=True)
        drafts = Drafts([(self.bank, self.rows.table)], self.sharing, self.keys, folder, members=self.plan.members)
        drafts.keep_if_paid(self._payment)
        return drafts

    @property
    def _counts_paid(self) -> bool:
        return any(s.run == self.plan.run and s.round == STATISTICS_ROUND for s in self.ledger.spends())

    @cached_property
    def _payment(self) -> CountsPayment:
        entry = self.sharing.entry
        assert entry is not None
        return CountsPayment({self.bank: self.ledger}, self.plan.run, entry)

    # --- steps ------------------------------------------------------------------------------------------------------

    def _step(self, state: RunState) -> Callable[[Collection[str]], NDArray[np.float64]]:
        """This bank's sum of gradients, to which noise is added when the roster has closed."""
        cost, noise = self.run.round_cost, self._noise
        assert cost is not None
        self._within_budget(self._require_step_left)
        self._within_budget(lambda: self.ledger.require_room(cost, round_number=state.steps + 1))
        training, algorithm = self._training(state), self.run.own_algorithm
        module = self._module()
        unflatten(module, algorithm.trains_from(training, Seat(self._position, state.steps)))
        gradient = algorithm.contribution(module, self._parties(state).released[0].train, lambda: None)

        def draw(roster: Collection[str]) -> NDArray[np.float64]:
            self._require_members(roster, "the plan's noise is")
            self._within_budget(self._require_step_left)
            self._within_budget(lambda: self.ledger.spend(cost, run=self.plan.run, round_number=state.steps + 1))
            return noise.integers(gradient, len(roster)).astype(np.float64)

        return draw

    def _require_step_left(self) -> None:
        if trainings_paid(self.ledger, self.plan.run) >= self.course.steps:
            raise BudgetExhausted(f"all {self.course.steps} steps that the noise was calibrated to are paid for")

    def _training(self, state: RunState) -> State:
        return self.run.own_algorithm.begin(flatten(self._module())) if state.training is None else state.training

    def _module(self) -> nn.Module:
        return self.run.schedule(self.course.steps).first_model(len(self.run.feature_names))

    def _scoring(self, state: RunState) -> nn.Module:
        module = self._module()
        unflatten(module, self.run.own_algorithm.scores_with(self._training(state), self._position))
        return module

    def _parties(self, state: RunState) -> RiskOfParties:
        """This bank's rows with what the released counts say: equal counts give equal constants at every bank."""
        if self._known is None:
            home = replace(self.rows, banks=tuple(each for each in self.rows.banks if each[0] == self.bank))
            local, members = federation_of(home).only(self.run.own_names), len(self.plan.members)
            scale, folder = self.run.config.scale, self._settings.folder / "statistics"
            days = self.run.config.model.history_days
            if self.run.sharing is None:
                self._known = RiskOfParties.of(home, local, None, scale, learns_from=days)
            else:
                episodes, release = read_episodes(folder), (self._totals(state), self.keys)
                known = RiskOfParties.of(home, local, release, scale, episodes, learns_from=days)
                self._known = replace(known, members=members)
                assert self._known.risk is not None
                if episodes is None:
                    write_episodes(folder, self._known.risk.episodes)
                self._drafts.delete()  # all counts are released: nobody will ask for the drafts again
        return self._known

    def _totals(self, state: RunState) -> Totals:
        return Totals(self.sharing, state.counts.reshape(self.sharing.shape))

    _known: RiskOfParties | None = None

    # --- what it is made of -----------------------------------------------------------------------------------------

    @cached_property
    def course(self) -> Course:
        return Course.of(self.run)

    @property
    def sharing(self) -> StatisticsPlan:
        assert self.run.sharing is not None
        return self.run.sharing

    @cached_property
    def keys(self) -> AllSlots:
        settings = self.run.config.statistics
        assert settings is not None
        return key_slots(self.rows, settings, self._salt)

    @cached_property
    def ledger(self) -> BudgetLedger:
        privacy = self.run.config.privacy
        assert privacy is not None
        folder = self._settings.folder / self._settings.app.get("budget", "budget")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return BudgetLedger(ledger_path(folder, self.bank), self.bank, privacy.epsilon, privacy.delta)

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes: the plan and the salt. A salt of 256 random bits is not to be guessed from it."""
        salt = self._salt if self.plan.config.statistics is not None else b""
        return hashlib.sha256(b"fl private run v1" + bytes.fromhex(self.plan.fingerprint) + salt).digest()

    @cached_property
    def _salt(self) -> bytes:
        require_entries(self._settings.app, {"salt"}, self._file)
        path = self._settings.folder / str(self._settings.app["salt"])
        if path.is_symlink() or not path.is_file() or path.stat().st_mode & 0o077:
            raise SettingsError(f"{path}: expected a file that its owner alone reads (mode 600)")
        salt = path.read_bytes()
        if len(salt) != SALT_BYTES:
            raise SettingsError(f"{path}: expected {SALT_BYTES} random bytes, the same at every bank, got {len(salt)}")
        return salt

    @property
    def _noise(self) -> JointNoise:
        assert self.run.joint_noise is not None
        return self.run.joint_noise

    def _state(self, counts: NDArray[np.int64], steps: int, training: State | None) -> RunState:
        ends = np.cumsum((0, *self.course.chunks))
        chunk = int(np.searchsorted(ends, len(counts)))
        length = self.course.dimension if len(counts) >= self.course.counts else self.course.chunks[chunk]
        return RunState(self.fingerprint, counts, steps, training, length)

    # --- what it refuses --------------------------------------------------------------------------------------------

    def _require_honest_ledger(self, state: RunState) -> None:
        """An older copy of a ledger forgets what was spent."""
        if len(state.counts) and not self._counts_paid:
            raise BudgetLedgerError(
                f"{self.ledger.path}: this run's counts are released, and the ledger does not hold them"
            )
        shown: list[Mapping[str, Any]] = [{"members": [self.bank]}] * state.steps
        require_paid({self.bank: self.ledger}, self.plan.run, shown)

    def _within_budget(self, act: Callable[[], None]) -> None:
        """What a bank has spent is its own business: the log has it, the other side learns that there is no room."""
        try:
            act()
        except BudgetExhausted as error:
            self._log("budget exhausted", error=type(error).__name__, message=str(error))
            raise BudgetExhausted("this bank's ledger has no room for it; the bank's log says more") from None
        except BudgetError as error:
            self._log("ledger refused", error=type(error).__name__, message=str(error))
            raise SettingsError("this bank's ledger does not allow it; the bank's log says why") from None
