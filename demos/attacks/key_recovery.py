"""Attack 1: recover the secret key from published float64 averages.

Li and Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers", EUROCRYPT 2021: a CKKS decryption
result contains its noise, so  m = c0 + c1*s  can be solved for s. TenSEAL's vectors publish the real half of the slots,
that is m(X) + m(1/X). Two ciphertexts give two equations for each pair (s(w), s(1/w)) of residues of the key.

What stops it here: the release holds exact integers without the noise. The solution of the same equation is then off by
the noise divided by c1, which is indistinguishable from uniform (Ring-LWE).
"""

from __future__ import annotations

import numpy as np

from demos.attacks import federation, stock
from demos.attacks.verdict import Attack, Control, Loot, Shipped, judge, largest_error
from secagg.arrays import F64
from secagg.ring import ring_of

PRIME = 0
"""Index of the data prime to solve with. Any prime would do, since the key is ternary. But each of the 4096 pairs of
equations is singular with probability 1/p, and only the prime of 60 bits gives 2**-48 for all pairs together."""
CLIENTS = 10


def control() -> Control:
    """Recover the key from two averages of ten clients, then open one client's ciphertext with it."""
    target = stock.StockAggregation()
    sums, averages = [], []
    for _ in range(2):
        updates = stock.updates(CLIENTS)
        sums.append(stock.added([target.encrypt(update) for update in updates]))
        averages.append(target.release(sums[-1], CLIENTS))
    ternary = _solve([stock.ciphertext_residues(total)[:, PRIME] for total in sums], averages)
    truth = stock.secret_key_residues(target)
    transformed = np.array([_Transform(prime).forward(ternary) for prime in stock.data_primes()], dtype=np.uint64)
    matching = int((transformed == truth).sum())
    victim = stock.updates(1)[0]
    error = largest_error(_open(stock.ciphertext_residues(target.encrypt(victim))[:, PRIME], ternary), victim)
    return Control(
        stock.NAME,
        matching == truth.size and error <= stock.DECODING_ERROR,
        f"{matching} of {truth.size} key residues; a victim opened with max error {error:.1e}",
    )


def shipped() -> Shipped:
    """Solve the same equation with what this project releases."""
    cast = federation.Federation()
    collected = cast.collect()
    truth = cast.stolen_key().decrypt_transformed(_unit(cast))  # for the comparison below
    total = cast.honest_sum(collected)
    release = cast.key_holder.release(cast.signed_sum(collected, total))
    message = cast.plaintext(release.sums, release.total_weight)[0, 0]
    guess = _divided(cast, cast.subtracted(message, total[0, 0]), total[0, 1])
    matching = int((guess == truth).sum())
    return judge(
        [
            lambda: Loot(cast.estimate(release.sums), cast.victim, accepted=False),
            lambda: Loot(_open_with_guess(cast, collected, guess), cast.victim, accepted=False),
        ],
        note=f"{matching} of {truth.size} key residues recovered from an exact release",
    )


