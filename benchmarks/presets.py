"""What a run measures: points (length, clients, value bits), and the cases at each point.

`quick` measures in three minutes what encryption costs at one million values. `full` sweeps sizes, clients and bits and
plays whole rounds. A sweep is a list of points that differ in one coordinate. A point in two sweeps is measured once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cases.registry import Entry, cases, default_case
from benchmarks.cases.rounds import LENGTHS
from benchmarks.errors import BenchmarkSettingsError
from benchmarks.workload import Workload

HEADLINE = Workload(1_000_000, 8, 16)
CONTROL = "flower-secagg-plus"  # fast enough for every point, and long enough to tell how slow the machine is
QUICK_ENCRYPTING = 2  # clients that encrypt in a slow case of the quick preset


@dataclass(frozen=True)
class Point:
    """A workload and the names of the cases that are interleaved on it.

    once: True if repetitions take minutes. The point is then visited in one cycle, without peaks of memory.
    """

    workload: Workload
    cases: tuple[str, ...]
    once: bool = False


@dataclass(frozen=True)
class Preset:
    """cycles: largest number of visits of every case at a point. visit_s: seconds for which a visit repeats a case.

    case_s: seconds. A case whose repetitions at a point would take longer is visited less often, but in at least
    `fewest` cycles. limit_s: seconds after which every case is visited only once; None for no limit.
    """

    name: str
    points: tuple[Point, ...]
    cycles: int
    fewest: int
    visit_s: float
    case_s: float
    limit_s: float | None


def preset(name: str, device: str, threads: int | None) -> Preset:
    """The preset called `name`. Raises `BenchmarkSettingsError`."""
    known = cases(device, threads)
    if name == "quick":
        return Preset("quick", _merged(_quick(known, device)), 5, 5, visit_s=0.25, case_s=12.0, limit_s=150.0)
    if name == "full":
        return Preset("full", _merged(_full(known, device)), 7, 3, visit_s=0.5, case_s=75.0, limit_s=None)
    raise BenchmarkSettingsError(f"preset: expected quick or full, got {name!r}")


def chosen(
    base: Preset,
    device: str,
    threads: int | None,
    *,
    sizes: Sequence[int] = (),
    clients: Sequence[int] = (),
    value_bits: Sequence[int] = (),
    names: Sequence[str] = (),
    cycles: int | None = None,
    once: bool = False,
) -> Preset:
    """`base` with every combination of the given values as its points, or with fewer cases, or with other cycles.

    once: one cycle at every point, without peaks of memory.
    """
    known = cases(device, threads)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise BenchmarkSettingsError(f"case: expected some of {', '.join(known)}; got {', '.join(unknown)}")
    points = base.points
    if sizes or clients or value_bits:
        asked = tuple(names) or tuple(name for name in _headline_names(known) if known[name].family != "device")
        points = tuple(
            Point(Workload(size, count, bits), asked)
            for size in sizes or (HEADLINE.length,)
            for count in clients or (HEADLINE.clients,)
            for bits in value_bits or (HEADLINE.value_bits,)
        )
    elif names:
        points = tuple(
            replace(point, cases=kept)
            for point in points
            if (kept := tuple(name for name in point.cases if name in names))
        )
    if cycles is not None:
        base = replace(base, cycles=cycles, fewest=cycles)
    if once:
        points = tuple(replace(point, once=True) for point in points)
    return replace(base, points=_merged(points), limit_s=None if sizes or clients or value_bits else base.limit_s)


def workload_of(entry: Entry, workload: Workload, name: str) -> Workload:
    """The workload that a case gets: in quick runs only two clients encrypt in a slow case."""
    return replace(workload, encrypting=QUICK_ENCRYPTING) if entry.slow and name == "quick" else workload


def _headline_names(known: dict[str, Entry]) -> list[str]:
    return [name for name, entry in known.items() if entry.family != "round" and not entry.asked_for]


def _quick(known: dict[str, Entry], device: str) -> Iterable[Point]:
    own = default_case()
    yield Point(HEADLINE, tuple(_headline_names(known)))  # first: on a slow machine the others get what time is left
    for length in (10_000, 100_000):
        yield Point(replace(HEADLINE, length=length), ("plain-numpy", own, CONTROL))
    for bits in (8, 12):
        yield Point(replace(HEADLINE, value_bits=bits), (own, CONTROL))
    yield _round("mlp", known)


def _full(known: dict[str, Entry], device: str) -> Iterable[Point]:
    own = default_case()
    yield Point(HEADLINE, tuple(_headline_names(known)))
    yield _round("mlp", known)
    yield _round("resnet18", known)
    for length in (1_000, 10_000, 100_000, 10_000_000):
        yield Point(replace(HEADLINE, length=length), ("plain-numpy", own, CONTROL, "tenseal-best-public"))
    for bits in (8, 12, 20, 24):
        yield Point(replace(HEADLINE, value_bits=bits), (own, CONTROL))
    for bits in (8, 12, 16):
        yield Point(replace(HEADLINE, clients=64, value_bits=bits), (own, CONTROL))
    for count in (2, 8, 32, 128):
        yield Point(Workload(10_000, count, 16), ("plain-numpy", own, CONTROL))
    yield Point(Workload(10_000, 1_000, 16), ("plain-numpy", own), once=True)  # each checks the joins of all others
    yield Point(replace(HEADLINE, length=100_000_000), ("plain-numpy", own))


def _round(model: str, known: dict[str, Entry]) -> Point:
    rounds = (name for name, entry in known.items() if entry.options.get("model") == model and not entry.asked_for)
    return Point(Workload(LENGTHS[model], 8, 16), tuple(rounds))


def _merged(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points of the same workload become one."""
    merged: dict[Workload, Point] = {}
    for point in points:
        known = merged.get(point.workload, replace(point, cases=()))
        more = tuple(name for name in point.cases if name not in known.cases)
        merged[point.workload] = replace(known, cases=known.cases + more, once=known.once and point.once)
    return tuple(merged.values())
