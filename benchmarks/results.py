"""A run's results: what one file holds, how it is read, and the figures that are derived from it.

A results file is one JSON object (`SCHEMA`): machine, command, settings and, per case and workload, every repetition
beside its summary. During a run there is a journal instead, with one JSON object per line, each on disk before the next
repetition starts. An interrupted run therefore keeps its measurements and can continue (`runner.py`).

All figures that are shown are computed here, from repetitions, by `METRICS`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.errors import UnreadableResults
from benchmarks.statistics import Growth, Spread, growth, spread
from benchmarks.workload import Workload
from fl.durable import replace_durably
from fl.spreadsheet import SafeWriter

NAME, VERSION = "secagg benchmark", 1
GROWTH_FROM = 1_000_000  # values; below, fixed costs and padding hide how costs grow

Repetition = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """A figure of one repetition, in seconds. label: for people.

    of: (repetition, workload, clock) -> seconds; clock is "seconds" for wall time, "cpu_seconds" for processor time.
    """

    label: str
    of: Callable[[Repetition, Workload, str], float]


def _phase(repetition: Repetition, name: str, clock: str = "seconds") -> float:
    return float(repetition["phases"].get(name, {}).get(clock, 0.0))


def _stages(repetition: Repetition, phase: str, names: tuple[str, ...]) -> float:
    """Wall time of some stages of a phase: stages have no processor time."""
    stages = repetition["phases"].get(phase, {}).get("stages", {})
    return sum(float(stages[name]["seconds"]) for name in names if name in stages)


METRICS = {
    "client": Metric("client, per contribution", lambda r, w, clock: _phase(r, "client", clock) / w.fresh),
    "server": Metric("server, per contribution", lambda r, w, clock: _phase(r, "server", clock) / w.clients),
    "open": Metric("open the sum, once", lambda r, w, clock: _phase(r, "open", clock)),
    "decrypt": Metric("of it decrypt and unpack", lambda r, w, clock: _stages(r, "open", ("decrypt", "unpack"))),
    "setup": Metric("set-up, all parties, once", lambda r, w, clock: _phase(r, "setup", clock)),
    "finish": Metric("server, once", lambda r, w, clock: _phase(r, "finish", clock)),
    "train": Metric("local training, per client", lambda r, w, clock: _phase(r, "train", clock) / w.clients),
    "round": Metric("all of the above, all parties", lambda r, w, clock: _round_seconds(r, w, clock)),
}
COMPARED = ("client", "server", "open")
"""The metrics that `compare` judges."""


@dataclass(frozen=True)
class Measurement:
    """One case on one workload.

    status: "ok", "wrong" (no times), "failed" or "not run"; reason: why, for all but "ok". parameters: what the case
    said about itself. peak_bytes: by phase, beyond what the process held when it began. repetitions: as measured.
    """

    case: str
    label: str
    family: str
    ours: bool
    workload: Workload
    status: str
    reason: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    warm_up_seconds: float | None = None
    peak_bytes: dict[str, int | None] = field(default_factory=dict, repr=False)
    repetitions: tuple[Repetition, ...] = field(default=(), repr=False)

    @property
    def key(self) -> tuple[str, Workload]:
        return self.case, self.workload

    def samples(self, metric: str, clock: str = "seconds") -> list[float]:
        """The metric of every repetition, by wall ("seconds") or processor time ("cpu_seconds")."""
        return [METRICS[metric].of(repetition, self.workload, clock) for repetition in self.repetitions]

    def by_cycle(self, metric: str, clock: str = "seconds") -> dict[int, list[float]]:
        """The metric of every repetition, by the cycle it was measured in."""
        cycles: dict[int, list[float]] = {}
        for repetition, value in zip(self.repetitions, self.samples(metric, clock), strict=True):
            cycles.setdefault(int(repetition["cycle"]), []).append(value)
        return cycles

    def spread(self, metric: str) -> Spread | None:
        """Median and quartiles of a metric; None if the case does not have it."""
        samples = self.samples(metric)
        return spread(samples) if samples and any(samples) else None

    def stages(self) -> dict[str, tuple[Spread, int]]:
        """ "phase/stage" -> (seconds over all calls of one repetition, bytes). "phase/rest": outside of all stages."""
        found: dict[str, tuple[Spread, int]] = {}
        if not self.repetitions:
            return found
        for phase, first in self.repetitions[0]["phases"].items():
            for stage in first["stages"]:
                parts = [repetition["phases"][phase]["stages"][stage] for repetition in self.repetitions]
                found[f"{phase}/{stage}"] = (spread([part["seconds"] for part in parts]), parts[0]["bytes"])
            rest = [_rest_seconds(repetition["phases"][phase]) for repetition in self.repetitions]
            found[f"{phase}/rest"] = (spread(rest), 0)
        return found

    @property
    def contribution_bytes(self) -> int | None:
        """Bytes of one contribution on the wire."""
        return self.repetitions[0]["wire_bytes"].get("contribution") if self.repetitions else None

    @property
    def bytes_per_value(self) -> float | None:
        size = self.contribution_bytes
        return None if size is None else size / self.workload.length

    @property
    def largest_error(self) -> float | None:
        """Over all repetitions."""
        return max((r["largest_error"] for r in self.repetitions), default=None)

    @property
    def cores_used(self) -> float | None:
        """Processor seconds per second of wall time in the phases that are compared."""
        wall = sum(_phase(r, name) for r in self.repetitions for name in COMPARED)
        processor = sum(_phase(r, name, "cpu_seconds") for r in self.repetitions for name in COMPARED)
        return processor / wall if wall else None

    def summary(self) -> dict[str, Any]:
        """Everything that is derived, ready for JSON."""
        return {
            "metrics": {
                name: {"unit": "s", **found.as_dict()} for name in METRICS if (found := self.spread(name)) is not None
            },
            "stages": {
                name: {"bytes": produced, **found.as_dict()} for name, (found, produced) in self.stages().items()
            },
            "bytes_per_value": self.bytes_per_value,
            "largest_error": self.largest_error,
            "cores_used": self.cores_used,
        }

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "case": self.case,
            "label": self.label,
            "family": self.family,
            "ours": self.ours,
            "workload": self.workload.as_dict(),
            "status": self.status,
            "reason": self.reason,
            "parameters": self.parameters,
            "warm_up_seconds": self.warm_up_seconds,
            "peak_bytes": self.peak_bytes,
            "summary": self.summary() if self.repetitions else None,
            "repetitions": list(self.repetitions),
        }

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Measurement:
        """From `as_dict`; the summary is derived again, not read."""
        kept = {name: value for name, value in fields.items() if name != "summary"}
        kept["workload"] = Workload.of(fields["workload"])
        kept["repetitions"] = tuple(fields["repetitions"])
        return cls(**kept)


@dataclass(frozen=True)
class Results:
    """One run. complete: False when it was interrupted or ran out of its time."""

    machine: dict[str, Any]
    command: str
    started: str
    settings: dict[str, Any]
    complete: bool
    measurements: tuple[Measurement, ...] = field(repr=False)

    def find(self, case: str, point: tuple[int, int, int]) -> Measurement | None:
        """The measurement of a case at (length, clients, value_bits)."""
        return next((m for m in self.measurements if m.case == case and m.workload.point == point), None)

    def growth(self) -> dict[str, dict[str, Growth]]:
        """case -> figure -> how it grows with the length, from GROWTH_FROM values up, clients and bits fixed."""
        found: dict[str, dict[str, Growth]] = {}
        for (case, _, _), series in self._series().items():
            for name, cost in (
                *((metric, _median(metric)) for metric in COMPARED),
                ("bytes", lambda m: float(m.contribution_bytes or 0)),
            ):
                fitted = growth([(m.workload.length, cost(m)) for m in series])
                if fitted is not None:
                    found.setdefault(case, {})[name] = fitted
        return found

    def _series(self) -> dict[tuple[str, int, int], list[Measurement]]:
        series: dict[tuple[str, int, int], list[Measurement]] = {}
        for m in self.measurements:
            if m.status == "ok" and m.workload.length >= GROWTH_FROM:
                series.setdefault((m.case, m.workload.clients, m.workload.value_bits), []).append(m)
        return {key: sorted(ms, key=lambda m: m.workload.length) for key, ms in series.items() if len(ms) > 1}

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "schema": NAME,
            "version": VERSION,
            "machine": self.machine,
            "command": self.command,
            "started": self.started,
            "settings": self.settings,
            "complete": self.complete,
            "growth": {
                case: {name: {"exponent": g.exponent, "sizes": list(g.sizes)} for name, g in figures.items()}
                for case, figures in self.growth().items()
            },
            "measurements": [measurement.as_dict() for measurement in self.measurements],
        }

    def save(self, path: Path) -> None:
        """Write the file, replacing it only once it is complete on disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, _json(self.as_dict()).encode())


