"""Entries of a bank's [app] table, checked: what every app of this package reads from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl import options
from fl.flower.errors import SettingsError

if TYPE_CHECKING:
    from fl.data.schema import Schema
    from fl.data.simulate import Simulation


def require_entries(app: Mapping[str, Any], names: Collection[str], path: Path) -> None:
    """Raise `SettingsError` where the table in the party file `path` lacks one of `names`."""
    if missing := set(names) - set(app):
        raise SettingsError(f"{path}: app.{min(missing)} is missing: give it in the table [app]")


def require_constants(schema: Schema, where: str) -> None:
    """Raise `SettingsError` for a schema whose scaling constants the banks are still to compute. `where`: who names it.

    The parties of a network play no round for constants.
    """
    if lacking := schema.lacking("shared"):
        raise SettingsError(
            f"{where} leaves the scaling constants of {', '.join(lacking)} to the banks, and the parties of a network "
            "agree on them beforehand: train once with demos train, and take the schema.toml that it writes into the "
            "run's folder, which holds them"
        )


def simulation_of(app: Mapping[str, Any]) -> Simulation | None:
    """The embedded generator as an [app] table asks for it; None for a table that names a file."""
    from fl.data.simulate import embedded

    if app["data"] != "simulated":
        return None
    banks, customers = number(app, "banks", options.BANKS, 3), number(app, "customers", options.CUSTOMERS, 150)
    seed, frauds = number(app, "seed", options.SEED), app.get("fraud_share")
    return embedded(customers, banks, None if frauds is None else number(app, "fraud_share", options.FRAUD_SHARE), seed)


def number(app: Mapping[str, Any], name: str, option: options.Option, default: float | None = None) -> Any:
    """A number of an [app] table. Raises `SettingsError` naming it."""
    try:
        return option.of(app.get(name, default))
    except options.Refused as fault:
        raise SettingsError(f"app.{name}: {fault}") from None
