"""Runs a ClientApp beside a SuperNode in one long-lived process: `python -m fl.flower.resident`.

    flower-supernode --isolation process --superexec-auth-secret-file F --port P --node-config 'party="party.toml"' ...
    python -m fl.flower.resident --supernode 127.0.0.1:P --secret-file F --app fl.flower.client_app:app

Flower's own executor starts a new process for every message and runs the code that the SuperLink shipped with it. Both
are wrong here. A round's ephemeral keys and seeds must survive from one message to the next, and must not touch a disk;
and a party that does not trust the SuperLink must not run its code. This process takes the SuperNode's tasks through
the same local Runtime API, answers them with installed code, and never unpacks the code that was sent. It passes only
the actions of the protocol to the app, and sends only their answers (`admission.py`).

It uses interfaces of flwr that are not public, and flwr is pinned to one minor version for that (docs/adr/0040).
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from pathlib import Path

import httpx
from flwr.clientapp import ClientApp
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PushTaskOutputRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message

from fl.flower.admission import GuardedApp
from fl.flower.errors import SettingsError
from fl.flower.logs import RoleLog
from secagg.protection import protect_process

_POLL_S = 0.25
_DOWN_S = 1.0  # between attempts while the SuperNode cannot be reached
_HEARTBEAT_S = 20.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_UNANSWERED = (httpx.HTTPError, ObjectPullError, ObjectPushError, RuntimeError)  # what Flower's client raises


class Resident:
    """Takes tasks one after the other until `stop` is set.

    address: the SuperNode's Runtime API, host:port on this machine. secret: shared with the SuperNode, so that no
    other user of the machine can take its tasks.
    """

    def __init__(self, address: str, app: ClientApp, secret: bytes, log: RoleLog) -> None:
        self._address, self._app, self._log = address, GuardedApp(app, log), log
        auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
        self._tasks = RuntimeHttpClient.from_server_address(
            address, True, None, [RuntimeVersionHttpInterceptor(component_name="SuperExec"), auth]
        )
        self.stop = threading.Event()

    def serve(self) -> None:
        """Run until stopped. Waits for a SuperNode that cannot be reached."""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        down = False
        while not self.stop.is_set():
            try:
                acquired = self._tasks.AcquireTask(request)
                if acquired.HasField("task") and acquired.token:
                    self._carry_out(acquired.token)
                else:
                    self.stop.wait(_POLL_S)
                down = False
            except _UNANSWERED as error:
                if not down:
                    self._log("supernode away", error=type(error).__name__, message=str(error))
                down = True
                self.stop.wait(_DOWN_S)
            except Exception as error:  # Flower parses a message first, and may raise anything for a forged one
                # The SuperNode answers for the task that was not finished; the next one is served.
                self._log("task not readable", error=type(error).__name__, message=str(error))
                self.stop.wait(_POLL_S)
        self._tasks.close()

    def _carry_out(self, token: str) -> None:
        interceptors: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        ]
        client = RuntimeHttpClient.from_server_address(self._address, True, None, interceptors)
        done = threading.Event()
        heart = threading.Thread(target=self._beat, args=(client, done), daemon=True)
        try:
            message, context, _run, _shipped_code = pull_task_input(client)
            heart.start()
            push_message(client, self._app(message, context), context)
            client.PushTaskOutput(PushTaskOutputRequest(context=None, sub_status="completed", details=""))
        finally:
            done.set()
            if heart.ident is not None:
                heart.join()
            client.close()

    def _beat(self, client: RuntimeHttpClient, done: threading.Event) -> None:
        """Tell the SuperNode that a long task still runs. A failed heartbeat does not stop it."""
        while not done.wait(_HEARTBEAT_S):
            try:
                client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError as error:
                self._log("heartbeat lost", error=type(error).__name__, message=str(error))


def load_app(reference: str) -> ClientApp:
    """The ClientApp at "module:attribute" among the installed code. Raises `SettingsError`."""
    module, _, attribute = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"--app {reference}: {error}; expected module:attribute of installed code") from error
    if not isinstance(app, ClientApp):
        raise SettingsError(f"--app {reference}: expected a flwr ClientApp, got {type(app).__name__}")
    return app


def main(arguments: list[str] | None = None) -> int:
    """The command line. Exit code 0 when stopped by a signal, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m fl.flower.resident", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--supernode", required=True, metavar="HOST:PORT", help="the SuperNode's --host and --port")
    parser.add_argument("--secret-file", required=True, type=Path, help="as --superexec-auth-secret-file there")
    parser.add_argument("--app", required=True, metavar="MODULE:NAME", help="installed ClientApp to run")
    parser.add_argument("--log", type=Path, help="file for structured logs; standard error without")
    options = parser.parse_args(arguments)
    protect_process()  # before the app reads its party's key
    try:
        secret = options.secret_file.read_bytes()
        app = load_app(options.app)
    except (OSError, SettingsError) as error:
        parser.error(str(error))
    resident = Resident(options.supernode, app, secret, RoleLog("resident", options.app, options.log))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: resident.stop.set())
    resident.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