def _solve(ciphertexts: list[np.ndarray], averages: list[F64]) -> list[int]:
    """The ternary key from two ciphertexts modulo one prime and the averages that were published for them."""
    transform = _Transform(stock.data_primes()[PRIME])
    p, last = transform.prime, stock.DEGREE - 1
    known = [transform.forward(_doubled_real_part(average * CLIENTS)) for average in averages]
    rows = [[list(map(int, half)) for half in ciphertext] for ciphertext in ciphertexts]
    key = [0] * stock.DEGREE
    for i in range(stock.DEGREE // 2):
        j = last - i  # the place of the inverse root in bit-reversed order
        (a, b, x), (c, d, y) = ((c1[i], c1[j], t[i] - c0[i] - c0[j]) for (c0, c1), t in zip(rows, known, strict=True))
        inverse = pow(a * d - b * c, -1, p)
        key[i] = (d * x - b * y) * inverse % p
        key[j] = (a * y - c * x) * inverse % p
    return [value - p if value > p // 2 else value for value in transform.inverse(key)]


def _doubled_real_part(slots: F64) -> list[int]:
    """Coefficients of m(X) + m(1/X) from the real parts of m's slots; exact, since float64 holds 53 bits."""
    n = stock.DEGREE
    values = np.empty(n)
    exponent = 1
    for slot in slots:  # slot j stands at zeta**(3**j), and at the conjugate of that
        values[exponent // 2] = values[(2 * n - exponent) // 2] = 2 * stock.SCALE * slot
        exponent = exponent * 3 % (2 * n)
    coefficients = np.fft.fft(values) / n * np.exp(-1j * np.pi * np.arange(n) / n)
    return [int(value) for value in np.rint(coefficients.real)]


def _open(ciphertext: np.ndarray, key: list[int]) -> F64:
    """A client's values from its ciphertext modulo one prime, float64[slots]."""
    transform = _Transform(stock.data_primes()[PRIME])
    p, n = transform.prime, stock.DEGREE
    c0, c1 = (list(map(int, half)) for half in ciphertext)
    plain = [(a + b * s) % p for a, b, s in zip(c0, c1, transform.forward(key), strict=True)]
    centred = np.array([value - p if value > p // 2 else value for value in transform.inverse(plain)], dtype=np.float64)
    values = np.fft.ifft(centred * np.exp(1j * np.pi * np.arange(n) / n)) * n
    exponents = [pow(3, slot, 2 * n) for slot in range(stock.SLOTS)]
    return values[[exponent // 2 for exponent in exponents]].real / stock.SCALE


class _Transform:
    """SEAL's negacyclic transform modulo one prime of any size, in plain integers."""

    def __init__(self, prime: int, degree: int = stock.DEGREE) -> None:
        self.prime, self.degree = prime, degree
        root = next(
            r
            for candidate in range(2, prime)
            if pow(r := pow(candidate, (prime - 1) // (2 * degree), prime), degree, prime) == prime - 1
        )
        square, odd, minimal = root * root % prime, root, root
        for _ in range(degree - 1):
            odd = odd * square % prime
            minimal = min(minimal, odd)
        bits = degree.bit_length() - 1
        self._roots = [pow(minimal, int(f"{i:0{bits}b}"[::-1], 2), prime) for i in range(degree)]

    def forward(self, coefficients: list[int]) -> list[int]:
        a, p = [value % self.prime for value in coefficients], self.prime
        groups, half = 1, self.degree // 2
        while half:
            for g in range(groups):
                w, start = self._roots[groups + g], 2 * g * half
                for i in range(start, start + half):
                    u, v = a[i], a[i + half] * w
                    a[i], a[i + half] = (u + v) % p, (u - v) % p
            groups, half = 2 * groups, half // 2
        return a

    def inverse(self, values: list[int]) -> list[int]:
        a, p = list(values), self.prime
        groups, half = self.degree // 2, 1
        while groups:
            for g in range(groups):
                w, start = pow(self._roots[groups + g], -1, p), 2 * g * half
                for i in range(start, start + half):
                    u, v = a[i], a[i + half]
                    a[i], a[i + half] = (u + v) % p, (u - v) * w % p
            groups, half = groups // 2, 2 * half
        scale = pow(self.degree, -1, p)
        return [value * scale % p for value in a]


# --- against this project -------------------------------------------------------------------------------------------


def _unit(cast: federation.Federation) -> federation.U32:
    """A block with c0 = 0 and c1 = 1: it decrypts to the key itself."""
    block = np.zeros((2, len(cast.plan.params.primes), cast.plan.params.degree), dtype=np.uint32)
    block[1] = 1
    return block


def _divided(cast: federation.Federation, top: federation.U32, bottom: federation.U32) -> federation.U32:
    """top / bottom, slot by slot modulo each prime: uint32[primes, N]. Division by zero gives zero."""
    rows = [
        [int(a) * pow(int(b), -1, p) % p if b else 0 for a, b in zip(upper, lower, strict=True)]
        for upper, lower, p in zip(top, bottom, cast.plan.params.primes, strict=True)
    ]
    return np.array(rows, dtype=np.uint32)


def _open_with_guess(cast: federation.Federation, collected: federation.Collected, guess: federation.U32) -> F64:
    """The victim's contribution under a guessed key: c0 + c1 * guess."""
    block = cast.residues(collected.contributions[federation.VICTIM])[0]
    primes = np.array(cast.plan.params.primes, dtype=np.uint64)[:, None]
    plain = ((block[0] + block[1].astype(np.uint64) * guess) % primes).astype(np.uint32)
    ring_of(cast.plan.params).from_ntt(plain)
    return cast.estimate(cast.read([plain]))


ATTACK = Attack(
    "key-recovery",
    "solve published averages for the secret key and open any client with it",
    control,
    shipped,
)
