"""The same app without the mod, under Flower's own FedAvg in its simulation engine; prints the model's values.

python plain.py ROUNDS
"""

from __future__ import annotations

import json
import sys

import foreign_flower_app
import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client = ClientApp()
client.train()(foreign_flower_app.train)
server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """What stood where `EncryptedRounds` stands now."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3)
    arrays = strategy.start(grid, ArrayRecord([np.zeros(20)]), num_rounds=int(sys.argv[1])).arrays
    sys.stdout.write(json.dumps({"weights": arrays.to_numpy_ndarrays()[0].tolist()}) + "\n")


if __name__ == "__main__":
    resources = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 1, "log_to_driver": False}}
    run_simulation(server, client, num_supernodes=3, backend_config=resources)  # type: ignore[arg-type]
