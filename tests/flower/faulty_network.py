"""Real processes with faults that a test orders: what the tests of the network have in common.

A test waits for what it wants to see, never for a time: a party that shall be cut off stands at a marker file, one that
shall be slow goes on when the test says so, and time limits follow from how long an honest round took on this machine.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fl.flower.local_network import LocalNetwork
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.logs import read_log
from fl.flower.models import FlatModel
from fl.flower.settings import PlanSettings

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LENGTH = 500
PLAN = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=1, max_length=1_000)
PATIENT = {
    "ready_s": 180.0,
    "call_s": 60.0,
    "train_s": 120.0,
    "contribute_s": 120.0,
    "release_s": 120.0,
    "recover_s": 240.0,
}


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float) -> None:
    """Look ten times a second; the test fails, by name, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:g} s"
        time.sleep(0.1)


def parties_of(folder: Path, banks: int, **options: Any) -> LocalParties:
    """Folders of parties whose banks run tests/flower/faulty_apps.py."""
    tables = {f"bank-{number}": {"length": LENGTH, "number": number} for number in range(banks)}
    parties = LocalParties(folder / "parties", PLAN, tables, **options)
    parties.make()
    return parties


def network_of(parties: LocalParties, folder: Path, **options: Any) -> LocalNetwork:
    """A network of these parties, with apps that fail where they are told to."""
    apps = {"bank_app": "faulty_apps:app", "key_holder_app": "faulty_apps:key_holder"}
    return LocalNetwork(parties, folder / "work", environment={"PYTHONPATH": f"{ROOT}:{HERE}"}, **apps, **options)


@dataclass
class Story:
    """A network in which something happens, and what its parties wrote down about it."""

    network: LocalNetwork
    parties: LocalParties
    result: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    cuts: list[threading.Thread] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Since before the first process was started."""
        return time.monotonic() - self.started

    # --- ordering faults

    def order(self, organisation: str, faults: dict[str, Any]) -> None:
        """faults: round -> action -> fault, as tests/flower/faulty_apps.py reads them."""
        (self.parties.home(organisation) / "faults.json").write_text(json.dumps(faults))

    def cut_power(self, organisation: str) -> None:
        """Kill a party as soon as it stands at its marker, then start it until the SuperLink lets it back in."""
        self._meanwhile(self._cut, organisation)

    def let_go_when(self, organisation: str, seen: Callable[[], bool]) -> None:
        """Let a slow party go on once something was seen."""
        self._meanwhile(self._let_go, organisation, seen)

    def _meanwhile(self, what: Callable[..., None], *arguments: Any) -> None:
        self.cuts.append(threading.Thread(target=what, args=arguments, daemon=True))
        self.cuts[-1].start()

    def _cut(self, organisation: str) -> None:
        marker = self.parties.home(organisation) / "hanging"
        while not marker.exists():
            if self.over.wait(0.1):
                return
        marker.unlink()
        self.network.kill_node(organisation)
        self.network.restart_node(organisation)

    def _let_go(self, organisation: str, seen: Callable[[], bool]) -> None:
        while not seen():
            if self.over.wait(0.1):
                return
        (self.parties.home(organisation) / "go-on").touch()

    def everybody_is_back(self, timeout_s: float) -> None:
        """Wait until all that was cut off runs again."""
        wait_for("the return of everybody", lambda: not any(cut.is_alive() for cut in self.cuts), timeout_s)

    # --- reading

    def events(self, organisation: str, event: str) -> list[dict[str, Any]]:
        log = self.network.log(organisation)
        return [each for each in read_log(log) if each["event"] == event] if log.exists() else []

    def round(self, number: int) -> dict[str, Any]:
        return next(each for each in self.events(AGGREGATOR, "round done") if each["round"] == number)

    def lost(self, number: int) -> str:
        return "; ".join(each["message"] for each in self.events(AGGREGATOR, "round lost") if each["round"] == number)

    def did_not_join(self, organisation: str) -> list[dict[str, Any]]:
        return [each for each in self.events(AGGREGATOR, "did not join") if each["bank"] == organisation]

    def model(self, organisation: str) -> tuple[FlatModel, int, int]:
        """(model, rounds, step) that a bank has on its disk."""
        return FlatModel.from_bytes((self.parties.home(organisation) / "model.npz").read_bytes())

    def exact(self, rounds: int) -> np.ndarray:
        """The model after plain averaging, in float64, of what the members of each round say they trained."""
        total = np.zeros(LENGTH)
        for number in range(1, rounds + 1):
            homes = [self.parties.home(name) for name in self.round(number)["members"]]
            total += np.mean([np.load(home / f"update-{number}.npy").astype(np.float64) for home in homes], axis=0)
        return total


@contextmanager
def story_of(network: LocalNetwork, parties: LocalParties) -> Iterator[Story]:
    """Starts the network; at the end everything is stopped, whatever happened, and nothing is left."""
    story = Story(network, parties)
    with network:
        try:
            yield story
        finally:
            story.over.set()
            for cut in story.cuts:
                cut.join()
    assert network.processes.marked() == []


def step_of(plan: PlanSettings) -> float:
    """The grid of the quantised values: an average is off by at most half of it, a model after n rounds by n halves."""
    return plan.clip / (2 ** (plan.value_bits - 1) - 1)


__all__ = [
    "AGGREGATOR",
    "KEY_HOLDER",
    "PATIENT",
    "PLAN",
    "ROOT",
    "Story",
    "network_of",
    "parties_of",
    "step_of",
    "story_of",
    "wait_for",
]
