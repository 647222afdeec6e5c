"""The encoding core once more, in plain Python integers: slow, exact, and sharing no line with `secagg`.

Tests compare the package with this module; `python tests/secagg/exact_reference.py` writes `tests/vectors/*.json` from
it. Definitions are the mathematical ones (evaluation at the odd powers of a root, the Chinese remainder theorem on big
integers, 50-digit decimals), not the algorithms that the package uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal, getcontext
from pathlib import Path

getcontext().prec = 50

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

# --- primes and roots -----------------------------------------------------------------------------------------------


def is_prime(number: int) -> bool:
    """Miller and Rabin with the first twelve primes as bases, which decides every number below 3.3 * 10**24."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if number < 2 or any(number % base == 0 for base in bases):
        return number in bases
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    return all(_passes_miller_rabin(number, base, odd, twos) for base in bases)


def _passes_miller_rabin(number: int, base: int, odd: int, twos: int) -> bool:
    power = pow(base, odd, number)
    return power in (1, number - 1) or any(pow(power, 2**i, number) == number - 1 for i in range(1, twos))


def largest_primes(bits: int, degree: int, count: int) -> list[int]:
    """The `count` largest primes below 2**bits that are 1 modulo 2 * degree, largest first."""
    found: list[int] = []
    candidate = 2**bits + 1 - 2 * degree
    while len(found) < count:
        if is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * degree
    return found


def smallest_primitive_root(prime: int, degree: int) -> int:
    """The smallest r with r**degree = -1 modulo `prime`, found by trying them in turn."""
    root = 2
    while pow(root, degree, prime) != prime - 1:
        root += 1
    return root


# --- ring -----------------------------------------------------------------------------------------------------------


def bit_reverse(index: int, degree: int) -> int:
    bits = degree.bit_length() - 1
    return int(format(index, f"0{bits}b")[::-1], 2)


def evaluate(coefficients: Sequence[int], point: int, prime: int) -> int:
    """Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % prime
    return value


def transformed(coefficients: Sequence[int], root: int, prime: int) -> list[int]:
    """Values at root**(2 * bitrev(i) + 1): SEAL's transformed order. `root` is a primitive 2N-th one."""
    degree = len(coefficients)
    values = _at_odd_powers(coefficients, root, prime)
    return [values[bit_reverse(i, degree)] for i in range(degree)]


