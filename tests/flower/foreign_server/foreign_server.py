"""A ServerApp around examples/foreign_flower_app.py: what its owner adds to run it on a SuperLink."""

from __future__ import annotations

import json
from pathlib import Path

import foreign_flower_app
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.settings import load_settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Serve the rounds and write the model's values down."""
    config = context.run_config
    party = AggregatorParty(load_settings(str(config["party"])))
    arrays = foreign_flower_app.serve(grid, party, rounds=int(config["rounds"]))
    result = Path(str(config["result"]))
    whole = result.with_suffix(".new")
    whole.write_text(json.dumps({"weights": arrays.to_numpy_ndarrays()[0].tolist()}))
    whole.rename(result)
