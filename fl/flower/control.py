"""Requests of the aggregator's operator to a SuperLink: register a node, start a run, ask for its state.

The same calls as `flwr supernode register`, `flwr run` and `flwr ls`, without an interpreter started for each. Uses
interfaces of flwr that are not public (docs/adr/0040).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fl.flower.errors import NetworkError
from fl.text import printable

ConfigValue = bool | int | float | str


class Control:
    """A connection to a SuperLink's Control API. address: host:port. root: PEM file that verifies its certificate."""

    def __init__(self, address: str, root: Path) -> None:
        interceptor = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        self._client = ControlHttpClient.from_server_address(address, False, root.read_bytes(), [interceptor])

    def register(self, public_key: Path, name: str) -> int:
        """Register a SuperNode by its public key (OpenSSH, NIST curve); returns its node id."""
        key = load_ssh_public_key(public_key.read_bytes())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise NetworkError(f"{public_key}: expected an elliptic-curve public key (ssh-keygen -t ecdsa)")
        try:
            registered = self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key), name=name))
        except httpx.HTTPError as error:
            raise NetworkError(f"the SuperLink did not register {name}: {error}") from error
        return int(registered.node_id)

    def start_run(self, app: Path, config: Mapping[str, ConfigValue]) -> int:
        """Start the app in a folder with entries of its run configuration; returns the run's id."""
        content = build_fab_from_disk(app)
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        try:
            started = self._client.StartRun(request)
        except httpx.HTTPError as error:
            raise NetworkError(f"the SuperLink did not start the run: {error}") from error
        if not started.HasField("run_id"):
            raise NetworkError("the SuperLink did not start the run and gave no reason: read its log")
        return int(started.run_id)

    def ended(self, run: int) -> str | None:
        """How a run ended, in Flower's words; None while it runs or while the SuperLink does not answer."""
        try:
            listed = self._client.ListRuns(ListRunsRequest(run_id=run))
        except httpx.HTTPError:
            return None
        status = run_from_proto(listed.run_dict[run]).status
        return printable(f"{status.sub_status}: {status.details}") if status.status == "finished" else None

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
