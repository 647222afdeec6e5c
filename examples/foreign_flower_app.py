"""A Flower app with a model of its own, and the same app under encrypted aggregation: one mod, one workflow.

python examples/foreign_flower_app.py
"""

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fl.flower.mod import secagg_mod
from fl.flower.workflow import EncryptedRounds


def trained(message, context):
    """Any Flower train function: here one gradient step of linear regression on this node's own rows."""
    rng = np.random.default_rng(context.node_config["partition-id"])
    x, (weights,) = rng.normal(size=(50, 20)), message.content["arrays"].to_numpy_ndarrays()
    y = x @ np.linspace(-1, 1, 20)
    weights = weights - 0.1 * x.T @ (x @ weights - y) / len(x)
    reply = {"arrays": ArrayRecord([weights]), "metrics": MetricRecord({"num-examples": len(x)})}
    return type(message)(RecordDict(reply), reply_to=message)


plain_app, encrypted_app = ClientApp(), ClientApp(mods=[secagg_mod])
plain_app.train()(trained)
encrypted_app.train()(trained)


def plain_rounds(grid, rounds):
    """What the ServerApp did before."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    return strategy.start(grid, ArrayRecord([np.zeros(20)]), num_rounds=rounds).arrays


def encrypted_rounds(grid, party, rounds):
    """What it does now; `party` holds the aggregator's signing key and the enrolment list."""
    return EncryptedRounds(grid, party, initial=ArrayRecord([np.zeros(20)])).run(rounds).arrays
