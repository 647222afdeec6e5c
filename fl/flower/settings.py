"""A party's own settings: a TOML file on its own machine, never anything that came through Flower.

    role = "bank"                      # or "key_holder", "aggregator"
    identity = "identity.json"         # `demos enrol key`; a passphrase is taken from SECAGG_PASSPHRASE
    enrolment = "enrolment.json"       # `demos enrol list`, the same at every party
    quorum = 3
    allow_reuse = false                # true: an update may enter a second roster after a lost round (without DP)
    model_repeats = 0                  # a bank's: rosters from one model that it accepts once members differ, as in a
                                       # retry without the bank that vanished; "fresh-noise": any number, because each
                                       # update of its app carries new noise (differential privacy)
    [plan]
    max_clients = 16
    clip = 1.0
    value_bits = 20
    max_weight = 1                     # above 1, banks weigh by their "num-examples"
    max_length = 50_000_000            # longest update that this party will take part in
    [robust]                           # rounds that leave out updates unlike the others; without this table, plain
    rule = "outliers"                  # the same at every party: a bank refuses the offer of another rule
    byzantine = 2                      # attackers that the rule is to withstand; nnm and multikrum need it
    [reports]                          # a bank's: what its app reports unencrypted; without this table, nothing
    metrics = ["loss", "num-examples"] # numbers, by name, in answers to the rounds' "evaluate" and to `messages`
    hashes = ["model_hash"]            # SHA-256 in hexadecimal, by name, in answers to the rounds' "evaluate"
    messages = ["evaluate"]            # Flower message types that any ServerApp may send the app outside of rounds
    [app]                              # settings of the party's own app

Paths are relative to the file. ledger.db, journal.db and model.npz are kept beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from flwr.app import Context

from fl import options
from fl.flower.errors import SettingsError
from fl.secure.rule_settings import RobustSettings
from fl.toml import Fields, filled, parsed, text_of
from secagg.errors import RuleNeedsMoreClients

PARTY = "SECAGG_PARTY"  # environment: this process's party file
PARTIES = "SECAGG_PARTIES"  # environment, simulation only: folder with one folder per partition
PASSPHRASE = "SECAGG_PASSPHRASE"
FRESH_NOISE = "fresh-noise"
REPEATS = f"{options.MODEL_REPEATS}, or {FRESH_NOISE!r}"
_RESERVED = {"action", "error", "message", "held_names", "held_lengths", "short_names", "short_wires"}


@dataclass(frozen=True)
class PlanSettings:
    """Inputs of `secagg.plan_round` that all parties agreed on, and the longest update this party accepts."""

    max_clients: Annotated[int, options.BANKS]
    clip: Annotated[float, options.CLIP] = 1.0
    value_bits: Annotated[int, options.VALUE_BITS] = 20
    max_weight: Annotated[int, options.MAX_WEIGHT] = 1
    max_length: Annotated[int, options.LENGTH] = 50_000_000

    def __post_init__(self) -> None:
        options.check(self, SettingsError)


@dataclass(frozen=True)
class Reports:
    """What a bank's app may report unencrypted. metrics: names of numbers. hashes: names of hashes, 64 hex digits.

    messages: types beyond the protocol that reach the app, "evaluate", "query", "evaluate.NAME" or "query.NAME".
    """

    messages: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()


NO_REPORTS = Reports()


@dataclass(frozen=True)
class PartySettings:
    """One party's own settings. folder: for its files that must survive a restart.

    model_repeats: None if the file says that every update carries fresh noise. robust: the rule of every round; None
    for plain rounds.
    """

    role: Annotated[str, options.ROLE]
    folder: Path
    identity: Path
    enrolment: Path
    quorum: Annotated[int, options.PARTY_QUORUM]
    plan: PlanSettings
    allow_reuse: bool = False
    model_repeats: Annotated[int | None, options.MODEL_REPEATS] = 0
    reports: Reports = NO_REPORTS
    app: Mapping[str, Any] = field(default_factory=dict, repr=False)
    robust: RobustSettings | None = None

    def __post_init__(self) -> None:
        options.check(self, SettingsError)
        if self.robust is not None:
            _require_playable(self, self.robust)

    @property
    def passphrase(self) -> bytes | None:
        value = os.environ.get(PASSPHRASE)
        return None if value is None else os.fsencode(value)


def load_settings(path: str | Path) -> PartySettings:
    """Read a party file. Raises `SettingsError`, naming the entry."""
    path = Path(path).absolute()
    if not os.path.exists(path):
        raise SettingsError(f"{path}: not found; make a party file first (docs/flower.md)")
    tables = parsed(text_of(path, SettingsError), str(path), SettingsError)
    try:
        return _party(path.parent, Fields(tables, "", SettingsError))
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _party(folder: Path, top: Fields) -> PartySettings:
    role = top.option("role", options.ROLE)
    plan, app = top.take("plan", dict, "a table, as in [plan]"), top.table("app")
    settings = PartySettings(
        role,
        folder,
        identity=folder / top.option("identity", options.FILE),
        enrolment=folder / top.option("enrolment", options.FILE),
        quorum=top.option("quorum", options.PARTY_QUORUM),
        plan=filled(PlanSettings, plan, "[plan]", SettingsError),
        allow_reuse=top.flag("allow_reuse", False),
        model_repeats=_model_repeats(top.take("model_repeats", (int, str), REPEATS, 0)),
        reports=_reports(role, top.table("reports")),
        app=app.rest() if app else {},
        robust=_robust(top.table("robust")),
    )
    top.done()
    return settings


def _robust(table: Fields | None) -> RobustSettings | None:
    return None if table is None else filled(RobustSettings, table.rest(), "[robust]", SettingsError)


def _require_playable(settings: PartySettings, robust: RobustSettings) -> None:
    """Raise `SettingsError` for settings under which no robust round can end."""
    plan = settings.plan
    if robust.rule == "krum":
        raise SettingsError(
            "[robust] rule: krum keeps one update, and an encrypted average of one hides nothing: use outliers or nnm"
        )
    if plan.max_weight != 1:
        raise SettingsError(
            f"[robust]: a rule compares updates of equal weight: expected max_weight = 1 in [plan], got "
            f"{plan.max_weight}"
        )
    if settings.allow_reuse:
        raise SettingsError("[robust]: each update is shown to the rule once: set allow_reuse = false")
    try:
        robust.require_enough(plan.max_clients)
    except RuleNeedsMoreClients as fault:
        raise SettingsError(f"[robust]: max_clients in [plan] is too small: {fault}") from None


def _reports(role: str, table: Fields | None) -> Reports:
    if table is None:
        return NO_REPORTS
    messages, metrics, hashes = (_names(table, name) for name in ("messages", "metrics", "hashes"))
    table.done()
    if role != "bank" and messages | metrics | hashes:
        raise SettingsError(f"reports: expected only in a bank's file, got it in the {role}'s: remove it")
    for kind in sorted(messages):
        category, dot, action = kind.partition(".")
        if category not in ("evaluate", "query") or (dot and not action.isidentifier()):
            raise SettingsError(
                f"reports.messages: expected 'evaluate', 'query', 'evaluate.NAME' or 'query.NAME', got "
                f"{kind!r}; results of training leave a bank only through encrypted rounds"
            )
    if reserved := (metrics | hashes) & _RESERVED:
        raise SettingsError(f"reports: {min(reserved)!r} is reserved for the protocol: use another name")
    if both := metrics & hashes:
        raise SettingsError(f"reports: {min(both)!r} is in metrics and in hashes: remove it from one")
    return Reports(messages, metrics, hashes)


def _names(table: Fields, name: str) -> frozenset[str]:
    names = table.strings(name)
    if "" in names:
        raise SettingsError(f"[reports] {name}: expected a list of names, got {names}")
    return frozenset(names)


def party_file(context: Context) -> Path:
    """Where this node's party file is: SECAGG_PARTY, the SuperNode's own node-config, or the simulation's folder.

    Never the run's configuration: that comes from the SuperLink. Raises `SettingsError`.
    """
    if named := os.environ.get(PARTY):
        return Path(named)
    configured = context.node_config.get("party")
    if isinstance(configured, str):
        return Path(configured)
    parties, partition = os.environ.get(PARTIES), context.node_config.get("partition-id")
    if parties and partition is not None:
        return Path(parties) / f"party-{partition}" / "party.toml"
    raise SettingsError(
        "no party file: start the SuperNode with --node-config 'party=\"/path/to/party.toml\"', or set SECAGG_PARTY"
    )


def _model_repeats(value: int | str) -> int | None:
    if value == FRESH_NOISE:
        return None
    try:
        repeats: int = options.MODEL_REPEATS.of(value)
    except options.Refused:
        raise SettingsError(f"model_repeats: expected {REPEATS}, got {options.shown(value)}") from None
    return repeats