def load(path: Path) -> Results:
    """Read a results file. Raises `UnreadableResults`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableResults(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise UnreadableResults(f"{path}: not JSON ({error}); expected a file that `benchmarks run` wrote") from error
    if not isinstance(data, dict) or data.get("schema") != NAME:
        raise UnreadableResults(f"{path}: expected schema {NAME!r}; was it written by `benchmarks run`?")
    if data.get("version") != VERSION:
        raise UnreadableResults(f"{path}: expected version {VERSION}, got {data.get('version')!r}: measure again")
    try:
        measurements = tuple(Measurement.of(fields) for fields in data["measurements"])
        return Results(
            data["machine"], data["command"], data["started"], data["settings"], data["complete"], measurements
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableResults(f"{path}: {type(error).__name__}: {error}") from error


def _json(data: dict[str, Any]) -> str:
    """The file's text: the head readable, each measurement on a line of its own."""
    head = json.dumps({**data, "measurements": []}, indent=1, allow_nan=False)
    lines = ",\n  ".join(json.dumps(measurement, allow_nan=False) for measurement in data["measurements"])
    opening, closing = head[:-2].rsplit("[]", 1)
    return f"{opening}[\n  {lines}\n ]{closing}\n}}\n"


CSV_COLUMNS = (
    "case",
    "length",
    "clients",
    "value_bits",
    "encrypting",
    "status",
    "figure",
    "unit",
    "median",
    "lower_quartile",
    "upper_quartile",
    "count",
)


