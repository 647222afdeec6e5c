"""The aggregator as a ServerApp: runs the rounds that the run's configuration asks for, and writes how they ended.

The run's configuration names the party file (settings.py): whoever may start runs on this SuperLink operates the
aggregator. The result is a JSON object, with "error" if the run failed. It is written completely or not at all. Loads
neither torch nor tenseal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl import options
from fl.durable import replace_durably
from fl.errors import FederationError
from fl.flower.errors import SettingsError
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.parties.party import Refusal
from fl.flower.settings import load_settings
from fl.flower.workflow import EncryptedRounds, RoundReport, WaitLimits, peak_memory

app = ServerApp()

_LIMITS = ("ready", "call", "train", "contribute", "release", "part", "recover")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Play the rounds and write the result; a failed run raises, so that Flower shows it as failed."""
    config = context.run_config
    result = Path(_text(config.get("result"), "result"))
    reports: list[RoundReport] = []
    try:
        party = AggregatorParty(load_settings(_text(config.get("party"), "party")))
        limits = WaitLimits(
            attempts=_value(config, "attempts", options.ATTEMPTS, WaitLimits.attempts),
            **{f"{name}_s": _value(config, f"{name}-s", options.WAIT) for name in _LIMITS if f"{name}-s" in config},
        )
        banks = _value(config, "banks", options.BANKS) if config.get("banks", 0) != 0 else None  # 0: all that appear
        rounds = EncryptedRounds(grid, party, banks=banks, limits=limits, on_round=reports.append)
        outcome = rounds.run(
            _value(config, "rounds", options.SOME_ROUNDS, 3), evaluate=bool(config.get("evaluate", True))
        )
    except (FederationError, Refusal, OSError) as error:
        failed = {"error": type(error).__name__, "message": str(error), "rounds_done": len(reports)}
        replace_durably(result, json.dumps({**failed, "peak_memory": peak_memory()}).encode())
        raise
    replace_durably(result, json.dumps(outcome.as_json()).encode())


def _value(config: Mapping[str, object], name: str, option: options.Option, default: object = None) -> Any:
    try:
        return option.of(config.get(name, default))
    except options.Refused as fault:
        raise SettingsError(f"run configuration: {name}: {fault}") from None


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError(f"run configuration: {name} is missing: flwr run ... --run-config '{name}=\"PATH\"'")
    return value