def _at_odd_powers(coefficients: Sequence[int], root: int, prime: int) -> list[int]:
    """Values at root**(2j + 1), j ascending: a(x) = even(x**2) + x * odd(x**2), and the squares repeat after N/2."""
    degree = len(coefficients)
    if degree == 1:
        return [coefficients[0] % prime]
    square = root * root % prime
    even = _at_odd_powers(coefficients[0::2], square, prime)
    odd = _at_odd_powers(coefficients[1::2], square, prime)
    values, point = [0] * degree, root
    for j in range(degree // 2):
        values[j] = (even[j] + point * odd[j]) % prime
        values[j + degree // 2] = (even[j] - point * odd[j]) % prime
        point = point * square % prime
    return values


def negacyclic_product(left: dict[int, int], right: dict[int, int], degree: int) -> dict[int, int]:
    """Product of two sparse polynomials {exponent: coefficient} modulo X**degree + 1, over the integers."""
    product: dict[int, int] = {}
    for i, a in left.items():
        for j, b in right.items():
            turns, exponent = divmod(i + j, degree)
            product[exponent] = product.get(exponent, 0) + (-a * b if turns % 2 else a * b)
    return product


def balanced_crt(residues: Sequence[int], primes: Sequence[int]) -> int:
    """The integer of smallest absolute value with these residues."""
    modulus = 1
    for prime in primes:
        modulus *= prime
    total = 0
    for residue, prime in zip(residues, primes, strict=True):
        cofactor = modulus // prime
        total += residue * cofactor * pow(cofactor, -1, prime)
    total %= modulus
    return total - modulus if total > modulus // 2 else total


def packed_30_bits(residues: Sequence[int]) -> bytes:
    """One big integer, 30 bits a residue, lowest first, in little-endian bytes."""
    number = sum(residue << (30 * i) for i, residue in enumerate(residues))
    return number.to_bytes((30 * len(residues) + 7) // 8, "little")


# --- plan -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """One way to carry out a round; `bytes` is what one client sends."""

    degree: int
    primes: tuple[int, ...]
    special_prime: int
    lanes: int
    noise_bound: int
    blocks: int
    bytes: int


def allowed_sets() -> list[tuple[int, tuple[int, ...], int]]:
    """(degree, ascending data primes, special prime) of every set that the package admits, from first principles."""
    chains = [(4096, 2, 46), (4096, 3, 16), *((8192, count, 46) for count in range(2, 6)), (8192, 6, 34)]
    chains += [*((16384, count, 46) for count in range(5, 13)), (16384, 13, 40)]
    return [
        (degree, tuple(reversed(largest_primes(30, degree, count))), largest_primes(special, degree, 1)[0])
        for degree, count, special in chains
    ]


def noise_bound(degree: int, clients: int, coefficients: int) -> int:
    """B = sqrt(2 sigma^2 ln(2 M 2^40)), in 50 digits; docs/parameters.md, section Noise."""
    log2 = Decimal(2).ln()
    tail = 42 * log2
    fourth_moment = 42 * 3 * (Decimal(42) - 1) / 16 + Decimal(42) / 16  # of a sum of 42 signs times one half
    square_variance = fourth_moment - Decimal("10.5") ** 2
    linear = Decimal(441) * tail / 3
    error = degree * Decimal("10.5") + linear + (linear**2 + 2 * degree * square_variance * tail).sqrt()
    secret = Decimal(2 * degree) / 3 + (degree * tail / 2).sqrt()
    variance = clients * (Decimal(2) / 3 * error + Decimal("10.5") + Decimal("10.5") * secret)
    exact = (2 * variance * (Decimal(2 * coefficients).ln() + 40 * log2)).sqrt()
    return int(exact.to_integral_value(rounding="ROUND_CEILING"))


def choices(length: int, clients: int, value_bits: int, max_weight: int) -> list[Choice]:
    """Every admissible (parameter set, lanes) for these inputs, by trying all of them."""
    radix = 2 * clients * max_weight * (2 ** (value_bits - 1) - 1) + 1
    found = []
    for degree, primes, special_prime in allowed_sets():
        modulus = 1
        for prime in primes:
            modulus *= prime
        lanes = 1
        while radix**lanes < modulus:
            blocks = (length + 1 + lanes * degree - 1) // (lanes * degree)
            bound = noise_bound(degree, clients, blocks * degree)
            if 2 * (4 * bound + 1) * radix**lanes <= modulus:
                size = blocks * 2 * len(primes) * degree * 30 // 8
                found.append(Choice(degree, primes, special_prime, lanes, bound, blocks, size))
            lanes += 1
    return found


def fingerprint(length: int, clients: int, clip_hex: str, value_bits: int, max_weight: int, choice: Choice) -> str:
    """SHA-256 over the fixed-width little-endian fields, hexadecimal. clip_hex: the clip's float64, big-endian."""
    encoded = b"secagg plan v2".ljust(16, b"\0")
    encoded += length.to_bytes(8, "little") + clients.to_bytes(4, "little") + bytes.fromhex(clip_hex)[::-1]
    for number in (value_bits, max_weight, choice.lanes, choice.noise_bound, choice.degree):
        encoded += number.to_bytes(4, "little")
    encoded += choice.special_prime.to_bytes(8, "little")
    for prime in (*choice.primes, *[0] * (16 - len(choice.primes))):
        encoded += prime.to_bytes(4, "little")
    return hashlib.sha256(encoded).hexdigest()


# --- packing --------------------------------------------------------------------------------------------------------


def quantised(value: float, clip: float, value_bits: int) -> int:
    """round_half_even(clamp(value) * (1 / step)) in IEEE doubles, as the encoding is specified."""
    step = clip / (2 ** (value_bits - 1) - 1)
    return round(max(-clip, min(clip, value)) * (1.0 / step))


def coefficients(integers: Sequence[int], degree: int, lanes: int, span: int, radix: int) -> list[list[int]]:
    """Per block the N integers span * (m_0 + m_1 * radix + ...).

    Value i stands in block i // (lanes * N), lane (i // N) % lanes, coefficient i % N.
    """
    per_block = degree * lanes
    blocks = []
    for start in range(0, len(integers), per_block):
        block = [0] * degree
        for offset, value in enumerate(integers[start : start + per_block]):
            lane, coefficient = divmod(offset, degree)
            block[coefficient] += span * radix**lane * value
        blocks.append(block)
    return blocks


def little_endian_sha256(rows: Iterable[Sequence[int]]) -> str:
    """SHA-256 of all numbers as little-endian uint32."""
    return hashlib.sha256(b"".join(n.to_bytes(4, "little") for row in rows for n in row)).hexdigest()


# --- vectors --------------------------------------------------------------------------------------------------------

_PROVENANCE = "python tests/secagg/exact_reference.py: plain Python integers, independent of the package"


def formula_coefficients(degree: int, prime: int) -> list[int]:
    """The polynomial that the ring vectors transform: i -> (i**3 + 12345 * i + 678) ** 2 modulo the prime."""
    return [(i**3 + 12345 * i + 678) ** 2 % prime for i in range(degree)]


def ring_vectors() -> dict[str, object]:
    cases = []
    for degree, count in ((4096, 3), (8192, 6), (16384, 13)):
        for prime in largest_primes(30, degree, count):
            root = smallest_primitive_root(prime, degree)
            values = transformed(formula_coefficients(degree, prime), root, prime)
            cases.append(
                {
                    "degree": degree,
                    "prime": prime,
                    "minimal_root": root,
                    "first_values": values[:4],
                    "values_sha256": little_endian_sha256([values]),
                }
            )
    return {
        "provenance": _PROVENANCE,
        "input": "coefficient i is (i**3 + 12345*i + 678)**2 mod prime",
        "output": "value i is the polynomial at minimal_root**(2*bitrev(i)+1); hashed as little-endian uint32",
        "cases": cases,
    }


_PLAN_INPUTS = (
    # length, clients, clip, its float64 in hexadecimal, value_bits, max_weight
    (1_000_000, 64, 1.0, "3ff0000000000000", 16, 1),
    (1_000_000, 64, 1.0, "3ff0000000000000", 12, 1),
    (1_000_000, 64, 1.0, "3ff0000000000000", 8, 1),
    (1_000_000, 8, 0.5, "3fe0000000000000", 16, 100),
    (1, 2, 1.0, "3ff0000000000000", 2, 1),
    (3_500, 10, 4.0, "4010000000000000", 20, 1_000),
    (20_000_000, 1_000, 2.5, "4004000000000000", 16, 1),
    (100, 65_536, 1.0, "3ff0000000000000", 24, 64),
)
_PLAN_REFUSALS = (
    ({"length": 0, "max_clients": 2}, "length"),
    ({"length": 10, "max_clients": 0}, "max_clients"),
    ({"length": 10, "max_clients": 65_537}, "max_clients"),
    ({"length": 10, "max_clients": 2, "clip": 0.0}, "clip"),
    ({"length": 10, "max_clients": 2, "clip": -1.0}, "clip"),
    ({"length": 10, "max_clients": 2, "value_bits": 1}, "value_bits"),
    ({"length": 10, "max_clients": 2, "value_bits": 41}, "value_bits"),
    ({"length": 10, "max_clients": 2, "max_weight": 0}, "max_weight"),
    ({"length": 10, "max_clients": 65_536, "value_bits": 32, "max_weight": 2}, "value_bits"),
)


def plan_vectors() -> dict[str, object]:
    cases = []
    for length, clients, clip, clip_hex, value_bits, max_weight in _PLAN_INPUTS:
        smallest = min(choice.bytes for choice in choices(length, clients, value_bits, max_weight))
        best = [c for c in choices(length, clients, value_bits, max_weight) if c.bytes == smallest]
        cases.append(
            {
                "inputs": {
                    "length": length,
                    "max_clients": clients,
                    "clip": clip,
                    "value_bits": value_bits,
                    "max_weight": max_weight,
                },
                "contribution_bytes": smallest,
                "candidates": [
                    {
                        "degree": c.degree,
                        "primes": len(c.primes),
                        "lanes": c.lanes,
                        "noise_bound": c.noise_bound,
                        "fingerprint": fingerprint(length, clients, clip_hex, value_bits, max_weight, c),
                    }
                    for c in best
                ],
            }
        )
    refusals = [{"inputs": inputs, "error": "PlanError", "names": names} for inputs, names in _PLAN_REFUSALS]
    return {
        "provenance": _PROVENANCE,
        "candidates": "every choice of the fewest bytes; the planner takes the one that encrypts fastest",
        "cases": cases,
        "refusals": refusals,
    }


def packing_vectors() -> dict[str, object]:
    cases = []
    for clients, value_bits, max_weight, length, scale, weight in (
        (4, 16, 1, 7, 0.3, 1),
        (64, 16, 1, 9_000, 0.9, 1),
        (10, 8, 50, 5_000, 1.7, 37),
        (1_000, 20, 1_000, 20_001, 0.01, 1_000),
    ):
        choice = min(choices(length, clients, value_bits, max_weight), key=lambda c: (c.bytes, c.degree))
        update = [scale * ((i * 7919) % 2001 - 1000) / 1000 for i in range(length)]
        integers = [weight * quantised(value, 1.0, value_bits) for value in update] + [weight]
        radix = 2 * clients * max_weight * (2 ** (value_bits - 1) - 1) + 1
        blocks = coefficients(integers, choice.degree, choice.lanes, 4 * choice.noise_bound + 1, radix)
        cases.append(
            {
                "plan": {"length": length, "max_clients": clients, "value_bits": value_bits, "max_weight": max_weight},
                "parameter_set": f"N{choice.degree}x{len(choice.primes)}",
                "scale": scale,
                "weight": weight,
                "clipped": sum(abs(value) > 1.0 for value in update),
                "first_integers": integers[:4],
                "blocks_sha256": [
                    little_endian_sha256([[c % prime for c in block] for prime in choice.primes]) for block in blocks
                ],
            }
        )
    return {
        "provenance": _PROVENANCE,
        "input": "value i is scale * ((i * 7919) % 2001 - 1000) / 1000, clip 1.0",
        "output": "each block's coefficients modulo each prime, [prime][N], hashed as little-endian uint32",
        "cases": cases,
    }


def block_vectors() -> dict[str, object]:
    groups = (
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [2**30 - 1] * 4,
        [1073668096, 1073692672, 536870912, 715827882],
        [1, 2, 3, 4, 5, 6, 7, 8],
    )
    return {
        "provenance": _PROVENANCE,
        "output": "residues as a little-endian stream of 30 bits each, hexadecimal",
        "cases": [{"residues": group, "packed": packed_30_bits(group).hex()} for group in groups],
        "refusals": [
            {"change": "residue [1][0][17] becomes its prime", "error": "ResidueOutOfRange"},
            {"change": "residue [0][1][0] becomes 2**30 - 1", "error": "ResidueOutOfRange"},
            {"change": "c1 becomes zero modulo the first prime", "error": "TransparentCiphertext"},
            {"change": "c1 becomes zero modulo every prime", "error": "TransparentCiphertext"},
            {"change": "the last byte is missing", "error": "TruncatedMessage"},
        ],
    }


def all_vectors() -> dict[str, dict[str, object]]:
    """File name -> content."""
    return {
        "ring.json": ring_vectors(),
        "plan.json": plan_vectors(),
        "packing.json": packing_vectors(),
        "blocks.json": block_vectors(),
    }


if __name__ == "__main__":
    for name, content in all_vectors().items():
        (VECTORS / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
