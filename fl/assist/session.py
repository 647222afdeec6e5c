"""One session with a provider: from a person's settings to one gateway per bank.

A key in the environment changes nothing: without `provider="openai"` in the settings, no SDK is imported and no
address is resolved. A work folder keeps the log and the cache between processes.

In a deployment a bank has its own gateway. Where this process plays all banks of an experiment, each bank gets a
gateway with its own redactor, and all share provider, budget and cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from fl import options
from fl.assist.account import Account, SpendingLimits, read_log
from fl.assist.cache import Cache
from fl.assist.descriptions import Described, bank_redactor
from fl.assist.errors import AssistError, ScenarioError
from fl.assist.gateway import Gateway
from fl.assist.offline import OfflineProvider
from fl.assist.openai_provider import Emit, OpenAIProvider
from fl.assist.provider import Api, Provider
from fl.assist.redact import MIN_CUSTOMERS, Redactor
from fl.assist.release import Policy
from fl.data.schema import Schema
from fl.errors import OptionError

LEAST_HOLDOUT = 20  # fewest validation rows for a comparison with held-out rows


@dataclass(frozen=True)
class Settings:
    """The settings of a session. `customer_list`: names; () with --no-customer-list; None when neither was given."""

    work: Path
    provider: Literal["offline", "openai"] = "offline"
    model: Annotated[str | None, options.Text("a model's name")] = None
    api: Api = "responses"
    limits: SpendingLimits = SpendingLimits(tokens=100_000)  # noqa: RUF009 - frozen
    timeout_s: Annotated[float, options.TIMEOUT] = 60.0
    max_retries: Annotated[int, options.SDK_RETRIES] = 2
    allow: tuple[str, ...] = ()
    customer_list: tuple[str, ...] | None = field(default=None, repr=False)
    min_customers: Annotated[int, options.MIN_CUSTOMERS] = MIN_CUSTOMERS
    ask_again: bool = False
    dry_run: Emit | None = None
    seed: Annotated[int, options.SEED] = 0

    def __post_init__(self) -> None:
        options.check(self, OptionError)


class Session:
    """Provider, policy and cache of one session. The constructor raises what the provider's constructor raises."""

    def __init__(self, settings: Settings, schema: Schema, *, with_label: bool = False) -> None:
        self.settings = settings
        self.provider: Provider
        self._cache: Cache | None = None
        if settings.provider == "offline":
            self.provider = OfflineProvider(settings.seed)
            self.policy = Policy.nothing_leaves(schema)
            return
        self.provider = open_openai(settings)
        self.policy = Policy.of(schema, settings.allow, with_label=with_label)
        self._cache = Cache(cache_folder(settings.work), ask_again=settings.ask_again)

    def gateway(self, redactor: Redactor) -> Gateway:
        """A gateway that redacts with `redactor`."""
        return Gateway(self.provider, self.policy, redactor, self._cache)

    def redactors(self, described: Described) -> list[Redactor]:
        """One redactor per bank with its own customers and words, in the banks' order."""
        settings = self.settings
        return [
            bank_redactor(described, rows, held, settings.customer_list, settings.min_customers)
            for _, rows, held in described.source.banks
        ]


def open_openai(settings: Settings) -> OpenAIProvider:
    """The openai provider of `settings`. Raises `ScenarioError` without a model."""
    if not settings.model:
        raise ScenarioError("the provider openai needs a model: give --model NAME; there is no default")
    return OpenAIProvider(
        settings.model,
        Account(log_file(settings.work), settings.limits),
        api=settings.api,
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
        dry_run=settings.dry_run,
    )


def log_file(work: Path) -> Path:
    return work / "gateway.jsonl"


def cache_folder(work: Path) -> Path:
    return work / "cache"


def status(work: Path) -> dict[str, Any]:
    """Sums over the log of a work folder, whose chain of hashes is checked. Raises `LogError`."""
    path = log_file(work)
    lines = read_log(path)
    account = Account(path, SpendingLimits(tokens=0)) if path.exists() else None
    spent = None if account is None else account.spent
    sent = [line for line in lines if line["event"] == "sent"]
    settled = {line["attempt"]: line for line in lines if line["event"] == "settled"}
    unsettled = sum(line["event"] == "unsettled" for line in lines)
    cost = [settled[s["attempt"]]["cost"] if s["attempt"] in settled else s["bound_cost"] for s in sent]
    return {
        "log": str(path),
        "attempts": 0 if spent is None else spent.attempts,
        "without_answer": 0 if spent is None else spent.pending - unsettled,
        "answered_without_usage": unsettled,  # counted at their upper bound, like those without an answer
        "tokens": 0 if spent is None else spent.tokens,
        "cost": float(np.sum(cost)),
        "bytes_sent": 0 if spent is None else spent.bytes_sent,
        "models": sorted({str(line["model"]) for line in sent if "model" in line}),
        "endpoints": sorted({str(line["endpoint"]) for line in sent if "endpoint" in line}),
        "first": sent[0]["time"] if sent else None,
        "last": sent[-1]["time"] if sent else None,
        "chain": "every line follows the one before it",
    }


def read_customer_list(path: Path) -> tuple[str, ...]:
    """Names, one per line. Raises `AssistError` for a file without names."""
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as fault:
        raise AssistError(f"{path}: cannot read the customer list: {fault}") from fault
    if not names:
        raise AssistError(f"{path}: expected one customer's name per line, got none")
    return names


def union(redactors: Sequence[Redactor]) -> Redactor:
    """One redactor with the identifiers of all banks. A word is common only if it is common at every bank."""
    return Redactor(
        frozenset().union(*(r.names for r in redactors)),
        frozenset().union(*(r.full_names for r in redactors)),
        frozenset().union(*(r.identifiers for r in redactors)),
        frozenset.intersection(*(r.common for r in redactors)),
        all(r.has_customer_list for r in redactors),
    )
