"""Encrypted rounds between real processes: Flower carries the messages of `secagg` and need not be trusted.

    server_app.py     ServerApp = aggregator            workflow.py   one round as Flower messages
    client_app.py     ClientApp = bank, under mod.py    key_holder_app.py   ClientApp = key holder
    resident.py       runs a ClientApp from installed code in one process that keeps a round's secrets in memory

`parties/` is the only package here that imports `secagg`; docs/flower.md describes the whole, and docs/adr/0040 gives
the reasons. Nothing heavy is imported on `import fl.flower`: the aggregator and the key holder never load torch.

Importing it turns off Flower's telemetry and update check and Ray's usage reports, unless the environment already sets
them. Flower reads these when it is imported, so this comes first.
"""

from __future__ import annotations

import os

for _name, _off in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _off)
