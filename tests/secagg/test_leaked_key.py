"""The decryption key in the attacker's hands: c0 + c1*s of anything but the whole roster's sum is uniform.

Test statistic: the likelihood ratio G of 257 equal bins over all coefficients of all blocks, modulo each prime, and
over the balanced integers modulo Q. `uniform_log2` bounds the probability that uniform counts reach the G that was
found; the bound is proved, not asymptotic. What must be uniform stays above 2**-50 in each of some four hundred tests,
so a right implementation fails a run of this file with probability below 2**-40; the controls are below 2**-200. All
updates here are constant: unmasked, they are as far from uniform as an update can be, and masks must hide any update.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from secagg import errors, kernels, packing
from secagg.blocks import empty_block, read_block
from secagg.masks import MaskStream, MaskTerm
from secagg.messages import Contribution
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import RoundPlan, plan_round
from secagg.ring import ring_of
from tests.simulator import Federation, Peers

CLIENTS = 4
LENGTH = 20_000  # two or three blocks
CONSTANT = 0.25  # every value of every update
BINS = 257
UNIFORM, TELLING = -50.0, -200.0  # log2 of probabilities: above the first it may be uniform, below the second it is not
SETS = {"two primes": ALLOWED[0], "three primes": ALLOWED[1]}


# --- the statistic --------------------------------------------------------------------------------------------------


def uniform_log2(bins: np.ndarray) -> float:
    """log2 of a bound of the probability that equally likely bins give a G at least as large as these counts do.

    n balls in k bins are independent Poisson counts of mean n/k, given that their sum is n, which has probability
    above 1 / (3 sqrt(n)). Under that condition G is the sum of 2 (c ln(c k/n) - c + n/k) over the counts c, for which
    Chernoff's bound holds at any theta below 1/2.
    """
    total, mean = int(bins.sum()), bins.sum() / len(bins)
    g = float(_deviance(bins, mean).sum())
    theta = min(max(0.0, 0.5 * (1 - len(bins) / g)), 0.4) if g else 0.0
    counts = np.arange(int(20 * mean) + 200)  # beyond it the terms of the expectation vanish, as theta is at most 0.4
    moment = float(np.exp(stats.poisson.logpmf(counts, mean) + theta * _deviance(counts, mean)).sum())
    bound = len(bins) * math.log(moment) - theta * g + math.log(3 * math.sqrt(total))
    return min(0.0, bound / math.log(2))


def _deviance(counts: np.ndarray, mean: float) -> np.ndarray:
    counts = counts.astype(np.float64)
    return 2 * (np.where(counts > 0, counts * np.log(np.maximum(counts, 1) / mean), 0.0) - counts + mean)


def binned(values: np.ndarray, bound: int) -> np.ndarray:
    """Counts of values in [0, bound) over equal bins."""
    return np.bincount((values.astype(object) * BINS // bound).astype(np.int64), minlength=BINS)


def log2_values(plaintexts: np.ndarray, params: ParameterSet) -> list[float]:
    """Modulo each prime, and modulo Q. plaintexts: uint32[blocks, primes, N], coefficients."""
    modulo_primes = [
        uniform_log2(binned(plaintexts[:, index].ravel(), prime)) for index, prime in enumerate(params.primes)
    ]
    return [*modulo_primes, uniform_log2(binned(reconstructed(plaintexts, params), params.modulus))]


def reconstructed(plaintexts: np.ndarray, params: ParameterSet) -> np.ndarray:
    """The integers in [0, Q) by the Chinese remainder theorem, in Python integers."""
    total = np.zeros(plaintexts[:, 0].size, dtype=object)
    for index, prime in enumerate(params.primes):
        rest = params.modulus // prime
        total += plaintexts[:, index].ravel().astype(object) * (rest * pow(rest, -1, prime))
    return total % params.modulus


def test_the_statistic_knows_uniform_from_not():
    uniform = np.full(BINS, 48)
    assert uniform_log2(uniform) == 0.0
    slightly_off = uniform.copy()
    slightly_off[:128] += 24
    assert uniform_log2(slightly_off) < UNIFORM
    rng = np.random.default_rng(0)
    assert min(uniform_log2(np.bincount(rng.integers(0, BINS, 8_192), minlength=BINS)) for _ in range(200)) > -10


def test_the_bound_of_the_statistic_is_one_in_every_case_of_twelve_balls_in_four_bins():
    """Against the exact distribution: all counts, each with its multinomial probability."""
    cases = [c for c in itertools.product(range(13), repeat=4) if sum(c) == 12]
    chances = np.array([math.factorial(12) / math.prod(map(math.factorial, c)) / 4**12 for c in cases])
    ratios = np.array([_deviance(np.array(c), 3.0).sum() for c in cases])
    assert chances.sum() == pytest.approx(1)
    for case, ratio in zip(cases, ratios, strict=True):
        assert chances[ratios >= ratio - 1e-9].sum() <= 2 ** uniform_log2(np.array(case)) * (1 + 1e-9)


# --- a round and its key --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Leaked:
    """A masked (or unmasked) round that is collected, and the key holder's secrets."""

    plan: RoundPlan
    residues: np.ndarray  # uint32[clients, blocks, 2, primes, N], in the order of the clients
    key: np.ndarray  # s, transformed: uint32[primes, N]
    seeds: tuple[bytes, ...]  # t_i, in the order of the clients

    def opened(self, residues: np.ndarray) -> np.ndarray:
        """c0 + c1*s by plain arithmetic, coefficients: uint32[blocks, primes, N]."""
        primes = np.array(self.plan.params.primes, dtype=np.uint64)[:, None]
        plain = (residues[:, 0] + residues[:, 1].astype(np.uint64) * self.key % primes) % primes
        plain = np.ascontiguousarray(plain.astype(np.uint32))
        for block in plain:
            ring_of(self.plan.params).from_ntt(block)
        return plain

    def sum_of(self, clients: tuple[int, ...]) -> np.ndarray:
        total = np.zeros_like(self.residues[0])
        for client in clients:
            kernels.add_modular(total, self.residues[client], ring_of(self.plan.params).primes)
        return total

    def without_seeds(self, residues: np.ndarray, clients: tuple[int, ...]) -> np.ndarray:
        """The seed masks of these clients taken off: what a key holder that colludes can do."""
        bare = residues.copy()
        stream = MaskStream([MaskTerm(self.seeds[client], False) for client in clients], self.plan.params)
        for index, block in enumerate(bare):
            stream.apply(index, block[0], inverse=True)
        return bare


