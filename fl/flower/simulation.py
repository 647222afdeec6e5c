"""Many banks on one machine: the same rounds in Flower's simulation engine (Ray), to measure the cost per bank.

    python -m fl.flower.simulation --banks 100 --json

There is one party folder for each partition; partition 0 is the key holder. A round's secrets stay in one process, so
the simulation has one actor, which plays all parties in turn. It measures the work of each role, not the network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.flower import key_holder_app
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.mod import SecAggMod
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.settings import PARTIES, PlanSettings, load_settings, party_file
from fl.flower.workflow import EncryptedRounds, WaitLimits

_LENGTH = "SECAGG_SIMULATED_LENGTH"
_WAIT = WaitLimits(ready_s=300, call_s=300, train_s=600, contribute_s=600, release_s=300)


def _initial(_: Context) -> ArrayRecord:
    return ArrayRecord([np.zeros(int(os.environ[_LENGTH]), dtype=np.float32)])


bank_app = ClientApp(mods=[SecAggMod(_initial)])


@bank_app.train()
def train(message: Message, context: Context) -> Message:
    """Returns random updates, because the simulation measures rounds and not learning."""
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    rng = np.random.default_rng(int(context.node_config["partition-id"]))
    moved = weights + rng.uniform(-0.5, 0.5, weights.size).astype(np.float32)
    reply = RecordDict({"arrays": ArrayRecord([moved]), "metrics": MetricRecord({"num-examples": 1})})
    return Message(reply, reply_to=message)


class EveryParty(ClientApp):
    """Plays the party whose folder belongs to the node's partition."""

    def __call__(self, message: Message, context: Context) -> Message:
        is_key_holder = load_settings(party_file(context)).role == "key_holder"
        return (key_holder_app.app if is_key_holder else bank_app)(message, context)


def simulate(banks: int, length: int, rounds: int) -> dict[str, Any]:
    """Plays rounds with `banks` banks and updates of `length` values; returns seconds and bytes of each role."""
    from flwr.simulation import run_simulation

    plan = PlanSettings(max_clients=banks, clip=1.0, value_bits=16, max_weight=1, max_length=length)
    names = [f"bank-{number}" for number in range(banks)]
    outcome: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="secagg-simulation-") as folder:
        parties = LocalParties(Path(folder) / "parties", plan, {name: {} for name in names}, quorum=3)
        parties.make()
        for partition, name in enumerate([KEY_HOLDER, *names]):
            (parties.folder / f"party-{partition}").symlink_to(parties.home(name))
        log = str(Path(folder) / "log.jsonl")
        os.environ.update({PARTIES: str(parties.folder), _LENGTH: str(length), "SECAGG_LOG": log})
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            party = AggregatorParty(load_settings(parties.file(AGGREGATOR)))
            outcome.update(EncryptedRounds(grid, party, limits=_WAIT).run(rounds).as_json())

        started = time.perf_counter()
        cores = os.cpu_count() or 1
        resources = {"client_resources": {"num_cpus": cores}, "init_args": {"num_cpus": cores, "log_to_driver": False}}
        # flwr's own examples pass nested settings; its annotation knows flat ones only.
        run_simulation(server, EveryParty(), num_supernodes=banks + 1, backend_config=resources)  # type: ignore[arg-type]
    last = outcome["rounds"][-1]
    return {
        "banks": banks,
        "length": length,
        "members": len(last["members"]),
        "aggregator_seconds": last["sum_seconds"],
        "key_holder_seconds": last["open_seconds"],
        "slowest_bank_seconds": last["seal_seconds"],
        "contribution_bytes": last["bytes_up"],
        "aggregator_peak_memory": outcome["peak_memory"],
        "round_seconds": last["seconds"],
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fl.flower.simulation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--banks", type=int, default=100)
    parser.add_argument("--length", type=int, default=20_000, help="values per update")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(simulate(options.banks, options.length, options.rounds)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
