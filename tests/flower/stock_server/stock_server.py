"""Flower's stock FedAvg as a ServerApp that writes down what the nodes answered: somebody who took over a SuperLink."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

NODES = 3
LENGTH = 20

app = ServerApp()


class Curious(FedAvg):
    """FedAvg that keeps all replies."""

    def __init__(self) -> None:
        super().__init__(min_train_nodes=NODES, min_evaluate_nodes=NODES, min_available_nodes=NODES)
        self.replies: list[Message] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]):  # type: ignore[no-untyped-def]
        kept = list(replies)
        self.replies += kept
        return super().aggregate_train(server_round, kept)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]):  # type: ignore[no-untyped-def]
        kept = list(replies)
        self.replies += kept
        return super().aggregate_evaluate(server_round, kept)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """A round of training and one of evaluation."""
    strategy = Curious()
    try:
        strategy.start(grid, ArrayRecord([np.zeros(LENGTH)]), num_rounds=1, timeout=60)
    finally:  # what was collected counts, whatever FedAvg makes of it
        write_down(strategy.replies, Path(str(context.run_config["result"])))


def write_down(replies: list[Message], result: Path) -> None:
    """How many arrays came, and why there were no more."""
    records = [record for reply in replies if reply.has_content() for record in reply.content.array_records.values()]
    reasons = [str(reply.error.reason) for reply in replies if reply.has_error()]
    told = {"replies": len(replies), "arrays": sum(map(len, records)), "reasons": reasons}
    whole = result.with_suffix(".new")
    whole.write_text(json.dumps(told))
    whole.rename(result)
