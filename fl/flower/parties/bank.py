"""A bank between Flower and its own training.

# Strategy: a bank holds its own copy of the model and moves it by releases that the key holder signed, one after the
# other. A bank that missed a round catches up with the stored release of that round, with the same bytes that the
# others got, so no party's word about the current model is needed. Each release is in the journal before it moves the
# model, so that comparing the journal with the ledger finds a release that was signed for this bank alone.
#
# The result of training is checked before the bank joins: no round is closed over an update that no roster can accept.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.durable import replace_durably
from fl.flower.errors import (
    ModelMismatch,
    ReleaseDiffers,
    RoundStateLost,
    RoundStillOpen,
    SettingsError,
    TransferError,
)
from fl.flower.fields import LARGEST_STEP
from fl.flower.models import FlatModel
from fl.flower.parties.party import Fields, Party, expect, outgoing, plan_of
from fl.flower.parties.request import ControlRequest
from fl.flower.settings import PartySettings
from fl.flower.transport import Call, Outgoing
from secagg.errors import (
    LeftOut,
    PeerError,
    QuorumNotMet,
    SecAggError,
    UpdateError,
    UpdateReused,
    WeightOutOfRange,
    WrongModel,
    WrongRound,
)
from secagg.journal import UpdateReuseWarning, ZeroUpdateWarning
from secagg.messages import Abort, Contribution, Header, Intake, Join, LateSeed, Offer, Release, Roster
from secagg.robust import rule_bytes
from secagg.secrecy import Secret
from secagg.states import ClientState
from secagg.verification import check_offer, check_robust_offer, check_signature

_MAX_ATTEMPTS = 16  # trainings for one round; updates that differ by less than the quantisation count as the same
_DIFFERS = (
    "step {step}: the key holder signed another release than the one this bank accepted: keep the journal, and ask for "
    "an audit of the ledger (demos audit LEDGER --against JOURNAL)"
)

_SEALED = (ClientState.CONTRIBUTED, ClientState.SKETCHED)

Values = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class Trained(Secret):
    """The result of local training. update: one value per model value.  weight: used if the plan has weights.

    draw: in place of `update`, what enters a closed and verified roster of these organisations: made, and where noise
    is added drawn and paid for, when it is called, once for each roster. repeats: what is drawn may equal what entered
    an earlier sum, since the app itself sees to it that all its rosters have the same members.
    """

    update: Values = field(repr=False)
    weight: int = field(default=1, repr=False)
    draw: Callable[[Collection[str]], Values] | None = field(default=None, repr=False)
    repeats: bool = field(default=False, repr=False)


@dataclass(frozen=True)
class Released:
    """What a release says. values: float64[length], the weighted mean.  sums: int64[length], of the integers."""

    values: NDArray[np.float64] = field(repr=False)
    sums: NDArray[np.int64] = field(repr=False)
    contributors: int
    total_weight: int


class BankApp(Protocol):
    """The functions of an application that a bank's role calls."""

    def initial(self) -> FlatModel | None:
        """The model before round 1; None if the application cannot make it itself."""

    def train(self, model: FlatModel, number: int, attempt: int) -> Trained:
        """Train from `model` for round `number`; another `attempt` must give another update, unless it is drawn."""

    def moved(self, model: FlatModel, released: Released) -> FlatModel:
        """The model after a release: a function of these two alone, the same at every bank."""

    def finished(self, model: FlatModel) -> bool:
        """Whether no round follows `model`: a function of it alone. False where the application does not know."""

    def evaluate(self, model: FlatModel) -> dict[str, float | int | str]:
        """What the application reports about `model`."""


