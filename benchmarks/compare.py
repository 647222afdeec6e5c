"""Did the code get slower? A verdict on two runs of the same machine, by a rule that is written down.

For every case of this project that both runs measured on the same workload, and for client, server and open:

1. One figure per cycle: the median of its repetitions.
2. Divided by the machine's speed in that cycle: the geometric mean, over the controls measured at that point in both
   runs, of the control's figure in the cycle over its median in the old run. Controls are the cases that are not this
   project's code (plain FedAvg in numpy, TenSEAL, Flower): what makes them slower is the machine. A control is used
   where it lasts a millisecond and has a figure in every cycle that is compared.
3. The ratio of the medians, new over old, with a bootstrap interval of CONFIDENCE over cycles (`statistics.py`).
4. Slower: the whole interval lies above 1 + tolerance. Faster: the whole interval lies below 1 / (1 + tolerance).
   Otherwise within the noise; where the interval is wider than the change that one would want to see, "cannot tell".

Bytes are exact: any growth is a regression. A case that was right and is wrong or fails now is a regression.
Machines that differ (`machine.LIKENESS`) are never compared. Figures below SHORTEST are left out: timers and
interrupts, not code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from benchmarks.errors import NothingInCommon, UnlikeMachines
from benchmarks.machine import likeness
from benchmarks.results import COMPARED, METRICS, Measurement, Results
from benchmarks.statistics import ratio_interval

CONFIDENCE = 0.98
TOLERANCE = 0.05
SHORTEST = 1e-3  # seconds
FEWEST_CYCLES = 3
TOO_WIDE = 0.25  # upper end of the interval over lower end, minus 1


@dataclass(frozen=True)
class Comparison:
    """One figure of one case. ratio: new / old, with its interval; verdict: what it means."""

    case: str
    point: tuple[int, int, int]
    figure: str
    old: float
    new: float
    ratio: float
    low: float
    high: float
    cycles: tuple[int, int]
    verdict: str

    @property
    def regression(self) -> bool:
        return self.verdict in ("slower", "larger", "broken")


def compare(old: Results, new: Results, tolerance: float = TOLERANCE) -> list[Comparison]:
    """Every figure that both runs hold. Raises `UnlikeMachines` or `NothingInCommon`."""
    _require_alike(old, new)
    found: list[Comparison] = []
    for before in old.measurements:
        after = next((m for m in new.measurements if m.key == before.key), None)
        if after is None or before.status != "ok" or not before.ours:
            continue
        if after.status in ("wrong", "failed"):
            found.append(Comparison(before.case, before.workload.point, after.status, 0, 0, 0, 0, 0, (0, 0), "broken"))
        if after.status == "ok":
            controls = _controls(old, new, before)
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


def _controls(old: Results, new: Results, measured: Measurement) -> list[tuple[Measurement, Measurement]]:
    """Cases of others at the same point, in both runs."""
    point = measured.workload.point
    pairs = []
    for before in old.measurements:
        after = next((m for m in new.measurements if m.key == before.key), None)
        if before.ours or before.workload.point != point or after is None:
            continue
        if before.status == after.status == "ok":
            pairs.append((before, after))
    return pairs


def _times(
    before: Measurement, after: Measurement, controls: Sequence[tuple[Measurement, Measurement]], tolerance: float
) -> Iterable[Comparison]:
    for metric in COMPARED:
        old, new = _per_cycle(before, metric), _per_cycle(after, metric)
        if not old or not new or median(old.values()) < SHORTEST:
            continue
        speeds_old, speeds_new = _speeds(controls, old, new)
        one = [seconds / speeds_old[cycle] for cycle, seconds in old.items()]
        other = [seconds / speeds_new[cycle] for cycle, seconds in new.items()]
        ratio, low, high = ratio_interval(one, other, CONFIDENCE)
        yield Comparison(
            before.case,
            before.workload.point,
            metric,
            median(old.values()),
            median(new.values()),
            ratio,
            low,
            high,
            (len(one), len(other)),
            _verdict(low, high, tolerance, min(len(one), len(other))),
        )


def _verdict(low: float, high: float, tolerance: float, cycles: int) -> str:
    if cycles < FEWEST_CYCLES:
        return "cannot tell"
    if low > 1 + tolerance:
        return "slower"
    if high < 1 / (1 + tolerance):
        return "faster"
    return "cannot tell" if high / low > 1 + TOO_WIDE else "same"


def _per_cycle(measurement: Measurement, metric: str) -> dict[int, float]:
    return {cycle: median(samples) for cycle, samples in measurement.by_cycle(metric).items()}


def _speeds(
    controls: Sequence[tuple[Measurement, Measurement]], old: dict[int, float], new: dict[int, float]
) -> tuple[dict[int, float], dict[int, float]]:
    """Per cycle of each run: how slow the machine was, relative to the old run's median. 1 without controls."""
    parts_old: list[dict[int, float]] = []
    parts_new: list[dict[int, float]] = []
    for before, after in controls:
        for metric in METRICS:
            one, other = _per_cycle(before, metric), _per_cycle(after, metric)
            if metric not in COMPARED or not old.keys() <= one.keys() or not new.keys() <= other.keys():
                continue
            usual = median(one.values())
            if usual >= SHORTEST:
                parts_old.append({cycle: one[cycle] / usual for cycle in old})
                parts_new.append({cycle: other[cycle] / usual for cycle in new})
    if not parts_old:
        return dict.fromkeys(old, 1.0), dict.fromkeys(new, 1.0)
    return (
        {cycle: geometric_mean(part[cycle] for part in parts_old) for cycle in old},
        {cycle: geometric_mean(part[cycle] for part in parts_new) for cycle in new},
    )


def _sizes(before: Measurement, after: Measurement) -> Iterable[Comparison]:
    old, new = before.contribution_bytes, after.contribution_bytes
    if old is None or new is None:
        return
    ratio = new / old
    verdict = "larger" if new > old else "smaller" if new < old else "same"
    yield Comparison(
        before.case, before.workload.point, "bytes", float(old), float(new), ratio, ratio, ratio, (1, 1), verdict
    )