def leaked(params: ParameterSet, *, masking: bool = True) -> Leaked:
    federation = Federation(CLIENTS, LENGTH, quorum=3, masking=masking)
    federation.plan = plan_round(LENGTH, CLIENTS, params=params)
    peers = Peers(federation)
    # Equal values, and yet different updates: the journals would refuse nothing here, each client has its own.
    _, _, made = peers.contributions(1, [np.full(LENGTH, CONSTANT)] * CLIENTS)
    state = peers.key_holder._current()
    unit = np.zeros((2, len(params.primes), params.degree), dtype=np.uint32)
    unit[1] = 1  # c0 = 0, c1 = 1 decrypts to the key
    seeds = tuple(state.seeds[bank.key] for bank in federation.banks)
    residues = np.stack([unpacked(contribution, federation.plan) for contribution in made])
    return Leaked(federation.plan, residues, state.secret_key.decrypt_transformed(unit), seeds)


def unpacked(contribution: Contribution, plan: RoundPlan) -> np.ndarray:
    blocks = np.stack([empty_block(plan.params) for _ in range(plan.blocks)])
    for index, block in enumerate(blocks):
        read_block(contribution.payload, index, plan.params, block)
    return blocks


@pytest.fixture(scope="module", params=SETS.values(), ids=SETS.keys())
def masked(request) -> Leaked:
    return leaked(request.param)


@pytest.fixture(scope="module", params=SETS.values(), ids=SETS.keys())
def unmasked(request) -> Leaked:
    return leaked(request.param, masking=False)


