"""What boosted trees over encrypted sums cost: seconds and bytes of a training, by level, beside two other ways to add.

`measure` grows trees on made-up rows, all banks in one process, every sum encrypted and masked. Beside it, each sum
is made in numpy, and some sums of each level through stock TenSEAL (one vector of 4,096 slots after the other, tutorial
parameters, one context for the whole training). The seconds of these are multiplied by the number of ciphertexts that
all sums of the level take. Every encrypted sum must be equal to that of numpy, or the measurement fails.

The aggregation is everything between the banks' integers and their sum: cutting, packing, keys, agreements, signatures,
encryption, decryption, ledger and journals in memory. The learner is the rest: histograms of all banks, and the splits,
which are found once here and by every party between machines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.cases.stock_tenseal import SETTINGS, context_of, pieces_of
from benchmarks.errors import WrongResult
from fl.plural import plural
from fl.secure.session import IntegerRounds
from fl.trees.member import Member, TreeRows
from fl.trees.progress import Progress, Request
from fl.trees.settings import Column, Terms, TreeSettings
from fl.trees.training import add_plainly, sum_encrypted

GROWN = ((4, 50), (5, 100))  # depth and trees of the two trainings that are measured by default
STOCK = SETTINGS["tutorial"]

Say = Callable[[str], None]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """The rows of all banks together. bins: of each column."""

    rows: int = 60_000
    columns: int = 30
    banks: int = 10
    bins: int = 64
    seed: int = 0


@dataclass
class Level:
    """All sums of one level. values: of all its sums together. up, down: bytes of one bank.

    seconds, cpu_s: of the aggregation. plain_s: seconds of the same sums in numpy. stock_s, stock_up, stock_down: CPU
    seconds and bytes of the same sums through TenSEAL, from `stock_sums` of them; 0 where none was measured.
    stock_error: the largest difference of one of its values from the exact sum.
    """

    name: str
    sums: int = 0
    values: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    up: float = 0.0
    down: float = 0.0
    plain_s: float = 0.0
    stock_s: float = 0.0
    stock_up: float = 0.0
    stock_down: float = 0.0
    stock_sums: int = 0
    stock_error: float = 0.0
    ciphertexts: int = 0  # of TenSEAL, of one bank in all sums


@dataclass(frozen=True)
class Training:
    """One training. seconds, cpu_s: all of it. learner_s, learner_cpu_s: outside of the sums.

    preparation_s: of tables, once in a process; in none of the others.
    """

    depth: int
    trees: int
    rows: Rows
    seconds: float
    cpu_s: float
    learner_s: float
    learner_cpu_s: float
    preparation_s: float
    levels: tuple[Level, ...] = field(repr=False)

    @property
    def up(self) -> float:
        """Bytes that one bank sends."""
        return sum(level.up for level in self.levels)

    @property
    def down(self) -> float:
        """Bytes that one bank receives."""
        return sum(level.down for level in self.levels)


class _Watch:
    """Seconds that pass and seconds of CPU, added up over pieces of work."""

    def __init__(self) -> None:
        self.seconds = self.cpu_s = 0.0

    def __enter__(self) -> None:
        self._passed, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *fault: object) -> None:
        self.seconds += time.perf_counter() - self._passed
        self.cpu_s += time.process_time() - self._cpu


def measure(grown: Sequence[tuple[int, int]], rows: Rows, stock_sums: int, say: Say) -> list[Training]:
    """A training for each (depth, trees). stock_sums: of each level, through TenSEAL.

    Raises `WrongResult` where an encrypted sum differs from that of numpy.
    """
    x, y = made_up(rows)
    say("loops are compiled, or read from disk")
    few = Rows(200, rows.columns, 3, rows.bins, rows.seed)
    _train(1, 1, few, *made_up(few), 1, lambda _: None)
    return [_train(depth, trees, rows, x, y, stock_sums, say) for depth, trees in grown]


def made_up(rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Numbers, every third column with a long tail, and labels that follow from some, about one in thirty a fraud."""
    draw = np.random.default_rng([20, rows.seed])
    x = draw.standard_normal((rows.rows, rows.columns), dtype=np.float32)
    x[:, ::3] = np.exp(2 * x[:, ::3])
    signal = x[:, 1 % rows.columns] + x[:, 2 % rows.columns] * x[:, 4 % rows.columns] + 0.5 * np.log(x[:, 0])
    y = draw.random(rows.rows) < 1 / (1 + np.exp(np.clip(4.5 - signal, -30, 30)))
    y[:2] = (False, True)  # both labels occur, however few rows there are
    return x, y.astype(np.float32)


