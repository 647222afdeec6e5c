"""What a robust round adds to the aggregator's side of a round: sketches, products, and a second look.

    joins      key holder: take the joins; sketches of these banks alone may be compared       (signed request)
    close      key holder: apply the rule to the hidden products, close the roster over those who pass
    reveal     key holder: the late seed, once every contribution is fixed                     (signed tally)
    sketch     members: the second sketch, under that seed
    compare    key holder: the second look; members that fall out cost the round, by name      (signed products)

The last three are left out where a sketch is the update itself. docs/protocol.md, "Robust rounds", has the messages,
`workflow.py` the rest of a round.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from fl.flower.calls import Answer, Calls
from fl.flower.errors import FlowerError, RoundLost
from fl.flower.limits import WaitLimits
from fl.flower.membership import Membership
from fl.flower.parties.aggregator import AggregatorParty, Closed
from fl.flower.parties.party import Refusal
from fl.flower.transport import Call, numbered
from secagg.errors import QuorumNotMet


class Verdicts:
    """The aggregator's part in comparing the updates of a round. One object serves all rounds of a run."""

    def __init__(self, calls: Calls, party: AggregatorParty, members: Membership, limits: WaitLimits) -> None:
        self._calls, self._party, self._members, self._limits = calls, party, members, limits

    def judged(self, step: int, joins: Mapping[int, Answer]) -> Answer:
        """The key holder's answer to the products of everybody's first sketch: the roster, or why there is none.

        joins: answers of the banks that joined, by node. A bank whose join or sketch is refused is not compared.
        """
        for node in self._taken(step, joins):
            who = self._members.banks[node].organisation
            try:
                self._party.receive_sketch(joins[node].call.wire("sketch"), who)
            except (FlowerError, Refusal) as error:
                self._members.reasons[who] = f"{type(error).__name__}: {error}"
                self._party.log("sketch refused", step=step, bank=who, error=type(error).__name__, message=str(error))
        try:
            products = self._party.multiply()
        except QuorumNotMet as error:
            raise RoundLost(f"QuorumNotMet: {error}{self._members.why()}") from error
        request, node, limits = {"request": self._party.request("close", step)}, self._members.key_holder, self._limits
        sent = self._calls.call_with("close", [node], "products", products, limits.release_s, limits.part_s, request)
        answer = sent[node]
        if answer.error in ("RuleRefused", "QuorumNotMet"):
            raise RoundLost(f"key holder: {answer.error}: {answer.message}{self._members.why()}")
        return answer

    def look_again(self, closed: Closed) -> float:
        """Compare the members' second sketches. Returns the seconds that it took; 0 where one look is enough.

        Raises `RoundLost`, which blames those who sent no second sketch, or who fell out.
        """
        if self._party.looks < 2:
            return 0.0
        started, limits, key_holder = time.monotonic(), self._limits, self._members.key_holder
        tally = Call({}, {"tally": self._party.tally().whole()})
        revealed = self._calls.one("reveal", key_holder, tally, limits.call_s).require("key holder", "reveal")
        seed = revealed.wire("seed")
        self._party.reopen(seed)
        self._gather_again(closed, Call({}, {"seed": seed}))
        products = self._party.multiply()
        sent = self._calls.call_with("compare", [key_holder], "products", products, limits.release_s, limits.part_s)
        compared = sent[key_holder].require("key holder", "compare")
        if found_out := self._party.named(compared.text("found_out")):
            named = ", ".join(found_out)
            for who in found_out:
                self._members.reasons[who] = "LateOutlier: found out by the second look"
            raise RoundLost(f"{named}: found out by the second look; the step is lost", found_out)
        return round(time.monotonic() - started, 3)

    def _taken(self, step: int, joins: Mapping[int, Answer]) -> list[int]:
        """Nodes of the banks whose joins the key holder takes."""
        wires = [answer.call.wires["join"] for answer in joins.values()]
        call = Call({}, {"request": self._party.request("joins", step), **numbered("join", wires)})
        answer = self._calls.one("joins", self._members.key_holder, call, self._limits.call_s)
        said = answer.require("key holder", "joins")
        self._members.hear_refused(said, step)
        taken = set(self._party.named(said.text("taken")))
        return [node for node in joins if self._members.banks[node].organisation in taken]

    def _gather_again(self, closed: Closed, call: Call) -> None:
        """Ask the members for their second sketches. Raises `RoundLost`, blaming those that sent none."""
        members = {node: bank for node, bank in self._members.banks.items() if bank.organisation in closed.members}
        failures: dict[str, str] = {}
        for answer in self._calls.each("sketch", dict.fromkeys(members, call), self._limits.contribute_s):
            who = members[answer.node].organisation
            try:
                self._party.receive_sketch(answer.require(who, "second sketch").wire("sketch"), who)
            except (FlowerError, Refusal) as error:
                failures[who] = str(error) if answer.error else f"{who}: {type(error).__name__}: {error}"
                self._members.reasons[who] = failures[who].removeprefix(f"{who}: ")
        if failures:
            raise RoundLost("; ".join(failures.values()), failures)
