"""Decides everything about a round before anyone encrypts: parameters, lanes, error, size.

`plan_round` searches the allow-list of `parameters.py` for the set that costs the fewest bytes for this vector, then
the least time, among those for which no honest round can overflow and a round has a wrong decrypted coefficient with
probability at most 2**-40.  docs/parameters.md derives the bounds; in short, for one coefficient of a block

    V = e + span * (m_0 + m_1 * radix + ... + m_(L-1) * radix**(L-1)),  |m_j| <= (radix - 1) / 2,  |e| <= B < span / 4

is a balanced mixed-radix number, and V is unique modulo Q whenever span * radix**L <= Q.  Here m_j is the sum of
all clients' weighted, quantised values of lane j and e the sum of their encryption noises.

It leaves the encoding to `packing.py` and knows nothing about keys or TenSEAL.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from secagg.counts import count
from secagg.errors import PlanError
from secagg.parameters import ALLOWED, MAX_LOG2_Q, ParameterSet

FAILURE_TARGET_LOG2 = -40.0
"""A plan is refused when the probability of any wrong coefficient in the round is above 2**this."""

ERROR_VARIANCE = 10.5
"""Variance of SEAL's error coefficients: centred binomial over 2 * 21 bits (SEAL, util/rlwe.cpp)."""
ERROR_MAX = 21  # largest absolute error coefficient of the same distribution
TERNARY_VARIANCE = 2.0 / 3.0  # of a coefficient of u and of the secret, uniform on {-1, 0, 1}

HEADROOM_BITS = 1
"""Bits left unused above the top lane. A coefficient with a mask left on it is uniform and passes the checks with
probability <= 1/2, a whole block of N with 2**-N. An integer added to a sum can change its lanes in only one way."""

MAX_CLIENTS = 65_536
MAX_VALUE_BITS = 40
MAX_WEIGHT = 2**20
MAX_LENGTH = 2**33
MAX_RADIX = 2**47  # base of one lane; a digit stays exact in the float64 quotient estimate of kernels.unpack_lanes

_FINGERPRINT = struct.Struct("<16sQIdIIIII Q 16I".replace(" ", ""))