def _train(
    depth: int, trees: int, rows: Rows, x: NDArray[np.float32], y: NDArray[np.float32], stock_sums: int, say: Say
) -> Training:
    settings = TreeSettings(trees=trees, depth=depth, bins=rows.bins)
    terms = Terms(tuple(Column(f"column {place}") for place in range(rows.columns)), settings, rows.banks)
    bank = np.arange(rows.rows) % rows.banks
    ids = np.arange(rows.rows, dtype=np.int64)
    members = [Member(terms, TreeRows(x[at], y[at], ids[at])) for at in (bank == each for each in range(rows.banks))]
    learner, preparation = _Watch(), 0.0
    with learner:
        rounds, state = IntegerRounds(rows.banks), Progress.of(terms)
    levels = [Level("opening"), Level("root"), *(Level(f"level {each}") for each in range(1, depth))]
    kept: list[tuple[Level, list[Integers]]] = []  # for TenSEAL
    looked_at = set(np.linspace(0, trees - 1, stock_sums, dtype=int).tolist()) if stock_sums else set()
    begun = told = time.monotonic()
    while not state.finished:
        with learner:
            request, contributions = state.request, [member.contribution(state) for member in members]
        level = levels[0] if state.growing is None else levels[1 + state.growing.depth]
        totals, prepared = _added(request, contributions, level, rounds)
        preparation += prepared
        if state.growing is None or len(state.trees) in looked_at:
            kept.append((level, contributions))
        with learner:
            state = state.after(totals)
        if time.monotonic() - told > 2:
            told = time.monotonic()
            say(f"depth {depth}: tree {min(len(state.trees) + 1, trees)} of {trees}, {told - begun:.0f} s")
    if kept and stock_sums:
        say(f"depth {depth}: {plural(len(kept), 'sum')} through TenSEAL")
        for level in levels:
            _through_stock(level, [each for of, each in kept if of is level])
    return Training(
        depth,
        trees,
        rows,
        seconds=learner.seconds + sum(level.seconds for level in levels),
        cpu_s=learner.cpu_s + sum(level.cpu_s for level in levels),
        learner_s=learner.seconds,
        learner_cpu_s=learner.cpu_s,
        preparation_s=preparation,
        levels=tuple(levels),
    )


def _added(
    request: Request, contributions: list[Integers], level: Level, rounds: IntegerRounds
) -> tuple[Integers, float]:
    """The encrypted sum, checked, and the seconds that its preparation took."""
    watch, plain = _Watch(), _Watch()
    with watch:
        summed = sum_encrypted(request, contributions, rounds=rounds)
    with plain:
        exact = add_plainly(request, contributions)
    if not np.array_equal(summed.totals, exact):
        raise WrongResult(f"sum {request.step + 1} of the training: the encrypted sum is not that of numpy")
    level.sums += 1
    level.values += len(exact)
    level.ciphertexts += len(list(pieces_of(exact, STOCK)))
    level.seconds += watch.seconds - summed.preparation
    level.cpu_s += watch.cpu_s - min(summed.preparation, watch.cpu_s)
    level.plain_s += plain.seconds
    level.up += summed.bytes_up / len(contributions)
    level.down += summed.bytes_down / len(contributions)
    return summed.totals, summed.preparation


def _through_stock(level: Level, sums: list[list[Integers]]) -> None:
    """Measure some sums of a level, and write down what all of them take."""
    import tenseal

    context = context_of(STOCK)
    secret, public = context.secret_key(), context.serialize(save_secret_key=False)
    server, client = (tenseal.context_from(public, n_threads=1) for _ in range(2))
    watch, ciphertexts, up, down = _Watch(), 0, 0, 0
    for contributions in sums:
        with watch:
            total: list[Any] = []
            for values in contributions:
                pieces = [piece.astype(float).tolist() for piece in pieces_of(values, STOCK)]
                sent = [tenseal.ckks_vector(client, piece).serialize() for piece in pieces]
                received = [tenseal.ckks_vector_from(server, each) for each in sent]
                total = [a + b for a, b in zip(total, received, strict=True)] if total else received
            returned = [each.serialize() for each in total]
            opened = [tenseal.ckks_vector_from(context, each).decrypt(secret) for each in returned]
        error = np.abs(np.concatenate(opened) - np.sum(contributions, axis=0)).max()
        level.stock_error = max(level.stock_error, float(error))
        ciphertexts += len(sent)
        up, down = up + sum(map(len, sent)), down + sum(map(len, returned))
    level.stock_sums = len(sums)
    if ciphertexts:
        scale = level.ciphertexts / ciphertexts
        level.stock_s, level.stock_up, level.stock_down = watch.cpu_s * scale, up * scale, down * scale


