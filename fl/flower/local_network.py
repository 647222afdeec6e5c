"""A whole Flower deployment on this machine: SuperLink, key holder and banks as separate processes, TLS, node keys.

    with LocalNetwork(parties, work) as network:
        result = network.run(rounds=3, timeout_s=300)

Creates a temporary authority and node keys, starts everything on free ports of 127.0.0.1, registers the nodes, and
stops all of it on leaving, on Ctrl-C and on failure. Telemetry and update checks are off; no dependency is installed at
run time. The parties' folders are kept, with their ledgers and journals.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fl.flower.certificates import LOCALHOST, ThrowAwayAuthority, new_node_key, write_private
from fl.flower.control import ConfigValue, Control
from fl.flower.errors import NetworkError, RunFailed
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.logs import read_log
from fl.flower.processes import Processes, free_port, program

APP = Path(__file__).parent
SUPERLINK = "superlink"
BANK_APP = "fl.flower.client_app:app"
KEY_HOLDER_APP = "fl.flower.key_holder_app:app"
_START_S = 40.0  # a process with torch, on a busy machine
_REJOIN_S = 150.0
_RETRY_S = 3.0  # between starts of a SuperNode that the SuperLink refused
_LOOK_S = 2.0  # between checks whether the run still runs

LEAN = {"SECAGG_KERNELS": "numpy", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(2**15)}
"""For the aggregator (deploy/aggregator.md): it only adds, so numpy's loops are enough; memory that
held a large message is returned to the system at once."""

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class LocalNetwork:
    """Not started until entered or `start` is called.

    parties: already made.  folder: for certificates, Flower's own files and logs; must be empty.  bank_app,
    key_holder_app: module:name of ClientApps.  server_app: folder with the Flower app that `submit` starts.
    node_config: additional entries by organisation, in the form of `flower-supernode --node-config`.  environment:
    for all processes.  unregistered: organisations whose SuperNode is not registered at the SuperLink.  through: port
    for an organisation, if a gateway is between it and the SuperLink.
    """

    parties: LocalParties
    folder: Path
    bank_app: str = BANK_APP
    key_holder_app: str = KEY_HOLDER_APP
    server_app: Path = APP
    node_config: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    unregistered: Sequence[str] = ()
    through: Mapping[str, int] = field(default_factory=dict)
    superlink_port: int = field(default_factory=free_port)
    expired_certificate: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = ThrowAwayAuthority(self.folder)
        self.processes = Processes(self.folder / "output", {**QUIET, **self.environment})
        self._runs: list[int] = []

    def __enter__(self) -> LocalNetwork:
        try:
            self.start()
        except BaseException:
            self.processes.stop_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.stop_all()

    # --- starting

    def start(self) -> None:
        """Start the SuperLink, register every node, start the nodes."""
        self.certificate = self.authority.server(SUPERLINK, expired=self.expired_certificate)
        self.start_superlink()
        members = [name for name in self.parties.names if name != AGGREGATOR]
        for name in members:
            (self.folder / name).mkdir()
            new_node_key(self.folder / name)
            write_private(self.folder / name / "secret", secrets.token_bytes(32))
        with self.control() as control:
            for name in members:
                if name not in self.unregistered:
                    control.register(self.folder / name / "node.pub", name)
        for name in members:
            self.start_node(name)

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again on the same port and database."""
        command = [program("flower-superlink"), "--host", LOCALHOST, "--port", str(self.superlink_port)]
        command += ["--ssl-certfile", str(self.certificate.certificate), "--ssl-keyfile", str(self.certificate.key)]
        command += ["--ssl-ca-certfile", str(self.authority.root), "--enable-supernode-auth"]
        command += ["--database", str(self.folder / "superlink.db"), "--disable-runtime-dependency-installation"]
        # The SuperLink starts the ServerApp, which inherits its environment.
        self.processes.start(SUPERLINK, command, {**LEAN, **self._party_environment(AGGREGATOR)})
        self.processes.wait_for_port(SUPERLINK, self.superlink_port, _START_S)

    def control(self) -> Control:
        """A connection as the SuperLink's operator, past any gateway."""
        return Control(f"{LOCALHOST}:{self.superlink_port}", self.authority.root)

    def start_node(self, organisation: str) -> None:
        """Start a party's SuperNode and the resident process beside it."""
        home, port = self.folder / organisation, free_port()
        root, entrance = str(self.authority.root), self.through.get(organisation, self.superlink_port)
        environment = self._party_environment(organisation)
        command = [program("flower-supernode"), "--superlink", f"{LOCALHOST}:{entrance}", "--root-certificates", root]
        command += ["--auth-supernode-private-key", str(home / "node.key"), "--isolation", "process"]
        command += ["--superexec-auth-secret-file", str(home / "secret"), "--host", LOCALHOST, "--port", str(port)]
        more = self.node_config.get(organisation, "")
        command += ["--node-config", f'party="{self.parties.file(organisation)}" {more}'.rstrip()]
        self.processes.start(self.node(organisation), command, environment)
        app = self.key_holder_app if organisation == KEY_HOLDER else self.bank_app
        resident = [sys.executable, "-m", "fl.flower.resident", "--supernode", f"{LOCALHOST}:{port}", "--app", app]
        resident += ["--secret-file", str(home / "secret"), "--log", str(self.log(organisation))]
        self.processes.start(organisation, resident, environment)

    def kill_node(self, organisation: str) -> None:
        """End a party's processes at once, as a power cut would."""
        self.processes.kill(self.node(organisation))
        self.processes.kill(organisation)

    def restart_node(self, organisation: str, timeout_s: float = _REJOIN_S) -> None:
        """Start a party again after `kill_node`, as a supervisor would.

        The SuperLink accepts a node that vanished without notice again only when its heartbeat has expired, about a
        minute later. Until then its SuperNode ends with exit code 305 and is started again. Raises `NetworkError`.
        """
        node, deadline = self.node(organisation), time.monotonic() + timeout_s
        accepted = self._times_accepted(node)
        self.start_node(organisation)
        while self._times_accepted(node) == accepted:
            if time.monotonic() > deadline:
                raise NetworkError(
                    f"{organisation}: not accepted again within {timeout_s:g} s: {self.processes.tail(node)}"
                )
            if not self.processes.alive(node):
                self.processes.kill(organisation)
                time.sleep(_RETRY_S)
                self.start_node(organisation)
            time.sleep(0.2)

    def _times_accepted(self, node: str) -> int:
        return self.processes.output(node).read_text(encoding="utf-8", errors="replace").count("SuperNode ID:")

    @staticmethod
    def node(organisation: str) -> str:
        """The name of a party's SuperNode process. The resident process has the organisation's name."""
        return f"{organisation}-supernode"

    # --- running

    def submit(self, rounds: int, **config: ConfigValue) -> int:
        """Start a run; returns its id. config: entries of the app's run configuration, with underscores."""
        values: dict[str, ConfigValue] = {
            "party": str(self.parties.file(AGGREGATOR)),
            "result": str(self.folder / f"result-{len(self._runs) + 1}.json"),
            "rounds": rounds,
            **{name.replace("_", "-"): value for name, value in config.items()},
        }
        with self.control() as control:
            self._runs.append(control.start_run(self.server_app, values))
        return self._runs[-1]

    def result(self, timeout_s: float, on_round: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Wait for the last run's result. on_round: called with the number of rounds done so far.

        Raises `RunFailed` with the error's name if the run failed, and if there is no result in time.
        """
        path = self.folder / f"result-{len(self._runs)}.json"
        with self.control() as control:
            deadline, look, done = time.monotonic() + timeout_s, 0.0, 0
            while not path.exists():
                if time.monotonic() > deadline:
                    raise RunFailed(f"no result within {timeout_s:g} s; the last events are in {self.log(AGGREGATOR)}")
                if time.monotonic() > look:
                    self._require_running(control, path)
                    if on_round is not None and self.rounds_done() > done:
                        done = self.rounds_done()
                        on_round(done)
                    look = time.monotonic() + _LOOK_S
                time.sleep(0.1)
        result: dict[str, Any] = json.loads(path.read_bytes())
        if on_round is not None and self.rounds_done() > done:
            on_round(self.rounds_done())
        if "error" in result:
            raise RunFailed(f"{result['error']}: {result['message']}")
        return result

    def run(self, rounds: int, timeout_s: float, **config: ConfigValue) -> dict[str, Any]:
        """Submit a run and wait for its result."""
        self.submit(rounds, **config)
        return self.result(timeout_s)

    def rounds_done(self) -> int:
        """Rounds that the aggregator has finished so far."""
        log = self.log(AGGREGATOR)
        return sum(event["event"] == "round done" for event in read_log(log)) if log.exists() else 0

    def log(self, organisation: str) -> Path:
        """A party's structured log."""
        return self.folder / "output" / f"{organisation}.jsonl"

    # --- inside

    def _party_environment(self, organisation: str) -> dict[str, str]:
        home = self.folder / "flower" / organisation
        home.mkdir(parents=True, exist_ok=True)
        return {"FLWR_HOME": str(home), "SECAGG_LOG": str(self.log(organisation))}

    def _require_running(self, control: Control, path: Path) -> None:
        self.processes.require_alive([SUPERLINK])
        ended = control.ended(self._runs[-1])
        if ended is not None and not path.exists():
            raise RunFailed(f"the run ended without a result ({ended}): {self.processes.tail(SUPERLINK)}")


__all__ = ["AGGREGATOR", "KEY_HOLDER", "SUPERLINK", "LocalNetwork", "NetworkError"]
