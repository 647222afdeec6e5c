"""What a release carries when something was added to the sum: docs/parameters.md, "What a release may carry".

Whatever an aggregator submits decrypts to the honest sum, its noise, and d0 + d1*s for differences d0 and d1 that the
attackers know. These tests hold that what is released is then a function of the honest sum and of d0 + d1*s alone,
never of the noise; that it may carry the key; and what a single altered residue does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from secagg import errors
from secagg.arrays import I64
from secagg.packing import Decoder, digits_of, lane_factors
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import RoundPlan, plan_round
from secagg.ring import ring_of
from tests.secagg.test_wrong_sums import Given, Rounds, added, signed_sum

# --- the noise ------------------------------------------------------------------------------------------------------


class Narrow(RoundPlan):
    """The digit that noise alone fills: the control."""

    @property
    def span(self) -> int:
        return 2 * self.noise_bound + 1


def narrow(plan: RoundPlan) -> Narrow:
    return Narrow(**{name: getattr(plan, name) for name in RoundPlan.__dataclass_fields__})


PER_SHIFT = 64  # coefficients of a block that try different noises under one shift


def carries(plan: RoundPlan, clients: int, lane: int, noises: I64, shifts: Sequence[int]) -> list[set[tuple[int, ...]]]:
    """For each shift the digits that pass, of coefficients whose lanes all hold `lane`, over up to 64 noises."""
    params, found = plan.params, []
    honest = plan.span * sum(lane * plan.radix**place for place in range(plan.lanes))
    rows = params.degree // PER_SHIFT
    for start in range(0, len(shifts), rows):
        some = np.array(shifts[start : start + rows], dtype=object) + honest
        some = np.resize(some, rows)
        residues = np.array(
            [
                ((some % p).astype(np.int64)[:, None] + np.resize(noises, PER_SHIFT)[None, :]).ravel() % p
                for p in params.primes
            ],
            dtype=np.uint32,
        )
        taken, left = digits_of(residues, plan)
        passes = (np.abs(taken[0]) <= plan.noise_limit(clients)) & (left == 0)
        lanes = taken[1:].T
        for row in range(min(rows, len(shifts) - start)):
            columns = np.arange(row * PER_SHIFT, (row + 1) * PER_SHIFT)
            found.append({tuple(digits) for digits in lanes[columns[passes[columns]]].tolist()})
    return found


def shifts_of(plan: RoundPlan) -> list[int]:
    """Around the places where a digit begins and ends, in the lowest lanes, at the top and beyond it."""
    eighths = [plan.noise_bound * i // 8 for i in range(-40, 41)]
    tops = [plan.span * plan.radix**lane for lane in range(plan.lanes + 1)]
    return [
        centre + eighth + one
        for centre in (0, *tops, *(-top for top in tops), plan.params.modulus // 2)
        for eighth in eighths
        for one in (-1, 0, 1)
    ]


@pytest.mark.parametrize("params", [ALLOWED[0], ALLOWED[1]], ids=lambda params: params.name)
@pytest.mark.parametrize("clients", [2, 5, 8])
def test_whatever_is_added_every_noise_that_passes_leaves_the_same_digits(params: ParameterSet, clients: int) -> None:
    plan = plan_round(5_000, 8, value_bits=8, params=params)
    limit = plan.noise_limit(clients)
    noises = np.unique(np.concatenate([np.linspace(-limit, limit, 55).astype(np.int64), np.arange(-4, 5)]))
    assert len(noises) <= PER_SHIFT
    shifts, passing = shifts_of(plan), 0
    for lane in (0, clients * plan.max_value):
        for shift, found in zip(shifts, carries(plan, clients, lane, noises, shifts), strict=True):
            assert len(found) <= 1, f"shifted by {shift}, the digits depend on the noise: {found}"
            passing += len(found)
    assert passing > 50  # there are shifts that pass


@pytest.mark.parametrize("clients", [3, 8])
def test_a_digit_that_noise_alone_fills_shows_the_sign_of_the_noise(clients: int) -> None:
    """From a quarter of the clients on: the check of this roster's noise is then wider than half of the digit."""
    plan = narrow(plan_round(5_000, 8, value_bits=8, params=ALLOWED[0]))
    limit = plan.noise_limit(clients)
    middle = plan.span // 2
    below, above = np.array([-limit, limit - middle]), np.array([middle - limit + 1, limit])
    assert carries(plan, clients, 0, below, [middle]) == [{(0,) * plan.lanes}]
    assert carries(plan, clients, 0, above, [middle]) == [{(1, *[0] * (plan.lanes - 1))}]