def write_csv(results: Iterable[Results], path: Path) -> None:
    """One row per case, workload and figure: every metric, stage, peak of memory, size and error."""
    text = io.StringIO(newline="")
    writer = SafeWriter(text)
    writer.row(("processor", "device", "started", *CSV_COLUMNS))
    for run in results:
        where = (run.machine["processor"], run.machine["device"], run.started)
        for measurement in run.measurements:
            writer.rows((*where, *row) for row in _csv_rows(measurement))
    replace_durably(path, text.getvalue().encode())


def _csv_rows(m: Measurement) -> Iterable[Sequence[Any]]:
    what = (m.case, *m.workload.point, m.workload.fresh, m.status)
    if not m.repetitions:
        yield (*what, "", "", "", "", "", 0)
    for name in METRICS:
        found = m.spread(name)
        if found is not None:
            yield (*what, name, "s", found.median, found.lower, found.upper, found.count)
    for name, (found, produced) in m.stages().items():
        yield (*what, name, "s", found.median, found.lower, found.upper, found.count)
        yield (*what, name, "bytes", produced, produced, produced, found.count)
    singles: list[tuple[str, str, float | None]] = [
        ("contribution", "bytes", m.contribution_bytes),
        ("bytes per value", "bytes", m.bytes_per_value),
        ("largest error", "", m.largest_error),
        ("cores used", "", m.cores_used),
        ("warm-up", "s", m.warm_up_seconds),
        *((f"peak memory, {phase}", "bytes", peak) for phase, peak in m.peak_bytes.items()),
    ]
    for name, unit, value in singles:
        if value is not None:
            yield (*what, name, unit, value, "", "", 1)


def _median(metric: str) -> Callable[[Measurement], float]:
    def cost(measurement: Measurement) -> float:
        found = measurement.spread(metric)
        return found.median if found is not None else 0.0

    return cost


def _rest_seconds(phase: dict[str, Any]) -> float:
    named = sum(float(stage["seconds"]) for stage in phase["stages"].values())
    return max(0.0, float(phase["seconds"]) - named)


def _round_seconds(repetition: Repetition, workload: Workload, clock: str) -> float:
    """All parties one after the other, as if every client had encrypted."""
    seconds = sum(float(phase[clock]) for phase in repetition["phases"].values())
    return seconds + _phase(repetition, "client", clock) * (workload.clients / workload.fresh - 1)
