"""The decryption key in the attacker's hands: c0 + c1*s of anything but the whole roster's sum is uniform.

Test statistic: Pearson's chi-square with 257 equal bins over all coefficients of all blocks, modulo each prime, and
over the balanced integers modulo Q (257 bins = 256 degrees of freedom, an even number, for which the upper tail is a
finite sum). What must be uniform passes with p > 1e-6 in each of some two hundred tests, so a right implementation
fails a run of this file once in some five thousand; the controls fail with p < 1e-12. All updates here are constant:
unmasked, they are as far from uniform as an update can be, and masks must hide any update.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

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
UNIFORM, TELLING = 1e-6, 1e-12  # p-values: above the first it may be uniform, below the second it is not
SETS = {"two primes": ALLOWED[0], "three primes": ALLOWED[1]}


# --- the statistic --------------------------------------------------------------------------------------------------


def chi_square_p(bins: np.ndarray) -> float:
    """Upper tail of Pearson's statistic of these counts under equal probabilities; an odd number of bins."""
    expected = bins.sum() / len(bins)
    half = float(((bins - expected) ** 2).sum() / expected) / 2.0
    # Q(k, x) = exp(-x) * sum over j < k of x**j / j!  for k = degrees of freedom / 2, summed through logarithms.
    logs = [
        j * math.log(half) - math.lgamma(j + 1) - half if half > 0 else (0.0 if j == 0 else -math.inf)
        for j in range((len(bins) - 1) // 2)
    ]
    top = max(logs)
    return min(1.0, math.exp(top) * sum(math.exp(value - top) for value in logs))


def binned(values: np.ndarray, bound: int) -> np.ndarray:
    """Counts of values in [0, bound) over equal bins."""
    return np.bincount((values.astype(object) * BINS // bound).astype(np.int64), minlength=BINS)


def p_values(plaintexts: np.ndarray, params: ParameterSet) -> list[float]:
    """Modulo each prime, and modulo Q. plaintexts: uint32[blocks, primes, N], coefficients."""
    modulo_primes = [
        chi_square_p(binned(plaintexts[:, index].ravel(), prime)) for index, prime in enumerate(params.primes)
    ]
    return [*modulo_primes, chi_square_p(binned(reconstructed(plaintexts, params), params.modulus))]


def reconstructed(plaintexts: np.ndarray, params: ParameterSet) -> np.ndarray:
    """The integers in [0, Q) by the Chinese remainder theorem, in Python integers."""
    total = np.zeros(plaintexts[:, 0].size, dtype=object)
    for index, prime in enumerate(params.primes):
        rest = params.modulus // prime
        total += plaintexts[:, index].ravel().astype(object) * (rest * pow(rest, -1, prime))
    return total % params.modulus


def test_the_statistic_knows_uniform_from_not():
    uniform = np.full(BINS, 48)
    assert chi_square_p(uniform) == 1.0
    slightly_off = uniform.copy()
    slightly_off[:128] += 24
    assert chi_square_p(slightly_off) < TELLING
    # Against published quantiles of chi-square with 256 degrees of freedom: mean 256, upper 5 % point 294.32.
    for statistic, tail in ((256.0, 0.488), (294.32, 0.05)):
        bins = np.full(BINS, 1000.0)
        bins[0] += math.sqrt(statistic * 1000.0 / 2)
        bins[1] -= math.sqrt(statistic * 1000.0 / 2)
        assert chi_square_p(bins) == pytest.approx(tail, abs=2e-3)


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
    with pytest.warns(UserWarning, match="masking is off"):
        return leaked(request.param, masking=False)


EVERYONE = tuple(range(CLIENTS))
SUBSETS = [subset for size in range(1, CLIENTS) for subset in itertools.combinations(EVERYONE, size)]


# --- what the key opens ---------------------------------------------------------------------------------------------


def test_the_key_opens_no_contribution_and_no_partial_sum(masked):
    for subset in SUBSETS:
        for p in p_values(masked.opened(masked.sum_of(subset)), masked.plan.params):
            assert p > UNIFORM, f"the sum of clients {subset} is not uniform under the key: p = {p:.1e}"


def test_the_key_and_all_seeds_open_no_contribution_and_no_partial_sum(masked):
    """A key holder that colludes: the seed masks are off, and the pairwise masks still hide every subset."""
    for subset in SUBSETS:
        bare = masked.without_seeds(masked.sum_of(subset), subset)
        for p in p_values(masked.opened(bare), masked.plan.params):
            assert p > UNIFORM, f"the sum of clients {subset} without seeds is not uniform: p = {p:.1e}"


def test_the_key_without_the_seeds_does_not_open_the_whole_sum_either(masked):
    """What an attacker has who stole the key alone: the aggregator's own sum is uniform to it."""
    for p in p_values(masked.opened(masked.sum_of(EVERYONE)), masked.plan.params):
        assert p > UNIFORM


def test_the_key_and_all_seeds_open_the_whole_sum_exactly(masked):
    plan = masked.plan
    opened = masked.opened(masked.without_seeds(masked.sum_of(EVERYONE), EVERYONE))
    decoder = packing.Decoder(plan, CLIENTS)
    for index, plaintext in enumerate(opened):
        decoder.add(index, plaintext)
    sums = decoder.sums()
    assert np.array_equal(sums.sums, np.full(LENGTH, CLIENTS * round(CONSTANT / plan.step)))
    assert sums.total_weight == CLIENTS
    assert max(p_values(opened, plan.params)) < TELLING


def test_one_wrong_seed_hides_the_whole_sum(masked):
    bare = masked.without_seeds(masked.sum_of(EVERYONE), (0, 1, 2))
    opened = masked.opened(bare)
    assert min(p_values(opened, masked.plan.params)) > UNIFORM
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
        assert chi_square_p(counts) > UNIFORM / 10  # several hundred pairs


# --- controls -------------------------------------------------------------------------------------------------------


def test_without_masks_the_key_opens_every_contribution_and_every_partial_sum(unmasked):
    plan, value = unmasked.plan, round(CONSTANT / unmasked.plan.step)
    for subset in SUBSETS:
        opened = unmasked.opened(unmasked.sum_of(subset))
        assert max(p_values(opened, plan.params)) < TELLING
        decoder = packing.Decoder(plan, len(subset))
        for index, plaintext in enumerate(opened):
            decoder.add(index, plaintext)
        assert np.array_equal(decoder.sums().sums, np.full(LENGTH, len(subset) * value))
