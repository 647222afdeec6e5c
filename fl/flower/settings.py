"""What a party decides for itself: a TOML file on its own machine, never anything that came through Flower.

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
    [reports]                          # a bank's: what its app tells in the clear; without this table, nothing
    metrics = ["loss", "num-examples"] # numbers, by name, in answers to the rounds' "evaluate" and to `messages`
    hashes = ["model_hash"]            # SHA-256 in hexadecimal, by name, in answers to the rounds' "evaluate"
    messages = ["evaluate"]            # Flower message types that any ServerApp may send the app outside of rounds
    [app]                              # anything the party's own app wants to know

Paths are relative to the file. ledger.db, journal.db and model.npz are kept beside it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from flwr.app import Context

from fl import options
from fl.flower.errors import SettingsError

ROLES = options.ROLE.words
PARTY = "SECAGG_PARTY"  # environment: this process's party file
PARTIES = "SECAGG_PARTIES"  # environment, simulation only: folder with one folder per partition
PASSPHRASE = "SECAGG_PASSPHRASE"
FRESH_NOISE = "fresh-noise"
_PLAN = {"max_clients": int, "clip": float, "value_bits": int, "max_weight": int, "max_length": int}
_ENTRIES = {"role", "identity", "enrolment", "quorum", "allow_reuse", "model_repeats", "plan", "reports", "app"}
_RESERVED = {"action", "error", "message", "held_names", "held_lengths", "short_names", "short_wires"}
_DEFAULTS = {"value_bits": 20, "max_weight": 1, "clip": 1.0, "max_length": 50_000_000}


@dataclass(frozen=True)
class PlanSettings:
    """Inputs of `secagg.plan_round` that all parties agreed on, and the longest update this party accepts."""

    max_clients: Annotated[int, options.BANKS]
    clip: Annotated[float, options.CLIP]
    value_bits: Annotated[int, options.VALUE_BITS]
    max_weight: Annotated[int, options.MAX_WEIGHT]
    max_length: Annotated[int, options.LENGTH]

    def __post_init__(self) -> None:
        options.check(self, SettingsError, "plan: ")


@dataclass(frozen=True)
class Reports:
    """What a bank's app may tell in the clear. metrics: names of numbers. hashes: names of hashes, 64 hex digits.

    messages: types beyond the protocol that reach the app, "evaluate", "query", "evaluate.NAME" or "query.NAME".
    """

    messages: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    hashes: frozenset[str] = frozenset()


NO_REPORTS = Reports()


@dataclass(frozen=True)
class PartySettings:
    """One party's own settings. folder: where it keeps what must survive a restart.

    model_repeats: None where the file says that every update carries fresh noise.
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

    def __post_init__(self) -> None:
        options.check(self, SettingsError)

    @property
    def passphrase(self) -> bytes | None:
        value = os.environ.get(PASSPHRASE)
        return None if value is None else os.fsencode(value)


def load_settings(path: str | Path) -> PartySettings:
    """Read a party file. Raises `SettingsError`, naming the entry."""
    path = Path(path).absolute()
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; make a party file first (docs/flower.md)") from error
    except (ValueError, RecursionError) as error:  # TOML's error is a ValueError, and so is text that is no UTF-8
        raise SettingsError(f"{path}: not TOML: {error}") from error
    unknown = set(fields) - _ENTRIES
    if unknown:
        raise SettingsError(f"{path}: unknown entry {', '.join(sorted(unknown))}")
    role = _entry(path, fields, "role", str)
    if role not in ROLES:
        raise SettingsError(f"{path}: role: expected one of {', '.join(ROLES)}, got {role!r}")
    plan = {**_DEFAULTS, **_entry(path, fields, "plan", dict)}
    if strange := set(plan) - set(_PLAN):
        raise SettingsError(f"{path}: plan: unknown entry {', '.join(sorted(strange))}")
    values = {name: _entry(path, plan, name, kind) for name, kind in _PLAN.items()}
    reuse = _entry(path, {"allow_reuse": False, **fields}, "allow_reuse", bool)
    repeats = _model_repeats(path, fields.get("model_repeats", 0))
    reports = _reports(path, role, _entry(path, {"reports": {}, **fields}, "reports", dict))
    quorum, app = _entry(path, fields, "quorum", int), fields.get("app", {})
    identity, enrolment = (path.parent / _file(path, fields, name) for name in ("identity", "enrolment"))
    try:
        agreed = PlanSettings(**values)
        return PartySettings(role, path.parent, identity, enrolment, quorum, agreed, reuse, repeats, reports, app)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _reports(path: Path, role: str, table: Mapping[str, Any]) -> Reports:
    if table and role != "bank":
        raise SettingsError(f"{path}: reports: only a bank has an app that reports; this is the {role}'s file")
    if unknown := set(table) - {"messages", "metrics", "hashes"}:
        raise SettingsError(f"{path}: reports: unknown entry {', '.join(sorted(unknown))}")
    named = {name: _names(path, table, name) for name in table}
    reports = Reports(**named)
    for kind in sorted(reports.messages):
        category, dot, action = kind.partition(".")
        if category not in ("evaluate", "query") or (dot and not action.isidentifier()):
            raise SettingsError(
                f"{path}: reports.messages: expected 'evaluate', 'query', 'evaluate.NAME' or 'query.NAME', got "
                f"{kind!r}; what is trained leaves a bank through encrypted rounds only"
            )
    if reserved := (reports.metrics | reports.hashes) & _RESERVED:
        raise SettingsError(f"{path}: reports: {min(reserved)!r} is a word of the protocol: report it under another")
    if both := reports.metrics & reports.hashes:
        raise SettingsError(f"{path}: reports: {min(both)!r} is a number or a hash, not both")
    return reports


def _names(path: Path, table: Mapping[str, Any], name: str) -> frozenset[str]:
    listed = table[name]
    if not isinstance(listed, list) or not all(isinstance(each, str) and each for each in listed):
        raise SettingsError(f"{path}: reports.{name}: expected a list of names, got {listed!r}")
    return frozenset(listed)


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


def _model_repeats(path: Path, value: object) -> int | None:
    if value == FRESH_NOISE:
        return None
    try:
        repeats: int = options.MODEL_REPEATS.of(value)
    except options.Refused:
        expected, got = f"{options.MODEL_REPEATS}, or {FRESH_NOISE!r}", options.shown(value)
        raise SettingsError(f"{path}: model_repeats: expected {expected}, got {got}") from None
    return repeats


def _file(path: Path, fields: Mapping[str, Any], name: str) -> str:
    try:
        return options.FILE.of(_entry(path, fields, name, str))
    except options.Refused as fault:
        raise SettingsError(f"{path}: {name}: {fault}") from None


def _entry(path: Path, fields: Mapping[str, Any], name: str, kind: type) -> Any:
    value = fields.get(name)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        got = "nothing" if value is None else options.shown(value)
        raise SettingsError(f"{path}: {name}: expected {kind.__name__}, got {got}")
    return value
