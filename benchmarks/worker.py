"""Cases in a process of their own: `python -m benchmarks.worker`, one JSON object per line in and out.

    {"do": "prepare", "case": name, "workload": {...}, "device": ..., "threads": ...}
                                              ->  {"status": ..., "parameters": {...}, "warm_up_seconds": s}
    {"do": "repeat", "case": ..., ...}        ->  one repetition
    {"do": "memory", "case": ..., ...}        ->  peaks of memory by phase
    {"do": "forget"}                          ->  {}        drops what was prepared

A process of its own keeps one method's memory, thread pools and imports out of another's figures. Workers are new
processes and not forks, since TenSEAL's pool does not survive a fork. Before the first measured repetition a case runs
once on a small input, and the time of this (to compile, or to read compiled code from the cache) is reported
separately. Standard output carries only the protocol, and what a library prints goes to standard error. The worker ends
when its input ends.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any, TextIO

from benchmarks.cases import Case
from benchmarks.cases.registry import Entry, find
from benchmarks.cases.rounds import LENGTHS
from benchmarks.errors import CaseNotRunnable, WrongResult
from benchmarks.meter import Meter
from benchmarks.workload import Vectors, Workload

WARM_LENGTH = 20_000  # values of the input to warm up on: several blocks of any parameter set
WARM_CLIENTS = 8


Answer = dict[str, Any]


class Worker:
    """Holds prepared cases, by case and workload."""

    def __init__(self) -> None:
        self._prepared: dict[tuple[str, Workload], tuple[Entry, Case]] = {}
        self._warm: set[str] = set()
        self._vectors: dict[Workload, Vectors] = {}

    def answer(self, request: dict[str, Any]) -> Answer:
        """Carry out one request."""
        if request["do"] == "forget":
            self._prepared.clear()
            self._vectors.clear()
            gc.collect()
            return {}
        key = (str(request["case"]), Workload.of(request["workload"]))
        if request["do"] == "prepare":
            return self.prepare(key, find(key[0], request["device"], request["threads"]))
        return self.repeat(key) if request["do"] == "repeat" else self.memory(key)

    def prepare(self, key: tuple[str, Workload], entry: Entry) -> Answer:
        """Prepare a case for a workload. The status is "not run" if it cannot run here."""
        try:
            warm_up_seconds = self._warm_up(entry, key[1])
            case = entry.make()
            if key[1] not in self._vectors:
                self._vectors[key[1]] = Vectors(key[1])
            parameters = case.prepare(self._vectors[key[1]])
        except CaseNotRunnable as reason:
            return {"status": "not run", "reason": str(reason)}
        except ModuleNotFoundError as absent:
            return {"status": "not run", "reason": f"{absent.name} is not installed"}
        self._prepared[key] = (entry, case)
        return {"status": "ready", "parameters": parameters, "warm_up_seconds": warm_up_seconds}

    def repeat(self, key: tuple[str, Workload]) -> Answer:
        """One repetition: status "ok" with figures, or "wrong" without any."""
        _, case = self._prepared[key]
        gc.collect()
        meter = Meter()
        try:
            outcome = case.repeat(meter)
            outcome.check()
        except WrongResult as fault:
            return {"status": "wrong", "reason": str(fault)}
        errors = {"largest_error": outcome.largest_error, "allowed_error": outcome.allowed_error}
        return {"status": "ok", **errors, **meter.as_dict()}

    def memory(self, key: tuple[str, Workload]) -> Answer:
        """Peak memory of each phase in bytes, from a repetition that is not timed.

        For a slow case, of a round of two contributions from one client: peaks are per call, the calls are alike.
        """
        entry, case = self._prepared[key]
        if entry.slow:
            case = entry.make()
            case.prepare(Vectors(replace(key[1], clients=2, encrypting=1)))
        meter = Meter(memory=True)
        case.repeat(meter)
        return {"peak_bytes": {name: phase.peak_bytes for name, phase in meter.phases.items()}}

    def _warm_up(self, entry: Entry, workload: Workload) -> float | None:
        """Seconds of a first run on a small input; None if this process has run the case before."""
        if entry.name in self._warm:
            return None
        small = replace(workload, length=min(WARM_LENGTH, workload.length), clients=WARM_CLIENTS, encrypting=1)
        if entry.family == "device":  # its kernel is compiled for the number of contributions of a pass
            small = replace(small, clients=max(WARM_CLIENTS, entry.options["stacked"]))
        if entry.family in ("secagg", "flower"):
            small = replace(small, encrypting=0)
        if entry.family == "round":
            small = replace(small, length=LENGTHS[entry.options["model"]], clients=3, encrypting=0)
        start = time.perf_counter()
        case = entry.make()
        case.prepare(Vectors(small))
        case.repeat(Meter())
        self._warm.add(entry.name)
        return time.perf_counter() - start


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    worker = Worker()
    for line in requests:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


def main() -> None:
    """Keep standard output for the protocol, and send what libraries print to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
