"""Log every attempt of a request with its cost in an append-only file, and refuse attempts beyond the budget.

The account writes a `sent` line before the first byte of an attempt leaves, a `settled` line once its cost is known,
and an `unsettled` line when its answer does not name the cost. Each line holds the SHA-256 of the line before, so that
a removed or changed line is detected. Lines hold hashes, sizes, model and cost, never contents. (Whoever can guess a
short text can confirm the guess by its hash, so the log must stay at the bank like the data.)

Until an attempt is settled, the budget counts its upper bound: one token per byte of the request plus the whole output
limit. An attempt without an answer (a timeout, a broken connection, a killed process) stays at that bound, because it
may have been billed. An answer with an error status costs nothing.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fl import options
from fl.assist.errors import LogError, PriceMissing, SpendLimitReached
from fl.durable import JsonLines, locked
from fl.errors import OptionError

OVERHEAD_TOKENS = 64  # added per request for framing that the byte count may miss
FIRST = "0" * 64  # the `previous` field of the first line


@dataclass(frozen=True)
class Prices:
    """Money per million tokens, in the currency of the budget."""

    input: Annotated[float, options.PRICE] = 0.0
    output: Annotated[float, options.PRICE] = 0.0

    def __post_init__(self) -> None:
        options.check(self, OptionError, "price: ")


@dataclass(frozen=True)
class SpendingLimits:
    """Budget of all attempts in one log. `cost`: limit in money, which needs prices; None for no such limit."""

    tokens: Annotated[int, options.TOKENS]
    cost: Annotated[float | None, options.COST] = None
    prices: Prices | None = None

    def __post_init__(self) -> None:
        options.check(self, OptionError, "budget: ")
        if self.cost is not None and self.prices is None:
            raise PriceMissing("--max-cost needs prices: give --price-in and --price-out, in money per million tokens")


@dataclass(frozen=True)
class Usage:
    """Tokens of one attempt."""

    input: int
    output: int

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True)
class Spent:
    """Sums over a log. `pending`: attempts that are counted at their upper bound."""

    attempts: int
    pending: int
    tokens: int
    cost: float
    bytes_sent: int


class Account:
    """One log file and its budget. It can be opened again after a crash at any moment."""

    def __init__(self, path: Path, limits: SpendingLimits) -> None:
        self.path = path
        self.limits = limits
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = read_log(path)
        self._lock = threading.Lock()
        self._size = path.stat().st_size if path.exists() else 0
        self._previous = _hash(raw[-1]) if (raw := JsonLines(path).lines()) else FIRST
        self._next = 1 + max((line["attempt"] for line in lines if "attempt" in line), default=0)
        self._open, self._settled = _balance(lines)
        self._attempts = sum(line["event"] == "sent" for line in lines)
        self._bytes = sum(line["bytes"] for line in lines if line["event"] == "sent")

    def cost(self, usage: Usage) -> float:
        """Cost of `usage` in money; 0 without prices."""
        prices = self.limits.prices or Prices()
        return (usage.input * prices.input + usage.output * prices.output) / 1e6

    @property
    def spent(self) -> Spent:
        with self._lock:
            return self._spent()

    def _spent(self) -> Spent:
        usages = [*self._open.values(), *self._settled]
        return Spent(
            attempts=self._attempts,
            pending=len(self._open),
            tokens=sum(usage.total for usage in usages),
            cost=sum(map(self.cost, usages)),
            bytes_sent=self._bytes,
        )

    def send(self, body: bytes, max_output_tokens: int, **about: str | int) -> int:
        """Record that `body` is about to be sent; returns the attempt's number for `settle`.

        Raises `SpendLimitReached` when its upper bound exceeds what is left of the budget; then nothing is recorded.
        """
        bound = Usage(len(body) + OVERHEAD_TOKENS, max_output_tokens)
        with self._lock:
            self._require_within(bound)
            attempt = self._next
            self._append(
                {
                    "event": "sent",
                    "attempt": attempt,
                    "sha256": hashlib.sha256(body).hexdigest(),
                    "bytes": len(body),
                    "bound_input_tokens": bound.input,
                    "bound_output_tokens": bound.output,
                    "bound_cost": self.cost(bound),
                    **about,
                }
            )
            self._next += 1
            self._attempts += 1
            self._bytes += len(body)
            self._open[attempt] = bound
        return attempt

    def require_room(self, body_bytes: int, max_output_tokens: int) -> None:
        """Raise `SpendLimitReached` when a request of this size could not be sent now."""
        with self._lock:
            self._require_within(Usage(body_bytes + OVERHEAD_TOKENS, max_output_tokens))

    def settle(self, attempt: int, usage: Usage, **about: str | int) -> None:
        """Replace the attempt's upper bound by its cost."""
        with self._lock:
            cost = self.cost(usage)
            self._append(
                {
                    "event": "settled",
                    "attempt": attempt,
                    "input_tokens": usage.input,
                    "output_tokens": usage.output,
                    "cost": cost,
                    **about,
                }
            )
            del self._open[attempt]
            self._settled.append(usage)

    def _require_within(self, bound: Usage) -> None:
        spent = self._spent()
        if spent.tokens + bound.total > self.limits.tokens:
            raise SpendLimitReached(
                f"the next request may cost {bound.total} tokens; {spent.tokens} of {self.limits.tokens} are spent "
                f"({self.path}). Nothing was sent: raise --max-tokens, or ask for less at a time"
            )
        if self.limits.cost is not None and spent.cost + self.cost(bound) > self.limits.cost:
            raise SpendLimitReached(
                f"the next request may cost {self.cost(bound):.4f}; {spent.cost:.4f} of {self.limits.cost:.4f} are "
                f"spent ({self.path}). Nothing was sent: raise --max-cost, or ask for less at a time"
            )

    def keep_bound(self, attempt: int, reason: str) -> None:
        """Record why an answered attempt stays at its upper bound."""
        with self._lock:
            self._append({"event": "unsettled", "attempt": attempt, "reason": reason})

    def _append(self, line: dict[str, Any]) -> None:
        stamped = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), **line, "previous": self._previous}
        raw = json.dumps(stamped, separators=(",", ":")).encode()
        with locked(self.path.with_suffix(".lock")):
            if (self.path.stat().st_size if self.path.exists() else 0) != self._size:
                raise LogError(f"{self.path}: another process writes to this log; use another --work folder")
            JsonLines(self.path).append(raw)
            self._size = self.path.stat().st_size
        self._previous = _hash(raw)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; an absent file is an empty log.

    A torn line is left out: a crash ended its write before anything was sent or after its bound was recorded.
    Raises `LogError` when a line does not follow the one before it.
    """
    lines: list[dict[str, Any]] = []
    previous = FIRST
    raw_lines = JsonLines(path).lines()
    for number, raw in enumerate(raw_lines, start=1):
        try:
            line = json.loads(raw)
        except ValueError as fault:
            if number < len(raw_lines) and not _follows(raw_lines[number], raw):
                raise LogError(f"{path}: line {number} is not JSON: the log was damaged or rewritten") from fault
        else:
            if not isinstance(line, dict) or line.get("previous") != previous:
                raise LogError(f"{path}: line {number} does not follow line {number - 1}: the log was rewritten")
            lines.append(line)
        previous = _hash(raw)
    return lines


def _follows(raw: bytes, before: bytes) -> bool:
    try:
        return bool(json.loads(raw).get("previous") == _hash(before))
    except ValueError:
        return False


def _balance(lines: list[dict[str, Any]]) -> tuple[dict[int, Usage], list[Usage]]:
    """(upper bounds of attempts without a settlement, usages of the others)."""
    pending: dict[int, Usage] = {}
    settled: list[Usage] = []
    for line in lines:
        if line["event"] == "sent":
            pending[line["attempt"]] = Usage(line["bound_input_tokens"], line["bound_output_tokens"])
        elif line["event"] == "settled":
            del pending[line["attempt"]]
            settled.append(Usage(line["input_tokens"], line["output_tokens"]))
    return pending, settled


def _hash(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