EVERYONE = tuple(range(CLIENTS))
SUBSETS = [subset for size in range(1, CLIENTS) for subset in itertools.combinations(EVERYONE, size)]


# --- what the key opens ---------------------------------------------------------------------------------------------


def test_the_key_opens_no_contribution_and_no_partial_sum(masked):
    for subset in SUBSETS:
        for found in log2_values(masked.opened(masked.sum_of(subset)), masked.plan.params):
            assert found > UNIFORM, f"the sum of clients {subset} is not uniform under the key: 2^{found:.0f}"


def test_the_key_and_all_seeds_open_no_contribution_and_no_partial_sum(masked):
    """A key holder that colludes: the seed masks are off, and the pairwise masks still hide every subset."""
    for subset in SUBSETS:
        bare = masked.without_seeds(masked.sum_of(subset), subset)
        for found in log2_values(masked.opened(bare), masked.plan.params):
            assert found > UNIFORM, f"the sum of clients {subset} without seeds is not uniform: 2^{found:.0f}"


def test_the_key_without_the_seeds_does_not_open_the_whole_sum_either(masked):
    """What an attacker has who stole the key alone: the aggregator's own sum is uniform to it."""
    for found in log2_values(masked.opened(masked.sum_of(EVERYONE)), masked.plan.params):
        assert found > UNIFORM


def test_the_key_and_all_seeds_open_the_whole_sum_exactly(masked):
    plan = masked.plan
    opened = masked.opened(masked.without_seeds(masked.sum_of(EVERYONE), EVERYONE))
    decoder = packing.Decoder(plan, CLIENTS)
    for index, plaintext in enumerate(opened):
        decoder.add(index, plaintext)
    sums = decoder.sums()
    assert np.array_equal(sums.sums, np.full(LENGTH, CLIENTS * round(CONSTANT / plan.step)))
    assert sums.total_weight == CLIENTS
    assert max(log2_values(opened, plan.params)) < TELLING


def test_one_wrong_seed_hides_the_whole_sum(masked):
    bare = masked.without_seeds(masked.sum_of(EVERYONE), (0, 1, 2))
    opened = masked.opened(bare)
    assert min(log2_values(opened, masked.plan.params)) > UNIFORM
    decoder = packing.Decoder(masked.plan, CLIENTS)
    for index, plaintext in enumerate(opened):
        decoder.add(index, plaintext)
    with pytest.raises(errors.SumRefused):
        decoder.sums()


def test_masks_of_different_blocks_primes_and_clients_share_nothing(masked):
    """Two equal streams would show as a difference that is no longer uniform."""
    plan = masked.plan
    opened = np.stack([masked.opened(masked.residues[client]) for client in EVERYONE])
    shared = np.array(plan.params.primes).min()
    streams = {
        (client, block, prime): opened[client, block, prime].astype(np.int64)
        for client, block, prime in itertools.product(EVERYONE, range(plan.blocks - 1), range(len(plan.params.primes)))
    }
    for one, other in itertools.combinations(streams, 2):
        equal = int((streams[one] == streams[other]).sum())
        assert equal <= 3, f"{one} and {other} agree in {equal} of 4096 places"  # expected: 4096 / 2**30
        counts = binned((streams[one] - streams[other]) % shared, int(shared))
        assert uniform_log2(counts) > UNIFORM


# --- controls -------------------------------------------------------------------------------------------------------


def test_without_masks_the_key_opens_every_contribution_and_every_partial_sum(unmasked):
    plan, value = unmasked.plan, round(CONSTANT / unmasked.plan.step)
    for subset in SUBSETS:
        opened = unmasked.opened(unmasked.sum_of(subset))
        assert max(log2_values(opened, plan.params)) < TELLING
        decoder = packing.Decoder(plan, len(subset))
        for index, plaintext in enumerate(opened):
            decoder.add(index, plaintext)
        assert np.array_equal(decoder.sums().sums, np.full(LENGTH, len(subset) * value))
