"""The example's app without its mod: what a bank runs whose operator forgot the one line that changes."""

from __future__ import annotations

import foreign_flower_app
from flwr.clientapp import ClientApp

app = ClientApp()
app.train()(foreign_flower_app.train)
app.evaluate()(foreign_flower_app.train)
