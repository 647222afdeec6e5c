"""What a run is going to do, known before a bank trains: its encrypted sums, its baselines, and one paragraph about it.

What it does: `outline` plans every encrypted sum of the run as the rounds will plan it, and refuses a run of which one
cannot be made. A refusal costs nothing then: nobody has trained, no ledger records anything, and no folder exists.

What it leaves to others: settings that contradict each other (`fl.runs.refusals`), the budget (`fl.runs.noise`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.errors import AggregationError
from fl.plural import plural
from fl.rounds.play import require_layers_to_send
from fl.runs.plan import RunPlan, learned_rows
from fl.secure.cost import chunk_sizes, cost_of_integers, most_bits, require_engine, sealing_cost

if TYPE_CHECKING:
    from fl.runs.tree_outline import RandomTreeOutline, TreeOutline


@dataclass(frozen=True)
class Outline:
    """What a run is going to do. Everything in it is public.

    `trainings`: contributions that banks make in all rounds. `bytes_up`: sent by one bank in the largest round; 0 where
    nothing is encrypted. `value_bits`: of a coordinate by round, (first round, bits); empty where noise decides.
    `counts`: integers of the shared counts that one bank sends; 0 without.
    """

    banks: int
    rows: int
    rounds: int
    model: str
    algorithm: str
    parameters: int
    trainings: int
    value_bits: tuple[tuple[int, int], ...]
    bytes_up: int
    counts: int
    epsilon: float | None
    with_baselines: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outline in words, one subject each."""
        steps = self.algorithm.endswith("steps")
        rounds = plural(self.rounds, "joint step" if steps else "round") + ("" if steps else f" of {self.algorithm}")
        sent = "nothing is encrypted" if not self.bytes_up else f"{self.bytes_up:,} bytes from each bank in a round"
        bits = ", ".join(f"{bits} bits from round {first}" for first, bits in self.value_bits)
        if len(self.value_bits) == 1:
            bits = f"{self.value_bits[0][1]} bits each"
        privacy = "without differential privacy" if self.epsilon is None else f"at epsilon {self.epsilon:g}"
        return (
            f"{self.banks} banks with {self.rows:,} training rows, {rounds} ({self.trainings:,} parts of "
            f"banks), {privacy}",
            f"model {self.model} of {self.parameters:,} parameters{', ' + bits if bits else ''}; {sent}",
            f"{plural(self.counts, 'count')} from each bank before the first round"
            if self.counts
            else "no shared counts",
            "baselines after the last round, in at most twice the time of the run before them"
            if self.with_baselines
            else "no baselines: nobody will know whether joining is worth it (leave out --no-baselines to measure it)",
        )


def outline(plan: RunPlan) -> Outline | TreeOutline | RandomTreeOutline:
    """What the run that `plan` describes is going to do. Raises as `outline_of_rounds` and `tree_outline`."""
    if plan.config.model.kind == "trees":
        from fl.runs.tree_outline import random_tree_outline, tree_outline  # needs the extra `trees`

        return tree_outline(plan) if plan.config.privacy is None else random_tree_outline(plan)
    return outline_of_rounds(plan)


def outline_of_rounds(plan: RunPlan) -> Outline:
    """The outline of the run that `plan` describes, with its noise. Plans every encrypted sum of it.

    Raises `AggregationError` for a sum that cannot be made or a quorum that no round reaches, and says what to change;
    `CompressionError` for layers of which a round would send none; `secagg.errors.EngineUnavailable` for an engine that
    this machine does not have.
    """
    config, timetable = plan.config, plan.algorithm.timetable
    require_layers_to_send(plan.algorithm, plan.compression)
    if plan.quorum > timetable.largest:
        raise AggregationError(
            f"a round of this run has at most {timetable.largest} banks and a quorum of {plan.quorum}, so every round "
            f"would be lost: lower --quorum to {timetable.largest} or fewer"
        )
    joint, encrypted = plan.joint_noise, config.aggregation.mode == "encrypted"
    bytes_up = counts = 0
    if encrypted or plan.sharing is not None:
        require_engine(config.aggregation.engine)
    if plan.sharing is not None:
        counts = plan.sharing.length
        cost_of_integers(counts, plan.sharing.largest, len(plan.banks))
    if joint is not None:
        bytes_up = cost_of_integers(joint.dimension, joint.largest, len(plan.banks)).bytes_up
    elif encrypted:
        bytes_up = max((_round_bytes(plan, *each) for each in _kinds_of_rounds(plan)), default=0)
    return Outline(
        banks=len(plan.banks),
        rows=learned_rows(plan),
        rounds=config.rounds,
        model=config.model.kind,
        algorithm=plan.own_algorithm.name,
        parameters=plan.model.length,
        trainings=sum(len(timetable.seats(number)) for number in range(1, config.rounds + 1)),
        value_bits=() if joint is not None or not encrypted else plan.compression.bits,
        bytes_up=bytes_up,
        counts=counts,
        epsilon=None if config.privacy is None else config.privacy.epsilon,
        with_baselines=config.with_baselines,
    )


def _kinds_of_rounds(plan: RunPlan) -> Iterator[tuple[int, int]]:
    """(coordinates, bits) of the rounds, each kind once."""
    travels, compression = plan.algorithm.travels(plan.model.length), plan.compression
    turns = max(len(compression.groups), 1)
    sent = [int((travels & compression.sent(turn)).sum()) for turn in range(1, turns + 1)]
    numbers = range(1, plan.config.rounds + 1)
    yield from dict.fromkeys((sent[(number - 1) % turns], compression.bits_of(number)) for number in numbers)


def _round_bytes(plan: RunPlan, coordinates: int, bits: int) -> int:
    """Bytes that a bank sends in a round of so many coordinates. Raises `AggregationError`."""
    largest, weight, clip = plan.algorithm.timetable.largest, plan.algorithm.max_weight, plan.config.aggregation.clip
    chunk = None if plan.choice is None else plan.choice.chunk

    fitting = most_bits(chunk_sizes(coordinates, chunk), largest, clip, bits, weight)
    if fitting != bits:
        weighed = f" with weights up to {weight}" if weight > 1 else ""
        scheduled = plan.config.compression is not None and plan.config.compression.bits is not None
        option = "in --option bits" if scheduled else "--value-bits"
        advice = "ask fewer banks" if fitting is None else f"give {option} {fitting} or fewer, or ask fewer banks"
        raise AggregationError(
            f"a sum of {bits}-bit values of {largest} banks{weighed} does not fit into a ciphertext's lane: {advice}. "
            "No bank has trained"
        )
    return sealing_cost(
        coordinates, clients=largest, clip=clip, value_bits=bits, max_weight=weight, chunk=chunk
    ).bytes_up