@dataclass(frozen=True)
class RoundPlan:
    """What all parties of a round agree on. Make one with `plan_round`; equal inputs give equal plans everywhere.

    length: values per update.  clip: values outside [-clip, clip] are clipped.  value_bits: bits of one quantised
    value, sign included.  max_weight: weights are integers in 1..max_weight.  lanes: values per ring coefficient.
    noise_bound: largest absolute noise of a sum of max_clients contributions, except with the failure probability.
    """

    length: int
    max_clients: int
    clip: float
    value_bits: int
    max_weight: int
    params: ParameterSet
    lanes: int
    noise_bound: int

    @property
    def max_value(self) -> int:
        """Largest quantised value, so that [-clip, clip] maps onto [-max_value, max_value]."""
        return int(2 ** (self.value_bits - 1) - 1)

    @property
    def step(self) -> float:
        """The quantisation step, in the unit of the update."""
        return self.clip / self.max_value

    @property
    def max_lane(self) -> int:
        """Largest absolute sum that honest clients can put into a lane."""
        return self.max_clients * self.max_weight * self.max_value

    @property
    def radix(self) -> int:
        return 2 * self.max_lane + 1

    @property
    def span(self) -> int:
        """Width of the noise digit, below the lanes: 4B + 1, twice what honest noise fills.

        Whatever an attacker adds to a sum, any two noises within +-B that pass then carry into the lanes in the same
        way.
        """
        return 4 * self.noise_bound + 1

    @property
    def values(self) -> int:
        """Encrypted integers per client: the update and, after it, the client's weight."""
        return self.length + 1

    @property
    def values_per_block(self) -> int:
        return self.lanes * self.params.degree

    @property
    def blocks(self) -> int:
        """Ciphertexts per client."""
        return -(-self.values // self.values_per_block)

    @property
    def residue_bytes(self) -> int:
        """Bytes of all blocks of one client on the wire, without the message around them."""
        return self.blocks * self.params.ciphertext_bytes

    @property
    def bytes_per_value(self) -> float:
        """Ciphertext bytes per value of one client's contribution."""
        return self.residue_bytes / self.length

    @property
    def max_error(self) -> float:
        """Bound of |average - exact mean of the clipped updates|, in the unit of the update.

        Half a quantisation step, and 2**-50 of the clip for the float64 divisions.
        """
        return 0.5 * self.step + self.clip * 2.0**-50

    def noise_limit(self, clients: int) -> int:
        """Largest absolute noise of a sum of `clients` contributions, at the plan's failure probability."""
        return min(self.noise_bound, noise_bound(self.params.degree, clients, self.blocks * self.params.degree))

    @cached_property
    def failure_log2(self) -> float:
        """log2 of a bound of the probability that any coefficient of the round decrypts to a wrong integer."""
        return _failure_log2(self.params.degree, self.max_clients, self.blocks * self.params.degree, self.noise_bound)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over the canonical encoding of every field: 32 bytes, bound into every message."""
        primes = list(self.params.primes) + [0] * (16 - len(self.params.primes))
        encoded = _FINGERPRINT.pack(
            b"secagg plan v2",
            self.length,
            self.max_clients,
            self.clip,
            self.value_bits,
            self.max_weight,
            self.lanes,
            self.noise_bound,
            self.params.degree,
            self.params.special_prime,
            *primes,
        )
        return hashlib.sha256(encoded).digest()

    def as_dict(self) -> dict[str, float | int | str | list[int]]:
        """Every figure of the plan, ready for JSON."""
        return {
            "length": self.length,
            "max_clients": self.max_clients,
            "clip": self.clip,
            "value_bits": self.value_bits,
            "max_weight": self.max_weight,
            "parameter_set": self.params.name,
            "degree": self.params.degree,
            "primes": list(self.params.primes),
            "special_prime": self.params.special_prime,
            "log2_key_modulus": self.params.log2_key_modulus,
            "lanes": self.lanes,
            "radix": self.radix,
            "noise_bound": self.noise_bound,
            "headroom_bits": _headroom_bits(self),
            "blocks": self.blocks,
            "contribution_bytes": self.residue_bytes,
            "bytes_per_value": self.bytes_per_value,
            "max_error": self.max_error,
            "failure_log2": self.failure_log2,
            "fingerprint": self.fingerprint.hex(),
        }

    def describe(self) -> str:
        """A paragraph that says what was chosen and why."""
        p = self.params
        return "\n".join(
            (
                f"{self.length:,} values of {self.value_bits} bits in [-{self.clip:g}, {self.clip:g}], up to "
                f"{self.max_clients} clients, weights 1..{self.max_weight}",
                f"  ring         N = {p.degree}, {len(p.primes)} primes of 30 bits and a special prime of "
                f"{p.special_prime.bit_length()} bits: {p.log2_key_modulus:.0f} of the {MAX_LOG2_Q[p.degree]} bits "
                "that 128-bit security allows (ePrint 2024/463)",
                f"  coefficient  {self.lanes} lanes of {math.log2(self.radix):.1f} bits above "
                f"{math.log2(self.span):.1f} bits for noise, {_headroom_bits(self):.1f} bits of headroom",
                f"  size         {self.blocks:,} blocks, {self.residue_bytes:,} bytes per client, "
                f"{self.bytes_per_value:.2f} bytes per value",
                f"  error        |average - exact mean| <= {self.max_error:.3g}; a wrong sum with probability "
                f"<= 2^{self.failure_log2:.1f} a round",
            )
        )


def plan_round(
    length: int,
    max_clients: int,
    clip: float = 1.0,
    value_bits: int = 16,
    max_weight: int = 1,
    params: ParameterSet | None = None,
) -> RoundPlan:
    """Choose parameters for a round, or say which input makes it impossible.

    length: values per update, 1..2**33.  max_clients: 1..65,536.  clip: > 0, in the unit of the update.
    value_bits: 2..40.  max_weight: 1..2**20.  params: use this allowed set rather than the cheapest.
    Raises `PlanError`, naming the input to change.
    """
    length = count("length", length, 1, MAX_LENGTH)
    max_clients = count("max_clients", max_clients, 1, MAX_CLIENTS)
    value_bits = count("value_bits", value_bits, 2, MAX_VALUE_BITS)
    max_weight = count("max_weight", max_weight, 1, MAX_WEIGHT)
    _check_inputs(max_clients, clip, value_bits, max_weight)
    if params is not None and params not in ALLOWED:
        raise PlanError(f"params: {params.name} is not on the allow-list; choose one of secagg.parameters.ALLOWED")
    candidates = ALLOWED if params is None else (params,)
    fits = [fit for each in candidates if (fit := _fit(each, length, max_clients, value_bits, max_weight)) is not None]
    if not fits:
        raise PlanError(
            f"no lane fits: {value_bits}-bit values of {max_clients} clients with weights up to {max_weight} need "
            "more room than the parameter set has; lower value_bits, max_weight or max_clients"
        )
    best = min(fits, key=_cost)
    return RoundPlan(
        length, max_clients, float(clip), value_bits, max_weight, best.params, best.lanes, best.noise_bound
    )


class _Fit(NamedTuple):
    """What becomes of a parameter set in a plan."""

    params: ParameterSet
    lanes: int
    blocks: int
    noise_bound: int


def _cost(fit: _Fit) -> tuple[int, float]:
    residues = fit.blocks * 2 * len(fit.params.primes) * fit.params.degree
    return fit.blocks * fit.params.ciphertext_bytes, residues * fit.params.nanoseconds_per_residue


def _check_inputs(max_clients: int, clip: float, value_bits: int, max_weight: int) -> None:
    if isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 1e-30 <= clip <= 1e30:
        raise PlanError(f"clip: expected a number in 1e-30..1e30, got {clip!r}")
    radix = 2 * max_clients * max_weight * (2 ** (value_bits - 1) - 1) + 1
    if radix > MAX_RADIX:
        raise PlanError(
            f"sums would need {radix.bit_length()} bits and a lane holds at most {MAX_RADIX.bit_length() - 1}: lower "
            f"value_bits (now {value_bits}), max_weight (now {max_weight}) or max_clients (now {max_clients})"
        )


def _fit(params: ParameterSet, length: int, max_clients: int, value_bits: int, max_weight: int) -> _Fit | None:
    """As many lanes as `params` holds, or None when not even one fits."""
    radix = 2 * max_clients * max_weight * (2 ** (value_bits - 1) - 1) + 1
    lanes = int(math.log2(params.modulus) / math.log2(radix)) + 1
    while lanes >= 1:
        blocks = -(-(length + 1) // (lanes * params.degree))
        bound = noise_bound(params.degree, max_clients, blocks * params.degree)
        if ((4 * bound + 1) * radix**lanes) << HEADROOM_BITS <= params.modulus:
            return _Fit(params, lanes, blocks, bound)
        lanes -= 1
    return None


@lru_cache(maxsize=16)
def key_norm_limits(degree: int) -> tuple[float, float]:
    """(|e|**2, |s|**2): limits that generated keys must keep; SEAL's keys exceed them with probability <= 2**-41.

    The first is Bernstein's bound for the squares of N centred binomial coefficients (variance 215.25, range 441),
    the second Hoeffding's for N ternary ones. `ckks.py` checks both when it generates keys, so the noise bound
    does not rest on them.
    """
    tail = 42 * math.log(2)
    square_variance = 3 * ERROR_VARIANCE**2 - 42 / 8 - ERROR_VARIANCE**2
    linear = ERROR_MAX**2 * tail / 3
    error = degree * ERROR_VARIANCE + linear + math.sqrt(linear**2 + 2 * degree * square_variance * tail)
    secret = degree * TERNARY_VARIANCE + math.sqrt(degree * tail / 2)
    return error, secret


def _noise_variance(degree: int, clients: int) -> float:
    """Sub-Gaussian variance proxy of one coefficient of the sum of fresh noises u*e + e0 + e1*s."""
    error, secret = key_norm_limits(degree)
    return clients * (TERNARY_VARIANCE * error + ERROR_VARIANCE + ERROR_VARIANCE * secret)


@lru_cache(maxsize=1024)
def noise_bound(degree: int, clients: int, coefficients: int) -> int:
    """B with P(any of `coefficients` sums of `clients` noises is larger) <= 2**-40."""
    tail = math.log(2 * coefficients) - FAILURE_TARGET_LOG2 * math.log(2)
    return math.ceil(math.sqrt(2 * _noise_variance(degree, clients) * tail))


def _failure_log2(degree: int, clients: int, coefficients: int, bound: int) -> float:
    return math.log2(2 * coefficients) - bound**2 / (2 * _noise_variance(degree, clients)) / math.log(2)


def _headroom_bits(plan: RoundPlan) -> float:
    return math.log2(plan.params.modulus) - math.log2(plan.span) - plan.lanes * math.log2(plan.radix)
