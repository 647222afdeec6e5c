"""Which models `train --model auto` tries, and the configuration of each.

Without differential privacy every model that fits the data is tried: boosted trees, the noisy-or model where banks
share counts, and the network. With differential privacy nothing is tried: see `NO_PRIVATE_CHOICE`.

An option goes to every candidate that it means something to. Options that would mean one thing to one model and another
to the next, or nothing to some of them although whoever gives them relies on them, are refused by name.

What it leaves to others: training and choosing (`fl.runs.choosing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fl.data.federation import resolve_schema
from fl.data.schema import Schema
from fl.errors import BudgetError, OptionError
from fl.learning.kinds import ModelKind
from fl.runs.asked import AUTO, OF_BOTH, configuration, read_options, wants_privacy
from fl.runs.config import RunConfig
from fl.runs.train_options import TRAIN_OPTIONS, flag

NO_PRIVATE_CHOICE = (
    f"--model {AUTO} trains several models on the same rows. With differential privacy each would spend a part of "
    "every bank's epsilon, so that little is left for the one that is kept, and no epsilon covers the labels that "
    "choose. Name one: --model noisy-or, which private runs train by default, or --model mlp; or give --no-dp"
)
ORDER: tuple[ModelKind, ...] = ("trees", "noisy-or", "mlp")  # equal figures: the first
OF_ITS_TRAINING = ("local_epochs", "batch_size", "pos_weight")  # options of the network alone that may be given
DIFFERENT = ("rounds", "lr")  # mean another thing to each model
OF_ROUNDS = ("clip", "value_bits", "ignore_monotone")  # mean nothing to trees


@dataclass(frozen=True)
class Candidates:
    """`configs`: of each model that is tried, in `ORDER`. `left_out`: why another one is not tried."""

    configs: Mapping[ModelKind, RunConfig] = field(repr=False)
    left_out: Mapping[ModelKind, str]


def asked_for(given: Mapping[str, Any], base: RunConfig | None = None) -> RunConfig | Candidates:
    """What the options ask for: one run, or with `--model auto` several. Raises as `configuration`.

    Raises `BudgetError` for `--model auto` with differential privacy, and `OptionError` for options beside it that do
    not suit it.
    """
    asked = read_options(given)
    if asked.get("model") != AUTO:
        return configuration(given, base)
    if wants_privacy(asked, base):
        raise BudgetError(NO_PRIVATE_CHOICE)
    for name, value in asked.items():
        option = TRAIN_OPTIONS[name]
        if name in DIFFERENT or (option.only_network and name not in OF_ITS_TRAINING and value not in OF_BOTH):
            raise OptionError(
                f"{flag(name)} does not mean the same to every model that --model {AUTO} tries: leave it out, or name "
                "one --model"
            )
    made = {kind: configuration(_options_of(kind, asked), base) for kind in ORDER}
    left_out = _left_out(made["noisy-or"], resolve_schema(made["mlp"].data.source, made["mlp"].data.schema))
    return Candidates({kind: config for kind, config in made.items() if kind not in left_out}, left_out)


def _options_of(kind: ModelKind, asked: Mapping[str, Any]) -> dict[str, Any]:
    def fits(name: str) -> bool:
        option = TRAIN_OPTIONS[name]
        if option.only_trees:
            return kind == "trees"
        if name == "history_days":
            return kind != "mlp"
        if name in OF_ROUNDS:
            return kind != "trees"
        return kind == "mlp" or not option.only_network

    return {**{name: value for name, value in asked.items() if fits(name)}, "model": kind}


def _left_out(noisy_or: RunConfig, schema: Schema) -> dict[ModelKind, str]:
    """Models that do not fit the data, and why."""
    found: dict[ModelKind, str] = {}
    if not schema.shares_counts:
        found["noisy-or"] = "the schema names no parties that banks share and count"
    elif noisy_or.statistics is None:
        found["noisy-or"] = "banks share no counts in this run (--no-shared-statistics)"
    if schema.monotone and not noisy_or.model.ignore_monotone:
        for kind in ("noisy-or", "mlp"):
            found.setdefault(kind, "the schema names monotone columns, which trees alone keep")
    return found
