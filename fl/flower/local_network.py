"""A whole Flower deployment on this machine: SuperLink, key holder and banks as separate processes, TLS, node keys.

    with LocalNetwork(parties, work) as network:
        result = network.run(rounds=3, timeout_s=300)

Creates a throw-away authority and node keys, starts everything on free ports of 127.0.0.1, registers the nodes, and
stops all of it on leaving, on Ctrl-C and on failure. Telemetry and update checks are off; no dependency is installed at
run time. Folders of the parties stay: their ledgers and journals are theirs.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fl.flower.certificates import LOCALHOST, ThrowAwayAuthority, new_node_key, write_private
from fl.flower.errors import NetworkError, RunFailed
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.processes import Processes, free_port, program

APP = Path(__file__).parent
SUPERLINK = "superlink"
BANK_APP = "fl.flower.client_app:app"
KEY_HOLDER_APP = "fl.flower.key_holder_app:app"
_START_S = 40.0  # a process with torch, on a busy machine

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class LocalNetwork:
    """parties: made already.  folder: for certificates, Flower's own files and logs, empty.  bank_app: module:name of
    the banks' ClientApp.  environment: for all processes.  unregistered: organisations whose SuperNode the SuperLink
    is not told of.  through: SuperLink address (port) for an organisation, when a gateway stands in between.
    """

    parties: LocalParties
    folder: Path
    bank_app: str = BANK_APP
    environment: Mapping[str, str] = field(default_factory=dict)
    unregistered: Sequence[str] = ()
    through: Mapping[str, int] = field(default_factory=dict)
    superlink_port: int = field(default_factory=free_port)
    expired_certificate: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = ThrowAwayAuthority(self.folder)
        self.processes = Processes(self.folder / "output", {**QUIET, **self.environment})
        self._run_ids: list[str] = []

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
        self._certificate = self.authority.server(SUPERLINK, expired=self.expired_certificate)
        self.start_superlink()
        self._write_flower_config()
        members = [name for name in self.parties.names if name != AGGREGATOR]
        for name in members:
            (self.folder / name).mkdir()
            new_node_key(self.folder / name)
            write_private(self.folder / name / "secret", secrets.token_bytes(32))
            if name not in self.unregistered:
                self.register(name)
        for name in members:
            self.start_node(name)

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again on the same port and database."""
        command = [program("flower-superlink"), "--host", LOCALHOST, "--port", str(self.superlink_port)]
        command += ["--ssl-certfile", str(self._certificate.certificate), "--ssl-keyfile", str(self._certificate.key)]
        command += ["--ssl-ca-certfile", str(self.authority.root), "--enable-supernode-auth"]
        command += ["--database", str(self.folder / "superlink.db"), "--disable-runtime-dependency-installation"]
        self.processes.start(SUPERLINK, command, self._party_environment(AGGREGATOR))
        self.processes.wait_for_port(SUPERLINK, self.superlink_port, _START_S)

    def register(self, organisation: str) -> None:
        """Tell the SuperLink a node's public key."""
        public = str(self.folder / organisation / "node.pub")
        self._flwr("supernode", "register", public, "local", "--name", organisation)

    def start_node(self, organisation: str) -> None:
        """Start a party's SuperNode and the resident process beside it."""
        home, port = self.folder / organisation, free_port()
        root, entrance = str(self.authority.root), self.through.get(organisation, self.superlink_port)
        environment = self._party_environment(organisation)
        command = [program("flower-supernode"), "--superlink", f"{LOCALHOST}:{entrance}", "--root-certificates", root]
        command += ["--auth-supernode-private-key", str(home / "node.key"), "--isolation", "process"]
        command += ["--superexec-auth-secret-file", str(home / "secret"), "--host", LOCALHOST, "--port", str(port)]
        command += ["--node-config", f'party="{self.parties.file(organisation)}"']
        self.processes.start(self.node(organisation), command, environment)
        app = KEY_HOLDER_APP if organisation == KEY_HOLDER else self.bank_app
        resident = [sys.executable, "-m", "fl.flower.resident", "--supernode", f"{LOCALHOST}:{port}", "--app", app]
        resident += ["--secret-file", str(home / "secret"), "--log", str(self.log(organisation))]
        self.processes.start(organisation, resident, environment)

    def kill_node(self, organisation: str) -> None:
        """End a party's processes at once, as a power cut would."""
        self.processes.kill(self.node(organisation))
        self.processes.kill(organisation)

    @staticmethod
    def node(organisation: str) -> str:
        """The name of a party's SuperNode process; the resident has the organisation's own."""
        return f"{organisation}-supernode"

    # --- running

    def submit(self, rounds: int, **config: bool | int | float | str) -> str:
        """Start a run; returns its id. config: entries of the app's run configuration, with underscores."""
        number = len(self._run_ids) + 1
        values: dict[str, bool | int | float | str] = {
            "party": str(self.parties.file(AGGREGATOR)),
            "result": str(self.folder / f"result-{number}.json"),
            "rounds": rounds,
            **{name.replace("_", "-"): value for name, value in config.items()},
        }
        assigned = " ".join(f"{name}={json.dumps(value)}" for name, value in values.items())
        done = self._flwr("run", str(APP), "local", "--run-config", assigned, "--format", "json")
        started = json.loads(done[done.index("{") : done.rindex("}") + 1])
        if not started.get("success"):
            raise RunFailed(f"the SuperLink did not start the run: {started}")
        self._run_ids.append(str(started["run-id"]))
        return self._run_ids[-1]

    def result(self, timeout_s: float) -> dict[str, Any]:
        """Wait for the last run's result. Raises `RunFailed`: it failed, by name, or there is none in time."""
        path, deadline = self.folder / f"result-{len(self._run_ids)}.json", time.monotonic() + timeout_s
        while not path.exists():
            self.processes.require_alive([SUPERLINK])
            if time.monotonic() > deadline:
                raise RunFailed(f"no result within {timeout_s:g} s; the last events are in {self.log(AGGREGATOR)}")
            time.sleep(0.1)
        result: dict[str, Any] = json.loads(path.read_bytes())
        if "error" in result:
            raise RunFailed(f"{result['error']}: {result['message']}")
        return result

    def run(self, rounds: int, timeout_s: float, **config: bool | int | float | str) -> dict[str, Any]:
        """Submit a run and wait for its result."""
        self.submit(rounds, **config)
        return self.result(timeout_s)

    def log(self, organisation: str) -> Path:
        """A party's structured log."""
        return self.folder / "output" / f"{organisation}.jsonl"

    # --- inside

    def _party_environment(self, organisation: str) -> dict[str, str]:
        home = self.folder / "flower" / organisation
        home.mkdir(parents=True, exist_ok=True)
        return {"FLWR_HOME": str(home), "SECAGG_LOG": str(self.log(organisation))}

    def _write_flower_config(self) -> None:
        text = f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "{LOCALHOST}:{self.superlink_port}"\n'
        text += f'root-certificates = "{self.authority.root}"\n'
        home = Path(self._party_environment("operator")["FLWR_HOME"])
        (home / "config.toml").write_text(text, encoding="utf-8")

    def _flwr(self, *arguments: str) -> str:
        """Run the Flower command line as the aggregator's operator; returns what it printed."""
        return self.processes.run([program("flwr"), *arguments], _START_S, self._party_environment("operator")).stdout


__all__ = ["AGGREGATOR", "KEY_HOLDER", "SUPERLINK", "LocalNetwork", "NetworkError"]
