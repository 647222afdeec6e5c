"""Simulated attackers do exactly what their name says, and a rule leaves them out of the rounds of every algorithm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from small_banks import ALGORITHMS, CPU, make_algorithm, make_banks, make_schedule

from fl import options
from fl.errors import AggregationError, AlgorithmError, RuleRefusedRound
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Dropouts, Everyone
from fl.rounds.algorithms.state import State
from fl.rounds.attackers import STRENGTHS, Attackers, AttackSettings
from fl.rounds.play import RoundRecord, Rounds, Summation, play_rounds
from fl.secure.robust import RobustSettings, plain_sum_without, robust_plain_sum
from fl.secure.session import Aggregate, Joined, plain_sum

BANKS = make_banks(5)
HONEST = tuple(np.array(values, np.float32) for values in ([1.0, 2.0], [3.0, 2.0], [2.0, -1.0]))
OWN = np.array([0.25, -0.5], np.float32)


def attackers(name: str, *members: int) -> Attackers:
    return Attackers(name, frozenset(members), seed=0)  # type: ignore[arg-type]


def sent(name: str) -> np.ndarray:
    """What the last of four members sends, who is the only attacker."""
    updates = attackers(name, 3).sent([0, 1, 2, 3], [*HONEST, OWN], 1)
    assert all(now is before for now, before in zip(updates, HONEST, strict=False))
    assert updates[3].dtype == np.float32
    return updates[3]


def test_every_attack_has_a_strength_that_is_printed() -> None:
    assert tuple(STRENGTHS) == options.ATTACK.words


def test_sign_flip_scale_and_label_flip() -> None:
    assert sent("sign-flip").tolist() == [-1.0, 2.0]
    assert sent("scale").tolist() == [2.5, -5.0]
    assert sent("label-flip") is OWN  # it has already trained on turned labels


def test_alie_is_the_honest_mean_minus_one_and_a_half_standard_deviations() -> None:
    """Means 2 and 1; squared deviations 1, 1, 0 and 1, 1, 4 over three."""
    assert sent("alie") == pytest.approx([2.0 - 1.5 * np.sqrt(2 / 3), 1.0 - 1.5 * np.sqrt(2.0)], rel=1e-6)


def test_ipm_is_the_honest_mean_turned_around_ten_times() -> None:
    assert sent("ipm").tolist() == [-20.0, -10.0]


def test_noise_is_ten_times_as_long_as_the_update_and_new_in_every_round() -> None:
    first = sent("noise")
    assert float(np.linalg.norm(first)) == pytest.approx(10 * float(np.linalg.norm(OWN)), rel=1e-6)
    again = attackers("noise", 3).sent([0, 1, 2, 3], [*HONEST, OWN], 2)[3]
    assert not np.allclose(first, again)


def test_attackers_work_together_and_send_one_vector() -> None:
    forged = attackers("alie", 0, 2).sent([0, 1, 2, 3], [*HONEST, OWN], 1)
    assert np.array_equal(forged[0], forged[2])
    assert forged[1] is HONEST[1] and forged[3] is OWN


def test_without_an_honest_bank_in_the_roster_attackers_go_by_their_own_updates() -> None:
    assert attackers("ipm", 0, 1).sent([0, 1], HONEST[:2], 1)[0].tolist() == [-20.0, -20.0]


def test_label_flip_turns_the_labels_of_attackers_only() -> None:
    rows = BANKS[0].train
    assert attackers("label-flip", 0).trains_on(0, rows).y.tolist() == (1 - rows.y).tolist()
    assert attackers("label-flip", 0).trains_on(1, rows) is rows
    assert attackers("ipm", 0).trains_on(0, rows) is rows


def test_the_seed_draws_who_attacks() -> None:
    drawn = [Attackers.drawn(AttackSettings("ipm", 2), 10, seed).members for seed in range(20)]
    assert drawn == [Attackers.drawn(AttackSettings("ipm", 2), 10, seed).members for seed in range(20)]
    assert all(len(members) == 2 and members < set(range(10)) for members in drawn) and len(set(drawn)) > 5


def test_two_banks_must_be_honest() -> None:
    with pytest.raises(AlgorithmError, match=r"4 attackers need at least 6 banks, got 5: lower --attackers"):
        Attackers.drawn(AttackSettings("ipm", 4), 5, 0)


# --- in rounds ------------------------------------------------------------------------------------------------------


def play(
    aggregate: Summation, who: Attackers | None = None, algorithm: FedAvg | None = None, rounds: int = 1
) -> list[tuple[RoundRecord, State]]:
    algorithm = algorithm or FedAvg(Everyone(len(BANKS)))
    every = Rounds(
        BANKS,
        make_schedule(rounds),
        algorithm,
        aggregate,
        clip=1.0,
        device=CPU,
        quorum=3,
        dropouts=Dropouts(retries=1),
        attackers=who,
    )
    return list(play_rounds(every))


def by(rule: str, byzantine: int | None = None) -> Summation:
    return partial(robust_plain_sum, clip=1.0, settings=RobustSettings(rule, byzantine))  # type: ignore[arg-type]


PLAIN: Summation = partial(plain_sum, clip=1.0)


@pytest.mark.parametrize(
    ("name", "rule", "byzantine"),
    [
        ("scale", "outliers", None),
        ("noise", "outliers", None),
        ("ipm", "nnm", 1),
        ("ipm", "multikrum", 1),
        ("ipm", "norm", None),
    ],
)
def test_a_loud_attacker_is_left_out_and_the_model_is_that_of_the_others(
    name: str, rule: str, byzantine: int | None
) -> None:
    played = play(by(rule, byzantine), attackers(name, 3))
    without = play(partial(plain_sum_without, banks=frozenset({"bank 3"}), clip=1.0), attackers(name, 3))
    for (record, state), (_, expected) in zip(played, without, strict=True):
        assert record.rejected == ("bank 3",) and "bank 3" not in record.members and len(record.members) == 4
        assert (record.vanished, record.attempts, record.aggregate.total_weight) == ((), 1, 4)
        assert np.array_equal(state.model, expected.model)
        assert record.max_abs_error == 0.0
        line = record.as_json()
        assert (line["rejected"], line["left_out"]) == (["bank 3"], [])
    undefended = play(PLAIN, attackers(name, 3))
    assert not np.allclose(undefended[-1][1].model, without[-1][1].model, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "fedbuff"])
def test_a_rule_leaves_attackers_out_under_every_algorithm_with_one_base_model(name: str) -> None:
    for record, _ in play(by("outliers"), attackers("ipm", 1), make_algorithm(name, 5)):
        assert record.rejected == ("bank 1",)


def test_an_average_without_the_rule_has_no_rejected_banks() -> None:
    ((record, _),) = play(PLAIN)
    assert record.rejected == () and len(record.members) == 5


def test_a_bank_that_the_rule_left_out_is_asked_again_in_the_next_round() -> None:
    calls: list[tuple[str, ...]] = []

    def once(joined: Joined) -> Aggregate:
        calls.append(joined.banks)
        return by("norm")(joined)

    play(once, attackers("scale", 3), rounds=2)
    assert calls == [tuple(bank.name for bank in BANKS)] * 2


def test_after_a_refusal_everybody_trains_afresh_and_those_found_out_are_not_asked() -> None:
    tries: list[Joined] = []

    def refuses_once(joined: Joined) -> Aggregate:
        tries.append(joined)
        if len(tries) == 1:
            raise RuleRefusedRound("bank 4 was found out by the second sketch", ("bank 4",))
        return plain_sum(joined, clip=1.0)

    ((record, _),) = play(refuses_once)
    assert (record.attempts, record.vanished) == (2, ("bank 4",))
    assert tries[1].banks == tries[0].banks[:4]
    for before, after in zip(tries[0].updates, tries[1].updates, strict=False):
        assert not np.array_equal(before, after)


def test_a_round_that_is_refused_again_and_again_says_why() -> None:
    """Two pairs of copies and one member: nothing that the rule could call the majority."""

    def copies(joined: Joined) -> Aggregate:
        forged = [joined.updates[i] for i in (0, 0, 1, 1, 2)]
        apart = [update * (i // 2 + 1) * np.float32(1e-3) for i, update in enumerate(forged)]
        return by("outliers")(replace(joined, updates=tuple(apart)))

    with pytest.raises(AggregationError, match=r"lost 2 times \(outliers: expected at least 3 of 5 members to stay"):
        play(copies)