def released(span: int, radix: int, modulus: int, bound: int, total: int, noise: int, shift: int) -> int | None:
    """One coefficient of two lanes as the key holder opens it: its lanes as one number, None when it is refused."""
    value = (noise + span * total + shift) % modulus
    centre = (span * radix**2 - 1) // 2
    centred = (value + centre) % modulus
    if centred >= span * radix**2 or abs(centred % span - (span - 1) // 2) > bound:
        return None
    return centred // span - (radix**2 - 1) // 2


def test_in_a_small_ring_the_release_follows_from_the_sum_and_what_was_added_for_every_noise() -> None:
    """Exhaustive: bounds 1 and 2, two lanes of radix 3 and 5, all sums, all shifts modulo Q, all noises."""
    for bound, radix in ((1, 3), (2, 3), (1, 5)):
        outcomes = {}
        for span in (2 * bound + 1, 4 * bound, 4 * bound + 1):
            modulus, half = 2 * span * radix**2, (radix**2 - 1) // 2
            outcomes[span] = max(
                len({released(span, radix, modulus, bound, m, e, shift) for e in range(-bound, bound + 1)} - {None})
                for m in range(-half, half + 1)
                for shift in range(modulus)
            )
        assert outcomes[4 * bound + 1] == 1
        assert outcomes[2 * bound + 1] == outcomes[4 * bound] == 2  # one less already tells noises apart


def test_in_a_small_ring_what_is_added_moves_every_sum_by_the_same_number() -> None:
    """Exhaustive: the difference of release and honest sum is one number for all sums and noises that pass."""
    bound, radix = 1, 3
    span = 4 * bound + 1
    half = (radix**2 - 1) // 2
    for modulus in (2 * span * radix**2, 2 * span * radix**2 + 7):
        for shift in range(modulus):
            moved = {
                found - m
                for m in range(-half, half + 1)
                for e in range(-bound, bound + 1)
                if (found := released(span, radix, modulus, bound, m, e, shift)) is not None
            }
            assert len(moved) <= 1


# --- the key --------------------------------------------------------------------------------------------------------


def key_of(rounds: Rounds, plan: RoundPlan) -> I64:
    """int64[N], ternary: what c0 = 0, c1 = 1 decrypts to."""
    unit = np.zeros((2, len(plan.params.primes), plan.params.degree), dtype=np.uint32)
    unit[1] = 1
    signed = rounds.key_holder._current().secret_key.decrypt(unit)[0].astype(np.int64)
    signed[signed > plan.params.primes[0] // 2] -= plan.params.primes[0]
    return signed


def with_the_key(given: Given, factor: int) -> np.ndarray:
    """The honest sum with factor * span added to every residue of c1, in every block."""
    primes = np.array(given.plan.params.primes, dtype=np.uint64)[:, None]
    total = given.sum
    constant = np.array([[factor * given.plan.span % p] for p in given.plan.params.primes], dtype=np.uint64)
    total[:, 1] = ((total[:, 1] + constant) % primes).astype(np.uint32)
    return total


@pytest.mark.parametrize("factor", [1, -3, 4096])
def test_a_release_can_carry_the_key_and_is_then_the_honest_sum_plus_a_multiple_of_it(factor: int) -> None:
    """Nothing refuses it; and nothing but the key and the attacker's own choice stands in the difference."""
    rounds = Rounds()
    given = rounds.next()
    plan, key = given.plan, key_of(rounds, given.plan)
    honest = rounds.key_holder._open(signed_sum(given, given.sum), rounds.key_holder._current())
    # The last block's lowest lane holds the weight as well, which must stay in its range: it is taken out there.
    total = with_the_key(given, factor)
    total[-1] = given.sum[-1]
    release = rounds.key_holder.release(signed_sum(given, total))
    difference = release.sums - honest.sums
    degree = plan.params.degree
    assert np.array_equal(difference[:degree], factor * key)
    assert not difference[degree:].any()
    assert set(np.unique(key)) == {-1, 0, 1}


def test_a_shift_by_the_noise_bound_is_refused_and_a_small_one_moves_no_digit() -> None:
    rounds = Rounds()
    given = rounds.next()
    plan = given.plan
    honest = rounds.key_holder._open(signed_sum(given, given.sum), rounds.key_holder._current())

    def shifted(by: int) -> np.ndarray:
        blocks = np.zeros_like(given.sum)
        for block in blocks:
            block[0] = np.array([[by % p] for p in plan.params.primes], dtype=np.uint32)
            ring_of(plan.params).to_ntt(block[0])
        return added(plan, given.sum, blocks)

    for by in (plan.noise_bound, -plan.noise_bound, plan.span // 2, plan.span - plan.noise_bound):
        with pytest.raises(errors.SumRefused):
            rounds.key_holder._open(signed_sum(given, shifted(by)), rounds.key_holder._current())
    assert np.array_equal(rounds.key_holder.release(signed_sum(given, shifted(1))).sums, honest.sums)


# --- one altered residue --------------------------------------------------------------------------------------------

REACH = 0.49  # of the prime


def primes_by_degree() -> list[tuple[int, int]]:
    return sorted({(params.degree, prime) for params in ALLOWED for prime in params.primes})


def generator_of(prime: int) -> int:
    """The smallest generator of the units modulo `prime`."""
    left, factors = prime - 1, set()
    divisor = 2
    while divisor * divisor <= left:
        while left % divisor == 0:
            factors.add(divisor)
            left //= divisor
        divisor += 1
    factors.add(left)
    return next(g for g in range(2, prime) if all(pow(g, (prime - 1) // f, prime) != 1 for f in factors - {1}))


@pytest.mark.parametrize(("degree", "prime"), primes_by_degree())
def test_one_altered_residue_moves_some_coefficient_by_nearly_half_of_the_modulus(degree: int, prime: int) -> None:
    """Exhaustive, over every slot and every change of it, modulo every prime of the allow-list.

    A change of slot j by d moves coefficient k by (Q/p) * t * w**-k, t = d * (Q/p)**-1 / N and w = psi**(2j+1) modulo
    p. Up to sign these are the elements of the coset of t by the group of psi, whichever j: so every coset of that
    group must hold an element that is at least 0.49 p in absolute value, and then one coefficient moves by 0.49 Q.
    """
    generator = generator_of(prime)
    psi = np.uint64(pow(generator, (prime - 1) // (2 * degree), prime))
    modulus, bound = np.uint64(prime), int(REACH * prime)
    cosets = (prime - 1) // (2 * degree)
    assert pow(int(psi), degree, prime) == prime - 1
    # The representatives generator**i, i < cosets, by repeated doubling of what is there.
    small = np.array([1], dtype=np.uint64)
    while len(small) < cosets:
        small = np.concatenate([small, small * np.uint64(pow(generator, len(small), prime)) % modulus])
    small = small[:cosets]
    for _ in range(degree):
        small = small[np.minimum(small, modulus - small) < bound]
        if not len(small):
            return
        small = small * psi % modulus
    pytest.fail(f"{len(small)} cosets stay below {REACH} p")


@pytest.mark.parametrize("clients", [3, 16])
def test_one_altered_residue_is_refused_even_where_every_lane_is_full(clients: int) -> None:
    """Samples of the above through the decoder: sums at their limit, in which the headroom is narrowest."""
    plan = plan_round(9_000, clients, params=ALLOWED[0])
    ring, rng = ring_of(plan.params), np.random.default_rng(0)
    values = rng.choice([-1, 1], plan.values_per_block) * clients * plan.max_value
    lanes = values.reshape(plan.lanes, plan.params.degree)
    factors = lane_factors(plan)
    honest = np.array(
        [
            sum(lanes[lane] % p * int(factors[i, lane]) % p for lane in range(plan.lanes)) % p
            for i, p in enumerate(plan.params.primes)
        ],
        dtype=np.uint32,
    )
    for _ in range(50):
        changed = honest.copy()
        ring.to_ntt(changed)
        prime, slot = rng.integers(len(plan.params.primes)), rng.integers(plan.params.degree)
        p = plan.params.primes[prime]
        changed[prime, slot] = (int(changed[prime, slot]) + int(rng.integers(1, p))) % p
        ring.from_ntt(changed)
        decoder = Decoder(plan, clients)
        decoder.add(0, changed)
        assert not decoder._sound
    decoder = Decoder(plan, clients)
    decoder.add(0, honest)
    assert decoder._sound
