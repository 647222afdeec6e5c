"""Plays a preset: each kind of case in a process of its own, all cases interleaved, every result on disk at once.

At each point of the preset, every cycle visits every case once, in an order that is shuffled for each cycle (from a
seed). A disturbance of a minute then affects all cases, so ratios hold where absolute times do not. Only one worker
computes at a time. The first line of the journal says what is measured, and each further line is one fact. On Ctrl-C or
SIGTERM, and when the time of the preset is over, the results file holds what was measured, and `--resume` continues.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases.registry import Entry, cases
from benchmarks.errors import ResumeMismatch, UnreadableResults
from benchmarks.machine import likeness
from benchmarks.presets import Point, Preset, workload_of
from benchmarks.results import NAME, VERSION, Measurement, Results
from benchmarks.workload import Workload
from fl.durable import JsonLines, replace_durably

LONGEST_VISIT = 10  # repetitions of one case per cycle

Say = Callable[[str], None]
Key = tuple[str, Workload]


class WorkerDied(Exception):
    """A worker ended without an answer. The message is the last line that it wrote to standard error."""


class WorkerProcess:
    """The parent's end of one `benchmarks.worker`."""

    def __init__(self, threads: int) -> None:
        environment = dict(os.environ)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = str(threads)
        environment["FLWR_TELEMETRY_ENABLED"] = "0"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        # A session of its own, so that Ctrl-C reaches this process alone, which then ends its workers.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
            start_new_session=True,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises `WorkerDied`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerDied(f"exit code {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no message"


@dataclass
class Journal:
    """The measurements of a run so far, on disk line by line and in memory."""

    path: Path
    header: dict[str, Any]
    facts: dict[Key, dict[str, Any]] = field(default_factory=dict)
    repetitions: dict[Key, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def start(cls, path: Path, header: dict[str, Any]) -> Journal:
        """A new journal, in place of any old one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = cls(path, header)
        replace_durably(path, b"")
        journal._write(header)
        return journal

    @classmethod
    def reopen(cls, path: Path, header: dict[str, Any]) -> Journal:
        """Continue a journal. Raises `ResumeMismatch` if its settings, code or machine differ from `header`."""
        if not path.exists():
            raise ResumeMismatch(f"{path}: there is nothing to resume; run without --resume")
        try:
            entries = JsonLines(path).read()
        except ValueError as error:
            raise UnreadableResults(f"{error}: run without --resume") from error
        if not entries:
            raise ResumeMismatch(f"{path}: the journal is empty; run without --resume")
        _require_same(entries[0], header, path)
        journal = cls(path, entries[0])
        for entry in entries[1:]:
            journal._take(entry)
        JsonLines(path).keep(len(entries))
        return journal

    def add(self, entry: dict[str, Any]) -> None:
        """Write a fact to disk, then keep it in memory.

        An interruption may come at any moment. Every fact in memory, and so every reported one, is on disk, and
        `--resume` finds it. A fact that is only on disk is not measured again.
        """
        self._write(entry)
        self._take(entry)

    def _take(self, entry: dict[str, Any]) -> None:
        key = (str(entry["case"]), Workload.of(entry["workload"]))
        rest = {name: value for name, value in entry.items() if name not in ("case", "workload", "kind")}
        if entry["kind"] == "repetition":
            self.repetitions.setdefault(key, []).append(rest)
        else:
            self.facts.setdefault(key, {}).update({k: v for k, v in rest.items() if v is not None})

    def _write(self, entry: dict[str, Any]) -> None:
        JsonLines(self.path).append(json.dumps(entry, allow_nan=False).encode())


def run(
    preset: Preset,
    *,
    machine: dict[str, Any],
    command: str,
    path: Path,
    resume: bool = False,
    seed: int = 0,
    say: Say = lambda line: None,
    known: dict[str, Entry] | None = None,
    threads: int,
) -> Results:
    """Measure a preset and write the results to `path`.

    The journal is beside it, with "l" added to the name, and is removed when the run is complete. seed: of the vectors
    and of the order of cases. known: the cases by name; None for all of the registry. On KeyboardInterrupt it writes
    what was measured and raises it again. With resume, raises `ResumeMismatch` or `UnreadableResults`.
    """
    header = {
        "schema": NAME,
        "version": VERSION,
        "machine": machine,
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": {
            "preset": preset.name,
            "cycles": preset.cycles,
            "fewest": preset.fewest,
            "visit_s": preset.visit_s,
            "case_s": preset.case_s,
            "limit_s": preset.limit_s,
            "seed": seed,
            "points": [
                {"workload": p.workload.as_dict(), "cases": list(p.cases), "once": p.once} for p in preset.points
            ],
        },
    }
    lines = path.with_suffix(path.suffix + "l")
    journal = Journal.reopen(lines, header) if resume else Journal.start(lines, header)
    entries = known or cases(_device_of(machine), None)
    player = _Player(preset, journal, entries, seed, say, threads, _device_of(machine))
    complete = False
    try:
        complete = player.play()
    finally:
        player.close()
        results = _collect(preset, journal, entries, complete)
        results.save(path)
    if complete:
        lines.unlink()
    return results


class _Player:
    """One run in progress."""

    def __init__(
        self,
        preset: Preset,
        journal: Journal,
        entries: dict[str, Entry],
        seed: int,
        say: Say,
        threads: int,
        device: str,
    ) -> None:
        self._preset, self._journal, self._entries, self._say = preset, journal, entries, say
        self._threads, self._device = threads, device
        self._order = random.Random(seed)
        self._workers: dict[str, WorkerProcess] = {}  # by Entry.process
        self._start = time.monotonic()

    def play(self) -> bool:
        """Measure every point in every cycle. Returns False if the preset's time was over before that."""
        complete = True
        for number, point in enumerate(self._preset.points, start=1):
            w = point.workload
            where = f"point {number} of {len(self._preset.points)}: {w.length:,} values, {w.clients} clients, "
            complete &= self._point(point, f"{where}{w.value_bits} bits")
            for worker in self._workers.values():
                worker.ask({"do": "forget"})
        return complete

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers = {}

    def _point(self, point: Point, where: str) -> bool:
        ready = [key for name in point.cases if (key := self._prepare(name, point.workload)) is not None]
        last_cycle = 0.0
        cycles = 1 if point.once else self._preset.cycles
        for cycle in range(cycles):
            if cycle and self._late(last_cycle):
                self._say(
                    f"{where}: {cycle} cycles done; the preset's {self._preset.limit_s} s leave no time for another"
                )
                return False
            begun = time.monotonic()
            self._say(f"{where}: cycle {cycle + 1} of {cycles}")
            order = list(ready)
            self._order.shuffle(order)
            for key in order:
                if self._due(key, cycle) and not (cycle and self._late()):
                    self._visit(key, cycle)
            last_cycle = time.monotonic() - begun
            if cycle == 0 and not point.once:
                for key in ready:
                    if not self._late():
                        self._peaks(key)
        return True

    def _late(self, ahead: float = 0.0) -> bool:
        """Whether the preset's time is up, or will be in `ahead` seconds."""
        limit = self._preset.limit_s
        return limit is not None and time.monotonic() - self._start + ahead > limit

    def _prepare(self, name: str, asked: Workload) -> Key | None:
        """Prepare a worker for a case on a workload. Returns None if the case cannot run."""
        entry = self._entries[name]
        workload = workload_of(entry, asked, self._preset.name)
        key = (name, workload)
        if self._finished(key):
            return None
        if workload.length > entry.longest or workload.clients > entry.most:
            reason = f"beyond this case's {entry.longest:,} values or {entry.most:,} clients"
            self._fact(key, status="not run", reason=reason)
            return None
        answer = self._ask(key, "prepare", device=self._device, threads=self._threads)
        if answer is None:
            return None
        self._fact(key, **answer)
        if answer["status"] != "ready":
            self._say(f"{name}: not run: {answer['reason']}")
            return None
        return key

    def _visit(self, key: Key, cycle: int) -> None:
        """Repeat a case at least once, until the time of a visit is over."""
        begun = time.monotonic()
        for _ in range(LONGEST_VISIT):
            answer = self._ask(key, "repeat")
            if answer is None:
                return
            status = answer.pop("status")
            if status != "ok":
                self._fact(key, status=status, reason=answer["reason"])
                self._say(f"{key[0]}: {status}: {answer['reason']}")
                return
            self._journal.add(
                {"kind": "repetition", "case": key[0], "workload": key[1].as_dict(), "cycle": cycle, **answer}
            )
            if time.monotonic() - begun > self._preset.visit_s:
                return

    def _peaks(self, key: Key) -> None:
        """Measure peaks of memory, once per case and workload."""
        if self._finished(key) or "peak_bytes" in self._journal.facts[key]:
            return
        answer = self._ask(key, "memory")
        if answer is not None:
            self._fact(key, **answer)

    def _due(self, key: Key, cycle: int) -> bool:
        """Whether to visit a case in this cycle: not if it failed, was visited already, or has used its time."""
        if self._finished(key):
            return False
        done = self._journal.repetitions.get(key, [])
        if any(repetition["cycle"] == cycle for repetition in done):
            return False
        if not done:
            return True
        longest = max(sum(phase["seconds"] for phase in repetition["phases"].values()) for repetition in done)
        return cycle < self._preset.fewest or (cycle + 1) * longest <= self._preset.case_s

    def _finished(self, key: Key) -> bool:
        return self._journal.facts.get(key, {}).get("status") in ("not run", "wrong", "failed")

    def _ask(self, key: Key, do: str, **more: Any) -> dict[str, Any] | None:
        """A worker's answer, or None if the worker died. The case is then recorded as failed, and others continue."""
        process = self._entries[key[0]].process
        try:
            return self._worker(process).ask({"do": do, "case": key[0], "workload": key[1].as_dict(), **more})
        except WorkerDied as death:
            self._workers.pop(process).close()
            self._fact(key, status="failed", reason=str(death))
            self._say(f"{key[0]}: failed: {death}")
            return None

    def _fact(self, key: Key, **facts: Any) -> None:
        self._journal.add({"kind": "fact", "case": key[0], "workload": key[1].as_dict(), **facts})

    def _worker(self, process: str) -> WorkerProcess:
        if process not in self._workers:
            self._workers[process] = WorkerProcess(self._threads)
        return self._workers[process]


def _collect(preset: Preset, journal: Journal, entries: dict[str, Entry], complete: bool) -> Results:
    measurements = []
    for point in preset.points:
        for name in point.cases:
            entry = entries[name]
            key = (name, workload_of(entry, point.workload, preset.name))
            facts = journal.facts.get(key, {"status": "not run", "reason": "the run ended before it"})
            measured = tuple(journal.repetitions.get(key, ()))
            status, reason = str(facts["status"]), str(facts.get("reason", ""))
            if status == "ready":
                status, reason = ("ok", "") if measured else ("not run", "the run ended before it")
            measurements.append(
                Measurement(
                    case=name,
                    label=entry.label,
                    family=entry.family,
                    ours=entry.ours,
                    workload=key[1],
                    status=status,
                    reason=reason,
                    parameters=facts.get("parameters", {}),
                    warm_up_seconds=facts.get("warm_up_seconds"),
                    peak_bytes=facts.get("peak_bytes", {}),
                    repetitions=measured if status == "ok" else (),  # a wrong case has no times
                )
            )
    header = journal.header
    return Results(
        header["machine"], header["command"], header["started"], header["settings"], complete, tuple(measurements)
    )


def _require_same(old: dict[str, Any], new: dict[str, Any], path: Path) -> None:
    differing = []
    if (old.get("schema"), old.get("version")) != (NAME, VERSION):
        differing.append("the format")
    if old.get("settings") != new["settings"]:
        differing.append("the settings")
    for what in ("source", "versions"):
        if old.get("machine", {}).get(what) != new["machine"][what]:
            differing.append(f"the {what}")
    if likeness(old.get("machine", {})) != likeness(new["machine"]):
        differing.append("the machine")
    if differing:
        raise ResumeMismatch(
            f"{path}: {', '.join(differing)} changed since this run was started; run without --resume, to another file"
        )


def _device_of(machine: dict[str, Any]) -> str:
    return "cpu" if machine["device"] == "cpu" else "cuda"
