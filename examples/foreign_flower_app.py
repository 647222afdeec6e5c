"""An ordinary Flower app with a model of its own, under encrypted aggregation: one mod, one workflow.

python examples/foreign_flower_app.py
"""

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.flower.mod import secagg_mod
from fl.flower.workflow import EncryptedRounds

app = ClientApp(mods=[secagg_mod])  # the line that changes at the banks


@app.train()
def train(message, context):
    """Any Flower train function: here a step of linear regression on this node's own rows."""
    rows = np.random.default_rng(context.node_config["partition-id"]).normal(size=(50, 20))
    (weights,) = message.content["arrays"].to_numpy_ndarrays()
    gradient = rows.T @ (rows @ (weights - np.linspace(-1, 1, 20))) / len(rows)
    arrays, metrics = ArrayRecord([weights - 0.1 * gradient]), MetricRecord({"num-examples": len(rows)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def serve(grid, party, rounds=3):
    """The ServerApp's main; FedAvg's `start` stood here. party: the aggregator's signing key and enrolment list."""
    return EncryptedRounds(grid, party, initial=ArrayRecord([np.zeros(20)])).run(rounds).arrays


if __name__ == "__main__":
    import tempfile

    from fl.flower.loopback import local_federation
    from fl.flower.settings import PlanSettings

    with tempfile.TemporaryDirectory() as folder:
        plan = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=100, max_length=1_000)
        print(serve(*local_federation(folder, app, 3, plan)).to_numpy_ndarrays()[0].round(3))
