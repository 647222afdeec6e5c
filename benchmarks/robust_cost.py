"""What a robust round costs beside a plain one: seconds of each role and bytes, and other ways to the same matrix.

`measure` plays whole rounds in this process, plain and robust by turns, and takes the quickest of each: in seconds of
CPU of the whole process, and in seconds that pass. Beside them: the rule on updates in the clear (numpy), and one inner
product of whole updates through stock TenSEAL (`CKKSVector.dot`, tutorial parameters), times the number of pairs.
Stages that neither kind of round changes (masks, encryption of the contribution) are in both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import secagg
from benchmarks.cases.stock_tenseal import SETTINGS, context_of, pieces_of
from secagg.errors import PlanError
from secagg.robust import Robust
from secagg.rules import Rule, select
from secagg.sketchplan import pairs

SIZES, CLIENTS = (12_000, 1_000_000), (5, 10, 32, 128)
STOCK = SETTINGS["tutorial"]
LONGEST_STOCK = 1_000_000  # values; a pair of this length takes a quarter of a minute and 200 MB

Say = Callable[[str], None]

ROWS = (
    "plain round, CPU",
    "robust round, CPU",
    "more",
    "plain round",
    "robust round",
    "more",
    "sketches, a look",
    "products, a look",
    "opening, a look",
    "kB of a client",
    "more",
    "kB of products",
    "rule in numpy",
    "TenSEAL's dot",
)


@dataclass(frozen=True)
class Cost:
    """One length and number of clients. Seconds of all parties together; bytes of one client, up.

    plain_s, robust_s: that pass. plain_cpu_s, robust_cpu_s: of CPU. refused: why there is no robust round; all figures
    of robust rounds are 0 then. products_bytes: from aggregator to key holder in one look. numpy_s, stock_s: of CPU;
    the latter for all pairs, from one pair, and None where a pair was not measured.
    """

    length: int
    clients: int
    plain_s: float = 0.0
    robust_s: float = 0.0
    plain_cpu_s: float = 0.0
    robust_cpu_s: float = 0.0
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


@dataclass(frozen=True)
class _Timed:
    result: secagg.RoundResult
    cpu_s: float
    passed_s: float


def measure(
    sizes: Sequence[int], clients: Sequence[int], repetitions: int, seed: int, threads: int, say: Say
) -> list[Cost]:
    """Measure every combination. Raises `SecAggError` where a plain round is impossible as well."""
    found = []
    for length in sizes or SIZES:
        stock_s = _stock_pair(*_updates(length, 2, seed)) if length <= LONGEST_STOCK else None
        for count in clients or CLIENTS:
            say(f"{length:,} values, {count} clients")
            found.append(_cost(length, count, repetitions, seed, threads, stock_s))
    return found


def _cost(length: int, clients: int, repetitions: int, seed: int, threads: int, stock_s: float | None) -> Cost:
    plan = secagg.plan_round(length, clients)
    updates = _updates(length, clients, seed)
    numpy_s = _quickest(repetitions, lambda: _plain_rule(updates))
    others = {"numpy_s": numpy_s, "stock_s": None if stock_s is None else stock_s * pairs(clients)}
    try:
        sketch = Robust().check(plan, masking=True)
    except PlanError as reason:
        return Cost(length, clients, refused=str(reason), **others)
    rounds: dict[bool, list[_Timed]] = {False: [], True: []}
    for _ in range(repetitions + 1):  # the first one compiles
        for robust in (False, True):
            rounds[robust].append(_timed(updates, plan, Robust() if robust else None, threads))
    plain, judged = (rounds[each][1:] for each in (False, True))
    parts = {
        name: min(each.result.parts[name].seconds for each in judged)
        for name in ("sketch", "hidden products", "products", "opening of products")
    }
    return Cost(
        length,
        clients,
        plain_s=min(each.passed_s for each in plain),
        robust_s=min(each.passed_s for each in judged),
        plain_cpu_s=min(each.cpu_s for each in plain),
        robust_cpu_s=min(each.cpu_s for each in judged),
        sketch_s=parts["sketch"],
        products_s=parts["hidden products"],
        opening_s=parts["products"] + parts["opening of products"],
        plain_bytes=plain[0].result.bytes_up // clients,
        robust_bytes=judged[0].result.bytes_up // clients,
        products_bytes=judged[0].result.wire_bytes["products"],
        looks=sketch.looks,
        **others,
    )


def _timed(updates: list[np.ndarray], plan: secagg.RoundPlan, robust: Robust | None, threads: int) -> _Timed:
    cpu, passed = time.process_time(), time.perf_counter()
    result = secagg.run_round(updates, plan=plan, quorum=2, threads=threads, robust=robust)
    return _Timed(result, time.process_time() - cpu, time.perf_counter() - passed)


def _updates(length: int, clients: int, seed: int) -> list[np.ndarray]:
    """float32 updates that no rule leaves out: one direction, and noise of half its length."""
    draw = np.random.default_rng(seed)
    base = draw.normal(0, 0.1, length).astype(np.float32)
    return [base + draw.normal(0, 0.05, length).astype(np.float32) for _ in range(clients)]


def _quickest(repetitions: int, work: Callable[[], object]) -> float:
    """Seconds of CPU."""
    best = float("inf")
    for _ in range(repetitions):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def _plain_rule(updates: Sequence[np.ndarray]) -> object:
    matrix = np.stack(updates).astype(np.float64)
    return select(matrix @ matrix.T, Rule())


def _stock_pair(*updates: np.ndarray) -> float:
    """Seconds of one inner product of two encrypted updates, without their encryption."""
    import tenseal as ts

    context = context_of(STOCK)
    context.generate_galois_keys()
    pieces = [[ts.ckks_vector(context, piece.tolist()) for piece in pieces_of(each, STOCK)] for each in updates]

    def dot() -> object:
        total: Any = 0
        for one, other in zip(*pieces, strict=True):
            total = total + one.dot(other)
        return total

    return _quickest(2 if len(pieces[0]) < 10 else 1, dot)


def as_json(found: Sequence[Cost]) -> list[dict[str, Any]]:
    """The figures as they are."""
    return [asdict(cost) for cost in found]


def show(found: Sequence[Cost]) -> None:
    """A table on stdout for each length, a column for each number of clients: milliseconds of all parties, kilobytes of
    one client."""
    for length in sorted({cost.length for cost in found}):
        costs = [cost for cost in found if cost.length == length]
        table = Table("", title=f"robust rounds of {length:,} values: ms of all parties, and bytes")
        for cost in costs:
            table.add_column(f"{cost.clients} clients", justify="right")
        for row in zip(ROWS, *map(_told, costs), strict=True):
            table.add_row(*row)
        Console(markup=False, emoji=False).print(table)


def _told(cost: Cost) -> tuple[str, ...]:
    """What stands in `ROWS`."""
    stock = "-" if cost.stock_s is None else f"{cost.stock_s * 1e3:,.0f}"
    if cost.refused:
        return ("refused", *["-"] * (len(ROWS) - 3), f"{cost.numpy_s * 1e3:.2f}", stock)
    return (
        f"{cost.plain_cpu_s * 1e3:,.1f}",
        f"{cost.robust_cpu_s * 1e3:,.1f}",
        f"{cost.robust_cpu_s / cost.plain_cpu_s - 1:+.1%}",
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