class BankParty(Party):
    """A bank between Flower and its own training. Keeps model.npz and journal.db in its folder."""

    def __init__(self, settings: PartySettings) -> None:
        super().__init__(settings, "bank")
        self._journal = secagg.Journal(settings.folder / "journal.db", self.identity)
        self._model_file = settings.folder / "model.npz"
        self._model: FlatModel | None = None
        self._rounds, self._step = 0, 0
        if self._model_file.exists():
            self._model, self._rounds, self._step = FlatModel.from_bytes(self._model_file.read_bytes())
        self._client: secagg.Client | None = None
        self._plan: secagg.RoundPlan | None = None
        self._round: tuple[int, bytes] | None = None  # step and id of the round that this process is in
        self._trained: tuple[bytes, int, Trained] | None = None  # (model, attempt, update)
        self._sent: tuple[bytes, Outgoing] | None = None  # (roster, contribution): only these bytes are sent again
        self._shown: tuple[bytes, Outgoing] | None = None  # (late seed, second sketch), in a robust round

    def answer(self, action: str, call: Call, app: BankApp) -> tuple[Fields, dict[str, Outgoing]]:
        """Fields and wires of the answer. Raises subclasses of `SecAggError` and `FlowerError`."""
        match action:
            case "status":
                return self._status(call, app), {}
            case "join":
                return self._join(call, app)
            case "contribute":
                return self._contribute(call, app)
            case "sketch":
                return self._sketch(call)
            case "accept":
                return self._accept(call, app)
            case "abort":
                self._take_aborts(call)
                return self._status(Call(), app), {}
            case "evaluate":
                return dict(app.evaluate(self._held_model())), {}
        raise TransferError(f"action: expected one of a bank's, got {action!r}")

    def start(self, model: FlatModel, call: Call) -> Fields:
        """Take the first model from the aggregator, whose signed request names it.

        Raises `RequestRefused`, or `ModelMismatch` when this bank holds another model or the request names another.
        """
        request = ControlRequest.verified(bytes(call.wire("request")), "start", self.enrolment)
        if (request.model, request.length) != (model.digest, model.length):
            raise ModelMismatch(
                f"start: expected the signed model, {request.length} values {request.model.hex()[:16]}, got "
                f"{model.length} values {model.digest.hex()[:16]}"
            )
        if self._model is not None and self._model.digest != model.digest:
            raise ModelMismatch(f"start: this bank has {self._model.digest.hex()[:16]} after {self._rounds} rounds")
        if self._model is None:
            self._keep(model, rounds=0, step=0)
        return self.introduced(call, self._model_fields())

    # --- one action each

    def _status(self, call: Call, app: BankApp) -> Fields:
        if self._model is None and (first := app.initial()) is not None:
            self._keep(first, rounds=0, step=0)
        return self._introduced(call, app)

    def _join(self, call: Call, app: BankApp) -> tuple[Fields, dict[str, Outgoing]]:
        self._take_aborts(call)
        client, plan, model = self._ready()
        offer = expect(call.wire("offer"), Offer, plan)
        self._check_offer(offer, plan)
        if offer.header.model != model.digest:
            raise WrongModel(f"model: expected an offer for {model.digest.hex()[:16]}, got another")
        self._journal.check_step(offer.header.step)  # a repeated old offer ends no round and starts no training
        started = time.perf_counter()
        self._usable(client, model, app)
        seconds = round(time.perf_counter() - started, 3)
        if client.state is not ClientState.IDLE:
            client.abort()  # the key holder opened another round, so this bank's round can no longer end
        join, shown = self._joined(client, offer, model, app, call)
        self._round, self._sent, self._shown = (offer.header.step, offer.header.round_id), None, None
        self.log("joined", step=offer.header.step, round=self._rounds + 1, train_seconds=seconds)
        return {"train_seconds": seconds}, {"join": outgoing(join, plan), **shown}

    def _check_offer(self, offer: Offer, plan: secagg.RoundPlan) -> None:
        """Refuse an offer of another kind of round or another rule, before anything is trained for it."""
        if self.robust is None:
            check_offer(offer, self.enrolment, plan, True, self.settings.quorum)
            return
        sketch, rule = self.robust.check(plan, masking=True), rule_bytes(self.robust.rule)
        check_robust_offer(offer, self.enrolment, plan, self.settings.quorum, sketch, rule)

    def _joined(
        self, client: secagg.Client, offer: Offer, model: FlatModel, app: BankApp, call: Call
    ) -> tuple[Join, dict[str, Outgoing]]:
        """The join, and in a robust round the sketch of the update that goes with it."""
        if not isinstance(client, secagg.RobustClient):
            return client.join(offer, model.digest), {}
        assert self._plan is not None
        intake = expect(call.wire("intake"), Intake, self._plan)
        trained = self._prepare(model, app, attempt=0)
        with self._values_kept_here():
            join, sketch = client.join_with_sketch(offer, model.digest, trained.update, intake)
        return join, {"sketch": outgoing(sketch, self._plan)}

    def _contribute(self, call: Call, app: BankApp) -> tuple[Fields, dict[str, Outgoing]]:
        client, plan, model = self._ready()
        data = bytes(call.wire("roster"))
        if self._sent is not None and self._sent[0] == data:
            return {}, {"contribution": self._sent[1]}
        roster = expect(data, Roster, plan)
        if self._round != (roster.header.step, roster.header.round_id) or client.state is not ClientState.JOINED:
            raise RoundStateLost(
                f"step {roster.header.step}: this process did not join that round; the secrets of a round live in one "
                "process: run the SuperNode with --isolation process beside `python -m fl.flower.resident`"
            )
        started = time.perf_counter()
        contribution = self._sealed(client, roster, model, app)
        sealed = outgoing(contribution, plan)
        self._sent = (data, sealed)
        seconds = round(time.perf_counter() - started, 3)
        self.log("contributed", step=roster.header.step, seconds=seconds, bytes=len(sealed), clipped=client.clipped)
        return {"seal_seconds": seconds}, {"contribution": sealed}

    def _sketch(self, call: Call) -> tuple[Fields, dict[str, Outgoing]]:
        """The second sketch of a robust round, once every contribution is fixed."""
        client, plan, _ = self._ready()
        if not isinstance(client, secagg.RobustClient):
            raise TransferError("this bank plays plain rounds: expected none of a robust round's calls")
        data = bytes(call.wire("seed"))
        if self._shown is not None and self._shown[0] == data:
            return {}, {"sketch": self._shown[1]}
        seed = expect(data, LateSeed, plan)
        if self._round != (seed.header.step, seed.header.round_id) or client.state is not ClientState.CONTRIBUTED:
            raise RoundStateLost(f"step {seed.header.step}: this process did not contribute to that round")
        self._shown = (data, outgoing(client.sketch_again(seed), plan))
        self.log("compared again", step=seed.header.step)
        return {}, {"sketch": self._shown[1]}

    def _sealed(self, client: secagg.Client, roster: Roster, model: FlatModel, app: BankApp) -> Contribution:
        """The contribution. An update that was in a roster with other members is trained again, never reused."""
        if isinstance(client, secagg.RobustClient):
            try:
                return client.contribute(roster)  # what was shown, and nothing else
            except LeftOut:
                self._left_out(client, roster)
                raise
        trained, reuse = self._prepare(model, app, attempt=0), self.settings.allow_reuse
        if trained.draw is not None:
            # Nothing is drawn or paid for a roster that is not the key holder's.
            drawn = trained.draw(client.check_roster(roster))
            self._trained = None  # another roster is another contribution
            with self._values_kept_here(), warnings.catch_warnings():
                if trained.repeats:  # equal sums among the same members are expected, and tell nothing more
                    warnings.simplefilter("ignore", UpdateReuseWarning)
                    warnings.simplefilter("ignore", ZeroUpdateWarning)
                return client.contribute(roster, drawn, self._weight(trained), allow_reuse=trained.repeats)
        while True:
            try:
                with self._values_kept_here():
                    return client.contribute(roster, trained.update, self._weight(trained), allow_reuse=reuse)
            except UpdateReused as error:
                trained = self._trained_anew(model, app, roster.header.step, error)

    def _usable(self, client: secagg.Client, model: FlatModel, app: BankApp) -> None:
        """Train until there is an update that a roster can accept, or refuse to join with a subclass of `UpdateError`.

        An update that cannot be encrypted is dropped: the next training may give another one.
        """
        trained = self._prepare(model, app, self._shown_before(model))
        if trained.draw is not None:
            if self.robust is not None:
                raise SettingsError(
                    "[robust]: this app draws its noise for a closed roster, and a rule judges updates before that: "
                    "use plain rounds, or an app whose update carries its own noise"
                )
            return None
        try:
            while True:
                try:
                    with self._values_kept_here():
                        return client.check_update(trained.update, self._weight(trained))
                except UpdateReused as error:
                    if self.settings.allow_reuse:
                        return None
                    trained = self._trained_anew(model, app, None, error)
        except (SecAggError, ModelMismatch):
            self._trained = None
            raise

    @contextmanager
    def _values_kept_here(self) -> Iterator[None]:
        """Names the error of an update or its weight. Row counts and positions stay in the log."""
        try:
            yield
        except WeightOutOfRange as error:
            self.log("unusable update", error=type(error).__name__, message=str(error))
            most = self.settings.plan.max_weight
            raise WeightOutOfRange(f"weight: expected an integer in 1..{most}; this bank's log has the value") from None
        except UpdateError as error:
            self.log("unusable update", error=type(error).__name__, message=str(error))
            raise type(error)("the update cannot be encrypted; this bank's log says why") from None

    def _trained_anew(self, model: FlatModel, app: BankApp, step: int | None, reused: UpdateReused) -> Trained:
        """Train again after an update that may not be used. Raises `ModelMismatch` if the result is the same."""
        assert self._trained is not None
        _, attempt, before = self._trained
        trained = self._prepare(model, app, attempt + 1)
        self.log("trained anew", step=step, attempt=attempt + 1)
        if np.array_equal(trained.update, before.update) or attempt - self._shown_before(model) >= _MAX_ATTEMPTS:
            advice = "use that number as part of its seed"
            if self.robust is None:
                advice += ", or set allow_reuse = true in the party file: one sum can then be subtracted from another"
            raise ModelMismatch(f"training gives the same update for every config['attempt']: {advice}") from reused
        return trained

    def _accept(self, call: Call, app: BankApp) -> tuple[Fields, dict[str, Outgoing]]:
        client, plan, model = self._ready()
        release = expect(call.wire("release"), Release, plan)
        step = release.header.step
        if step <= self._step:
            self._compare(release)
            return self._introduced(call, app), {}  # already applied; nothing is applied twice
        if release.header.model != model.digest:
            raise WrongModel(
                f"step {step}: expected a release for model {model.digest.hex()[:16]}, got one for "
                f"{release.header.model.hex()[:16]}: send the releases before it first"
            )
        average = secagg.read_release(release, self.enrolment, plan)
        released = Released(average.values, release.sums, average.contributors, average.total_weight)
        moved = app.moved(model, released)  # may raise, so it comes before the journal records the release
        if self._round == (step, release.header.round_id) and client.state in _SEALED:
            client.accept(release)
            how = "member"
        elif self._journal_waits_for(step) and client.state not in _SEALED:
            if client.state is ClientState.JOINED:
                client.abort()  # nothing was sealed in that round, and it trains from the model that is now replaced
            client.settle(release)
            how = "settled"
        else:
            self._hear_verdict(client, plan, call)
            self._catch_up(release, average, client, call)
            how = "caught up"
        self._keep(moved, self._rounds + 1, step)
        self._trained = self._sent = self._shown = None
        self.log("accepted", step=step, how=how, round=self._rounds, model=self._held_model().digest.hex()[:16])
        return self._introduced(call, app), {}

    def _hear_verdict(self, client: secagg.Client, plan: secagg.RoundPlan, call: Call) -> None:
        """Note that a rule left this bank out of the round, where the roster that came beside a release says so."""
        if "roster" not in call.wires or client.state is not ClientState.JOINED:
            return
        try:
            roster = expect(call.wire("roster"), Roster, plan)
            client.check_roster(roster)
        except LeftOut:
            self._left_out(client, roster)
        except (PeerError, TransferError) as error:  # the release moves the model all the same
            self.log("roster refused", error=type(error).__name__, message=str(error))

    def _left_out(self, client: secagg.Client, roster: Roster) -> None:
        client.abort()
        self.log("left out", step=roster.header.step, round=self._rounds + 1)

    def _catch_up(self, release: Release, average: secagg.Average, client: secagg.Client, call: Call) -> None:
        """Journal a release that the key holder signed for this model, of a round that this bank was not a member of.

        Raises `RoundStillOpen` while another round from this model could still end.
        """
        header = release.header
        if not header.masked:
            raise WrongRound("masks: expected a release of a round with masks, got one without")
        if average.contributors < self.settings.quorum:
            raise QuorumNotMet(f"contributors: expected this bank's quorum or more, got {average.contributors}")
        self._take_aborts(call)
        self._refuse_past_open_rounds(header)
        known = self._journal.round_of(header.step)
        if known is None or known.release is None:
            self._journal.caught_up(header.step, header.model, header.round_id, average.release_hash, header.sender)
        elif known.release != average.release_hash:
            raise ReleaseDiffers(_DIFFERS.format(step=header.step))
        # Otherwise a crash came between the journal and the model: the same release moves it now.
        if client.state is ClientState.JOINED:
            client.abort()  # not on the roster that was closed, or in a round for the model that this bank leaves

    def _compare(self, release: Release) -> None:
        """A release of an earlier step must be the one that was accepted. Raises `ReleaseDiffers`."""
        known = self._journal.round_of(release.header.step)
        if known is None or known.release is None:
            return
        if check_signature(release, self.enrolment.key_holder.key) != known.release:
            raise ReleaseDiffers(_DIFFERS.format(step=release.header.step))

    def _refuse_past_open_rounds(self, header: Header) -> None:
        """Refuse while a round from this model that this bank contributed to has no signed end: it may be released.

        A round that the bank only joined holds none of its data and does not prevent anything.
        """
        for step in self._journal.unfinished():
            known = self._journal.round_of(step)
            assert known is not None
            if step != header.step and known.roster is not None and known.model == header.model:
                raise RoundStillOpen(
                    f"step {header.step}: this bank contributed to step {step} from the same model; it needs that "
                    "step's release, or the key holder's signed abort of it, first"
                )
            if step == header.step and (known.round_id != header.round_id or known.roster is not None):
                raise ReleaseDiffers(f"step {step}: the release is of another round than this bank's")

    def _take_aborts(self, call: Call) -> None:
        """Take signed aborts, which end their rounds. An update may then be used again among the same members."""
        if self._model is None:
            return
        client, plan, _ = self._ready()
        for data in call.numbered("abort"):
            try:
                abort = expect(data, Abort, plan)
                header = abort.header
                if self._round == (header.step, header.round_id) and client.state is not ClientState.IDLE:
                    client.abort(abort)
                elif client.state is ClientState.IDLE and header.step in client.unfinished():
                    client.settle(abort)
                else:
                    continue
                self.log("aborted", step=header.step, reason=abort.reason.name)
            except PeerError as error:
                self.log("abort refused", error=type(error).__name__, message=str(error))

    # --- inside

    def _ready(self) -> tuple[secagg.Client, secagg.RoundPlan, FlatModel]:
        model = self._held_model()
        if self._client is None or self._plan is None or self._plan.length != model.length:
            self._plan = plan_of(self.settings.plan, model.length)
            journal, repeats = self._journal, self.settings.model_repeats
            of = (self.identity, self.enrolment, self._plan, self.settings.quorum)
            if self.robust is None:
                self._client = secagg.Client(*of, journal=journal, model_repeats=repeats)
            else:
                self._client = secagg.RobustClient(*of, robust=self.robust, journal=journal, model_repeats=repeats)
        return self._client, self._plan, model

    def _held_model(self) -> FlatModel:
        if self._model is None:
            raise ModelMismatch("this bank has no model yet: send the first one with the action 'start'")
        return self._model

    def _prepare(self, model: FlatModel, app: BankApp, attempt: int) -> Trained:
        """Train for the next round. The result is kept until a release moves the model."""
        if self._trained is not None and self._trained[0] == model.digest and self._trained[1] >= attempt:
            return self._trained[2]
        trained = app.train(model, self._rounds + 1, attempt)
        self._trained = (model.digest, attempt, trained)
        return trained

    def _shown_before(self, model: FlatModel) -> int:
        """Updates of this model that lost robust rounds have used up, one an attempt: 0 in plain rounds."""
        return 0 if self.robust is None else self._journal.times_shown(model.digest)

    def _weight(self, trained: Trained) -> int:
        return trained.weight if self.settings.plan.max_weight > 1 else 1

    def _journal_waits_for(self, step: int) -> bool:
        known = self._journal.round_of(step)
        return known is not None and not known.finished and known.contribution is not None

    def _keep(self, model: FlatModel, rounds: int, step: int) -> None:
        """Write the model durably before it is reported, so that a crash cannot undo a reported model."""
        replace_durably(self._model_file, model.to_bytes(rounds, step))
        self._model, self._rounds, self._step = model, rounds, step

    def _introduced(self, call: Call, app: BankApp) -> Fields:
        """Who this bank is, which model it holds, and whether a round follows that model."""
        over = self._model is not None and app.finished(self._model)
        return self.introduced(call, {"finished": int(over), **self._model_fields()})

    def _model_fields(self) -> dict[str, str | int]:
        digest = "" if self._model is None else self._model.digest.hex()
        length = 0 if self._model is None else self._model.length
        following = min(self._journal.next_step, LARGEST_STEP)
        return {"model": digest, "length": length, "rounds": self._rounds, "step": self._step, "next_step": following}
