"""Compares two runs of the same machine and decides whether the code became slower, by the rule below.

For every case of this project that both runs measured on the same workload, and for client, server and open:

1. Was the machine quiet? Controls are the cases that are not this project's code (plain FedAvg, TenSEAL, Flower,
   training) at the same point. Those that run on one thread use all of a core on a machine that does nothing else: it
   was quiet where, in both runs, their processor time is QUIET of their wall time or more.
2. One figure per cycle: the median of its repetitions. Wall time on a quiet machine, processor time on a busy one.
3. On a quiet machine, the figure is divided by how slow the machine was in that cycle: a control's figure in the cycle
   over its median in the old run. The controls used are the one whose ratio to the case scatters least over the cycles
   of each run, and all that scatter at most FOLLOWING times as much, because a disturbance can slow one kind of work
   and not another. A control's figure counts only if it is at least STEADY long and exists in every cycle that is
   compared. Without any control there is no verdict, since slower code cannot be told from a slower machine. On a busy
   machine other processes slow each control differently, and measurements showed that the correction does harm.
4. The ratio of the medians, new over old, with a bootstrap interval of CONFIDENCE over cycles (`statistics.py`). It
   extends from the lowest to the highest end over the controls used, so that one control whose own speed changed
   between the runs does not decide alone.
5. Slower: the whole interval lies above 1 + tolerance. Faster: the whole interval lies below 1 / (1 + tolerance).
   Otherwise the difference is within the noise. The verdict is "cannot tell" if the interval is wider than the change
   that one wants to see, or if there are fewer than FEWEST_CYCLES cycles (two groups of three lie apart by chance once
   in twenty). On a busy machine the tolerance is BUSY_TOLERANCE or more, and a change within it is "too busy to tell".

Bytes are exact: any growth is a regression. A case that was right and is wrong or fails now is a regression.
Results of different machines (`machine.LIKENESS`) are never compared. Figures below SHORTEST are left out, since they
show timers and interrupts rather than code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.errors import NothingInCommon, UnlikeMachines
from benchmarks.machine import likeness
from benchmarks.results import COMPARED, Measurement, Results
from benchmarks.statistics import ratio_interval, spread

CONFIDENCE = 0.98
TOLERANCE = 0.05
SHORTEST = 1e-3  # seconds
FEWEST_CYCLES = 5
QUIET = 0.9  # processor time over wall time of a single thread
FOLLOWING = 1.5
STEADY = 1e-2  # seconds; shorter figures of controls are page faults and timers
BUSY_TOLERANCE = 0.5  # processor times of the same code were seen to differ by 0.3 at a load of ten on two cores
TOO_WIDE = 0.25  # upper end of the interval over lower end, minus 1


TOO_BUSY = "too busy to tell"


@dataclass(frozen=True)
class Comparison:
    """One figure of one case. ratio: new / old, with its interval. verdict: what the ratio means.

    clock: "wall" or "processor" for times, "" for bytes. cycles: how many figures of each run were compared.
    """

    case: str
    point: tuple[int, int, int]
    figure: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    cycles: tuple[int, int]
    clock: str
    verdict: str

    @property
    def regression(self) -> bool:
        return self.verdict in ("slower", "larger", "broken")


def compare(old: Results, new: Results, tolerance: float = TOLERANCE) -> list[Comparison]:
    """Every figure that both runs hold. Raises `UnlikeMachines` or `NothingInCommon`."""
    _require_alike(old, new)
    found: list[Comparison] = []
    controls = _controls(old, new)
    for before in old.measurements:
        after = next((m for m in new.measurements if m.key == before.key), None)
        if after is None or before.status != "ok" or not before.ours:
            continue
        if after.status in ("wrong", "failed"):
            found.append(
                Comparison(before.case, before.workload.point, after.status, 0, 0, 0, 0, 0, (0, 0), "", "broken")
            )
        if after.status == "ok":
            found.extend(_times(before, after, controls, tolerance))
            found.extend(_sizes(before, after))
    if not found:
        raise NothingInCommon("the two runs share no measurement of this project: measure the same preset twice")
    return found


def _require_alike(old: Results, new: Results) -> None:
    one, other = likeness(old.machine), likeness(new.machine)
    differing = [f"{name} ({one[name]} and {other[name]})" for name in one if one[name] != other[name]]
    if differing:
        raise UnlikeMachines(f"not comparable, the runs differ in {', '.join(differing)}: measure both on one machine")


Pair = tuple[Measurement, Measurement]


def _controls(old: Results, new: Results) -> list[Pair]:
    """Cases of others that both runs measured on the same workload."""
    pairs = []
    for before in old.measurements:
        after = next((m for m in new.measurements if m.key == before.key), None)
        if not before.ours and after is not None and before.status == after.status == "ok":
            pairs.append((before, after))
    return pairs


def _times(before: Measurement, after: Measurement, controls: Sequence[Pair], tolerance: float) -> Iterable[Comparison]:
    near = [pair for pair in controls if pair[0].workload.point == before.workload.point]
    quiet = _quiet(near)
    clock = "seconds" if quiet else "cpu_seconds"
    for metric in COMPARED:
        old, new = _per_cycle(before, metric, clock), _per_cycle(after, metric, clock)
        if not old or not new or median(old.values()) < SHORTEST:
            continue
        slownesses = _slownesses(near, old, new) if quiet else []
        uncorrected = (dict.fromkeys(old, 1.0), dict.fromkeys(new, 1.0))
        found = [
            ratio_interval(_divided(old, slow_old), _divided(new, slow_new), CONFIDENCE)
            for slow_old, slow_new in slownesses or [uncorrected]
        ]
        ratio, low, high = median(f[0] for f in found), min(f[1] for f in found), max(f[2] for f in found)
        cycles = (len(old), len(new))
        if not near or (quiet and not slownesses):
            verdict = "no controls"
        elif min(cycles) < FEWEST_CYCLES:
            verdict = "cannot tell"
        elif quiet:
            verdict = _verdict(low, high, tolerance)
        else:
            verdict = _verdict_when_busy(low, high, max(tolerance, BUSY_TOLERANCE))
        yield Comparison(
            before.case,
            before.workload.point,
            metric,
            median(old.values()),
            median(new.values()),
            ratio,
            low,
            high,
            cycles,
            "wall" if quiet else "processor",
            verdict,
        )


def _quiet(controls: Sequence[Pair]) -> bool:
    """Whether single-threaded controls had a core to themselves in both runs."""
    single = [pair for pair in controls if pair[0].parameters.get("threads") == 1]
    shares = [[_core_share(m) for m in side] for side in zip(*single, strict=True)]
    return bool(shares) and all(median(side) >= QUIET for side in shares)


def _core_share(measurement: Measurement) -> float:
    """Processor time over wall time, all phases, the median repetition."""
    shares = []
    for repetition in measurement.repetitions:
        phases = repetition["phases"].values()
        wall = sum(phase["seconds"] for phase in phases)
        shares.append(sum(phase["cpu_seconds"] for phase in phases) / wall if wall else 0.0)
    return median(shares)


def _verdict(low: float, high: float, tolerance: float) -> str:
    if low > 1 + tolerance:
        return "slower"
    if high < 1 / (1 + tolerance):
        return "faster"
    return "cannot tell" if high / low > 1 + TOO_WIDE else "same"


def _verdict_when_busy(low: float, high: float, tolerance: float) -> str:
    if low > 1 + tolerance:
        return "slower"
    return "faster" if high < 1 / (1 + tolerance) else TOO_BUSY


PerCycle = dict[int, float]


def _per_cycle(measurement: Measurement, metric: str, clock: str = "seconds") -> PerCycle:
    return {cycle: median(samples) for cycle, samples in measurement.by_cycle(metric, clock).items()}


def _slownesses(controls: Sequence[Pair], old: PerCycle, new: PerCycle) -> list[tuple[PerCycle, PerCycle]]:
    """For each control that follows the case: how slow the machine was per cycle of each run.

    The unit is the old run's median.
    """
    parts: list[tuple[float, tuple[PerCycle, PerCycle]]] = []
    for before, after in controls:
        for metric in (*COMPARED, "train"):
            one, other = _per_cycle(before, metric), _per_cycle(after, metric)
            if not (old.keys() <= one.keys() and new.keys() <= other.keys()):
                continue
            usual = median(one[cycle] for cycle in old)
            if usual >= STEADY and min(*one.values(), *other.values()) > 0:
                slow_old, slow_new = {c: one[c] / usual for c in old}, {c: other[c] / usual for c in new}
                scatter = _scatter(_divided(old, slow_old)) + _scatter(_divided(new, slow_new))
                parts.append((scatter, (slow_old, slow_new)))
    least = min((scatter for scatter, _ in parts), default=0.0)
    return [part for scatter, part in parts if scatter <= FOLLOWING * least]


def _divided(figures: PerCycle, slowness: PerCycle) -> list[float]:
    return [seconds / slowness[cycle] for cycle, seconds in figures.items()]


def _scatter(figures: Sequence[float]) -> float:
    """Distance of the quartiles over the median.

    A median absolute deviation would not show that the figures were at a second level in nearly half of the cycles.
    """
    found = spread(figures)
    return (found.upper - found.lower) / found.median if found.median else math.inf


def _sizes(before: Measurement, after: Measurement) -> Iterable[Comparison]:
    old, new = before.contribution_bytes, after.contribution_bytes
    if old is None or new is None:
        return
    ratio = new / old
    verdict = "larger" if new > old else "smaller" if new < old else "same"
    yield Comparison(
        before.case, before.workload.point, "bytes", float(old), float(new), ratio, ratio, ratio, (1, 1), "", verdict
    )
