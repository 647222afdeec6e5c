"""What a robust round costs beside a plain one: seconds of each role and bytes, and other ways to the same matrix.

`measure` plays whole rounds in this process, plain and robust by turns, on one thread, and takes the quickest of each.
Beside them: the rule on updates in the clear (numpy), and one inner product of whole updates through stock TenSEAL
(`CKKSVector.dot`, tutorial parameters), times the number of pairs. Stages that neither kind of round changes (masks,
encryption of the contribution) are in both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import secagg
from secagg.errors import PlanError
from secagg.robust import Robust
from secagg.rules import Rule, select
from secagg.sketchplan import pairs

SIZES, CLIENTS = (12_000, 1_000_000), (5, 10, 32, 128)
SLOTS = 4096  # of a TenSEAL vector with the tutorial's parameters
LONGEST_STOCK = 12_000  # values; a longer vector takes minutes a pair

Say = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """One length and number of clients. Seconds of all parties together; bytes of one client, up.

    refused: why there is no robust round; all figures of robust rounds are 0 then. products_bytes: from aggregator to
    key holder in one look. stock_s: of all pairs, from one pair; None where a pair was not measured.
    """

    length: int
    clients: int
    plain_s: float = 0.0
    robust_s: float = 0.0
    sketch_s: float = 0.0
    products_s: float = 0.0
    opening_s: float = 0.0
    plain_bytes: int = 0
    robust_bytes: int = 0
    products_bytes: int = 0
    looks: int = 0
    numpy_s: float = 0.0
    stock_s: float | None = None
    refused: str = ""


def measure(sizes: Sequence[int], clients: Sequence[int], repetitions: int, seed: int, say: Say) -> list[Cost]:
    """Measure every combination. Raises `SecAggError` where a plain round is impossible as well."""
    found = []
    for length in sizes or SIZES:
        for count in clients or CLIENTS:
            say(f"{length:,} values, {count} clients")
            found.append(_cost(length, count, repetitions, seed))
    return found


def _cost(length: int, clients: int, repetitions: int, seed: int) -> Cost:
    plan = secagg.plan_round(length, clients)
    updates = _updates(length, clients, seed)
    first = next(updates)
    numpy_s = _quickest(repetitions, lambda: _plain_rule(first))
    stock_s = _stock_pair(first) * pairs(clients) if length <= LONGEST_STOCK else None
    try:
        sketch = Robust().check(plan, masking=True)
    except PlanError as reason:
        return Cost(length, clients, numpy_s=numpy_s, stock_s=stock_s, refused=str(reason))
    rounds: dict[bool, list[secagg.RoundResult]] = {False: [], True: []}
    for _ in range(repetitions + 1):  # the first one compiles
        for robust in (False, True):
            asked = Robust() if robust else None
            rounds[robust].append(secagg.run_round(next(updates), plan=plan, quorum=2, threads=1, robust=asked))
    plain, robust_round = (min(rounds[each][1:], key=_seconds) for each in (False, True))
    parts = robust_round.parts
    return Cost(
        length,
        clients,
        plain_s=_seconds(plain),
        robust_s=_seconds(robust_round),
        sketch_s=parts["sketch"].seconds,
        products_s=parts["hidden products"].seconds,
        opening_s=parts["products"].seconds + parts["opening of products"].seconds,
        plain_bytes=plain.bytes_up // clients,
        robust_bytes=robust_round.bytes_up // clients,
        products_bytes=robust_round.wire_bytes["products"],
        looks=sketch.looks,
        numpy_s=numpy_s,
        stock_s=stock_s,
    )


def _updates(length: int, clients: int, seed: int) -> Iterator[list[np.ndarray]]:
    """Sets of float32 updates that no rule leaves out: one direction, and noise of half its length."""
    draw = np.random.default_rng(seed)
    while True:
        base = draw.normal(0, 0.1, length).astype(np.float32)
        yield [base + draw.normal(0, 0.05, length).astype(np.float32) for _ in range(clients)]


def _seconds(result: secagg.RoundResult) -> float:
    return sum(stage.seconds for stage in result.stages.values())


def _quickest(repetitions: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _plain_rule(updates: Sequence[np.ndarray]) -> object:
    matrix = np.stack(updates).astype(np.float64)
    return select(matrix @ matrix.T, Rule())


def _stock_pair(updates: Sequence[np.ndarray]) -> float:
    """Seconds of one inner product of two encrypted updates, without their encryption."""
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60], n_threads=1)
    context.global_scale = 2**40
    context.generate_galois_keys()
    starts = range(0, len(updates[0]), SLOTS)
    pieces = [[ts.ckks_vector(context, each[at : at + SLOTS].tolist()) for at in starts] for each in updates[:2]]

    def dot() -> object:
        total: Any = 0
        for one, other in zip(*pieces, strict=True):
            total = total + one.dot(other)
        return total

    return _quickest(2, dot)


def as_json(found: Sequence[Cost]) -> list[dict[str, Any]]:
    """The figures as they are."""
    return [asdict(cost) for cost in found]


def show(found: Sequence[Cost]) -> None:
    """A table on stdout: milliseconds of all parties, kilobytes of one client."""
    table = Table(title="robust rounds: ms of all parties on one thread, and bytes")
    columns = ("values", "clients", "plain round", "robust", "more", "sketches", "products", "opening", "client kB")
    for name in (*columns, "more", "products kB", "numpy rule", "TenSEAL dot"):
        table.add_column(name, justify="right")
    for cost in found:
        table.add_row(f"{cost.length:,}", str(cost.clients), *_told(cost))
    Console(markup=False, emoji=False).print(table)


def _told(cost: Cost) -> tuple[str, ...]:
    stock = "-" if cost.stock_s is None else f"{cost.stock_s * 1e3:,.0f}"
    if cost.refused:
        return ("refused", *["-"] * 8, f"{cost.numpy_s * 1e3:.2f}", stock)
    return (
        f"{cost.plain_s * 1e3:,.1f}",
        f"{cost.robust_s * 1e3:,.1f}",
        f"{cost.robust_s / cost.plain_s - 1:+.1%}",
        f"{cost.sketch_s * 1e3:.1f}",
        f"{cost.products_s * 1e3:.1f}",
        f"{cost.opening_s * 1e3:.1f}",
        f"{cost.robust_bytes / 1e3:,.1f}",
        f"{cost.robust_bytes / cost.plain_bytes - 1:+.1%}",
        f"{cost.looks} x {cost.products_bytes / 1e3:,.0f}",
        f"{cost.numpy_s * 1e3:.2f}",
        stock,
    )
