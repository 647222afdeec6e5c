"""Decides how the updates of a robust round are compared: which sketch, which parameters, which scale, which bounds.

A sketch is a short integer vector that is linear in the update. An update that is no longer than the ring is its own
sketch (the identity), and then one look is enough. A longer one gets a count sketch (Charikar, Chen, Farach-Colton,
ICALP 2002) of N sums, twice: under a seed that is known beforehand and under one that nobody could know. Everything
follows from the plan of the round, so equal plans have equal sketches everywhere. docs/parameters.md, "Sketches",
derives the bounds; in short, a sketch u is encrypted as D u + e, and

    D >= 4 B + 1                     a sum of all sketches is exact, |noise of the sum| <= B
    Q > 2 (D^2 R^2 + cross terms)    no inner product of honest sketches wraps, |u| <= R

D is the largest power of two that costs no norm: errors of products shrink with it.

It leaves sketching to `sketches.py` and knows nothing about keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from secagg.errors import PlanError
from secagg.parameters import ALLOWED, ParameterSet
from secagg.plan import ERROR_VARIANCE, FAILURE_TARGET_LOG2, MAX_RADIX, TERNARY_VARIANCE, RoundPlan, noise_bound

MAX_CLIENTS = 128
"""Largest roster of a robust round. Products grow with its square: up to 422 MB a look for a million values and 128."""

LEAST_RMS = 1 / 8
"""Root mean square of an update, as a share of the clip, that a full roster keeps in every plan."""

LINEAR_BITS = 48
"""Of a coefficient of a hidden linear part, as a fraction of the modulus."""

_TAIL = -FAILURE_TARGET_LOG2 * math.log(2)
_WRAPPING = 6  # see `norm_limit`
_LARGEST_COEFFICIENT = 2**62  # of a scaled sketch, see `SketchKey.encrypt`


@dataclass(frozen=True)
class SketchPlan:
    """What all parties of a robust round agree on besides the plan. Make one with `plan_sketches`.

    params: of the second key.  identity: whether the sketch is the quantised update itself.  rows: values of an update
    that share one sum of the sketch, 1 for the identity.  scale: D, a power of two.  noise_bound: B, of a sum of
    max_clients sketches.  norm_bound: R, the largest norm of an honest sketch but for 2**-40.
    """

    length: int
    max_clients: int
    max_value: int
    params: ParameterSet
    identity: bool
    rows: int
    scale: int
    noise_bound: int
    norm_bound: float

    @property
    def width(self) -> int:
        """Integers in a sketch."""
        return self.length if self.identity else self.params.degree

    @property
    def looks(self) -> int:
        """How often sketches are compared in a round."""
        return 1 if self.identity else 2

    @property
    def bytes(self) -> int:
        """Of one encrypted sketch, without the message around it."""
        return self.params.ciphertext_bytes

    def noise_limit(self, clients: int) -> int:
        """Largest absolute noise of a sum of `clients` sketches, at the failure probability of plans."""
        return min(self.noise_bound, noise_bound(self.params.degree, clients, self.params.degree))

    @property
    def second_bytes(self) -> int:
        """Of the second polynomial of one sketch."""
        return self.params.ciphertext_bytes // 2

    @property
    def linear_bytes(self) -> int:
        """Of the linear part of one pair."""
        return self.params.degree * LINEAR_BITS // 8

    def products_bytes(self, clients: int) -> int:
        """Of the hidden products of `clients` sketches: their second polynomials; for each pair a linear part and a
        constant."""
        one = self.linear_bytes + 4 * len(self.params.primes)
        return clients * self.second_bytes + pairs(clients) * one

    def product_error(self, first: float, second: float) -> float:
        """Bound of |opened - exact inner product| of two honest sketches of these norms, but for 2**-40 a round.

        Rigorous for keys whose error and secret keep `spectral_limits`, which key generation checks.
        """
        one = noise_bound(self.params.degree, 1, self.params.degree)
        tail = _TAIL + math.log(4 * pairs(self.max_clients))
        reach = math.sqrt(2 * _spectral_variance(self.params.degree) * tail)
        linear = self.scale * (first + second) * reach
        # Each coefficient of a linear part is cut to LINEAR_BITS: off by at most half a unit, and 2^-10 for the table.
        cut = math.sqrt(self.params.degree * tail / 2) + self.params.degree / 1024
        rounding = cut * (self.params.modulus >> LINEAR_BITS)
        return (linear + self.params.degree * one**2 + one + rounding) / self.scale**2

    def norm_limit(self, clients: int) -> float:
        """Largest squared norm with which a member stays among `clients`.

        Above R nobody is honest. Above the second term, colluders who let their products wrap around the modulus could
        show a matrix that is not that of their sum (docs/adr/0023-robust-rounds.md, "What wraps").
        """
        honest = self.norm_bound**2 + self.product_error(self.norm_bound, self.norm_bound)
        return min(honest, self.params.modulus / (_WRAPPING * clients**2 * self.scale**2))

    @cached_property
    def largest_rms(self) -> float:
        """Root mean square of an update, as a share of the clip, up to which a full roster keeps it."""
        return math.sqrt(self.norm_limit(self.max_clients) / self.length) / self.max_value

    def describe(self) -> str:
        """A sentence for people."""
        kind = "the update itself" if self.identity else f"{self.width:,} sums of {self.rows} values each, twice"
        return (
            f"sketch: {kind}; N = {self.params.degree}, {len(self.params.primes)} primes, scale 2^"
            f"{self.scale.bit_length() - 1}; {self.bytes:,} bytes a sketch, "
            f"{self.products_bytes(self.max_clients):,} bytes of products for {self.max_clients} clients"
        )


def pairs(clients: int) -> int:
    """Products of `clients` sketches: every pair once, and every sketch with itself."""
    return clients * (clients + 1) // 2


@lru_cache(maxsize=256)
def plan_sketches(plan: RoundPlan) -> SketchPlan:
    """The sketches of robust rounds under `plan`: the fewest bytes a client, the identity before count sketches.

    Raises `PlanError`: more clients than `MAX_CLIENTS`, weights above 1, or values for which no parameter set is large
    enough.
    """
    if plan.max_weight != 1:
        raise PlanError(f"robust rounds need weights of 1: expected max_weight=1, got {plan.max_weight}")
    if plan.max_clients > MAX_CLIENTS:
        raise PlanError(
            f"robust rounds hold up to {MAX_CLIENTS} clients, because products grow with their square: got "
            f"max_clients={plan.max_clients}"
        )
    plans = [
        found
        for params in ALLOWED
        for identity in (True, False)
        if (found := _fit(plan, params, identity)) is not None and found.largest_rms >= LEAST_RMS
    ]
    if not plans:
        raise PlanError(
            f"no sketch of {plan.value_bits}-bit values fits any parameter set: lower value_bits or max_clients"
        )
    return min(plans, key=lambda each: (each.looks * each.bytes, not each.identity, each.params.degree))


def spectral_limits(degree: int) -> tuple[float, float]:
    """(max |e(zeta)|**2, max |s(zeta)|**2) over the roots zeta of X^N + 1: limits that a second key must keep.

    Real and imaginary part of e(zeta) have sub-Gaussian proxy N/2 times that of a coefficient; a sound key exceeds
    either limit with probability at most 2**-42, and is then made anew.
    """
    tail = math.log(2 * degree) + 42 * math.log(2)
    return 2 * ERROR_VARIANCE * degree * tail, 2 * TERNARY_VARIANCE * degree * tail


def _spectral_variance(degree: int) -> float:
    """Sub-Gaussian proxy of <w, u*e + e0 + e1*s> for |w| = 1, for every w and every key within `spectral_limits`."""
    error, secret = spectral_limits(degree)
    return TERNARY_VARIANCE * error + ERROR_VARIANCE + ERROR_VARIANCE * secret


def _fit(plan: RoundPlan, params: ParameterSet, identity: bool) -> SketchPlan | None:
    if identity and plan.length > params.degree:
        return None
    bound = noise_bound(params.degree, plan.max_clients, params.degree)
    rows = 1 if identity else -(-plan.length // params.degree)
    if 2 * plan.max_clients * rows * plan.max_value + 1 > MAX_RADIX:
        return None
    smallest = SketchPlan(
        length=plan.length,
        max_clients=plan.max_clients,
        max_value=plan.max_value,
        params=params,
        identity=identity,
        rows=rows,
        scale=1 << (4 * bound).bit_length(),
        noise_bound=bound,
        norm_bound=_norm_bound(plan, rows),
    )
    if not _holds(smallest):
        return None
    found, least = smallest, min(1.0, smallest.largest_rms)
    while _holds(larger := replace(found, scale=2 * found.scale)) and larger.largest_rms >= least:
        found = larger
    return found


def _holds(plan: SketchPlan) -> bool:
    """Whether neither products nor sums of honest sketches wrap, and every integer on the way fits its type."""
    largest = plan.norm_bound**2 + plan.product_error(plan.norm_bound, plan.norm_bound)
    one = plan.rows * plan.max_value
    sums = plan.scale * (plan.max_clients * one + 1)
    fits = plan.scale < MAX_RADIX and plan.scale * one < _LARGEST_COEFFICIENT
    return fits and 2 * max(plan.scale**2 * (largest + 1), sums) < plan.params.modulus


def _norm_bound(plan: RoundPlan, rows: int) -> float:
    """R: for signs independent of the update, Hsu, Kakade, Zhang, ECP 2012, theorem 2.1, with trace V and norm v."""
    whole = float(plan.length) * plan.max_value**2
    if rows == 1:
        return math.sqrt(whole)
    one = float(rows) * plan.max_value**2
    tail = _TAIL + math.log(2 * plan.max_clients)
    return math.sqrt(whole + 2 * math.sqrt(whole * one * tail) + 2 * one * tail)