def as_json(found: Sequence[Training]) -> list[dict[str, Any]]:
    """The figures as they are, and the bytes of a bank in all."""
    return [asdict(each) | {"up": each.up, "down": each.down} for each in found]


def show(found: Sequence[Training]) -> None:
    """Tables on stdout: one with a training a column, and one for each training with a level a column."""
    console = Console(markup=False, emoji=False)
    rows = found[0].rows
    table = Table(
        "",
        title=f"trees over encrypted sums: {plural(rows.banks, 'bank')}, {rows.rows:,} rows, "
        f"{plural(rows.columns, 'column')}, {rows.bins} bins; all parties in one process",
    )
    for each in found:
        table.add_column(_name(each), justify="right")
    for row in zip(_OF_A_TRAINING, *map(_told, found), strict=True):
        table.add_row(*row)
    console.print(table)
    for each in found:
        levels = [level for level in each.levels if level.sums]
        table = Table("", title=f"{_name(each)}: a sum of each level, on average; bytes of one bank")
        for level in levels:
            table.add_column(level.name, justify="right")
        for row in zip(_OF_A_LEVEL, *map(_told_of_level, levels), strict=True):
            table.add_row(*row)
        console.print(table)
    console.print(
        "The learner: histograms of all banks, and splits once. TenSEAL: the tutorial's parameters, without masks, "
        "signatures and journals; of the sums that were measured, times the ciphertexts of all."
    )


_OF_A_TRAINING = (
    "seconds in all",
    "CPU seconds in all",
    "the learner, s",
    "the aggregation, s",
    "the aggregation, CPU s",
    "MB that a bank sends",
    "MB that a bank receives",
    "sums through TenSEAL, CPU s",
    "sums in numpy, s",
)
_OF_A_LEVEL = (
    "sums",
    "values",
    "aggregation, ms",
    "aggregation, CPU ms",
    "kB sent",
    "kB received",
    "TenSEAL, CPU ms",
    "TenSEAL, kB sent",
    "TenSEAL, largest error",
    "numpy, ms",
)


def _name(training: Training) -> str:
    return f"depth {training.depth}, {plural(training.trees, 'tree')}"


def _told(training: Training) -> tuple[str, ...]:
    """What stands in `_OF_A_TRAINING`."""
    stock = sum(level.stock_s for level in training.levels)
    return (
        f"{training.seconds:.1f}",
        f"{training.cpu_s:.1f}",
        f"{training.learner_s:.1f}",
        f"{training.seconds - training.learner_s:.1f}",
        f"{training.cpu_s - training.learner_cpu_s:.1f}",
        f"{training.up / 1e6:.1f}",
        f"{training.down / 1e6:.1f}",
        f"{stock:.1f}" if stock else "-",
        f"{sum(level.plain_s for level in training.levels):.2f}",
    )


def _told_of_level(level: Level) -> tuple[str, ...]:
    """What stands in `_OF_A_LEVEL`."""
    stock = (
        f"{level.stock_s / level.sums * 1e3:,.0f}",
        f"{level.stock_up / level.sums / 1e3:,.0f}",
        f"{level.stock_error:.0e}",
    )
    return (
        f"{level.sums}",
        f"{level.values / level.sums:,.0f}",
        f"{level.seconds / level.sums * 1e3:.1f}",
        f"{level.cpu_s / level.sums * 1e3:.1f}",
        f"{level.up / level.sums / 1e3:,.0f}",
        f"{level.down / level.sums / 1e3:,.0f}",
        *(stock if level.stock_sums else ("-",) * 3),
        f"{level.plain_s / level.sums * 1e3:.2f}",
    )
