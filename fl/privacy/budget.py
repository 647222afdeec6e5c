"""One lifelong privacy ledger per bank: a file with everything it spent. A spend beyond the limit is refused.

What it does: `BudgetLedger` remembers every release of a bank in a JSON file, and `read_ledger` reads one without
touching anything.

Ordering rule: the spend is on disk, synced, before the first gradient is computed or anything with its noise leaves the
bank. A crash can therefore count steps that were never taken and cannot forget one that was.

The file begins with the first spend, so that a run that was refused leaves none behind: its limit and delta are those
of the run that spent first, and hold for life. Whatever is read is checked as if a stranger had written it: a limit
that is no number would let everything pass, since no total is larger than NaN.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fl import options
from fl.durable import file_name, locked, replace_durably
from fl.errors import BudgetError, BudgetExhausted, BudgetLedgerError
from fl.privacy.accounting import Accountant, Reckoned, epsilon, reckoned
from fl.privacy.mechanisms import (
    ALL_UNITS,
    ClientRounds,
    Entry,
    LaplaceCounts,
    Mechanism,
    NoisyCounts,
    SharedSteps,
    units_of,
)

LEDGER_FORMAT = "fl privacy ledger 2"
MOST_BYTES = 2**26  # of a ledger's file: some 200,000 releases
MOST_ROUNDS = 10**9


@dataclass(frozen=True)
class Spend:
    """One line of a ledger: what was released, and the run and round it was recorded for (0: statistics).

    `bound_to`: the hash of the very integers that this line pays for, where they outlive a crash: shared counts. Noise
    of training is never kept, so that its lines pay for whatever was drawn next and for nothing else.
    """

    mechanism: Entry
    run: str
    round: int
    recorded: str  # UTC, ISO 8601; nothing is decided by it
    bound_to: str | None = None


@dataclass(frozen=True)
class Book:
    """What a ledger's file says."""

    epsilon_limit: float
    delta: float
    spends: tuple[Spend, ...] = ()


class BudgetLedger:
    """The lifelong privacy ledger of one bank: a JSON file that only this bank's process writes.

    The file holds the bank's limit, fixed by its first spend, and every spend since. It is replaced atomically and
    synced, under a lock, so that neither a crash nor two runs at once lose a line; reading needs no lock. Restoring an
    old copy of the file is noticed only by a run that has finished more than the copy says.
    """

    def __init__(self, path: Path, bank: str, epsilon_limit: float, delta: float) -> None:
        """Open the ledger at `path`, which `spend` makes where there is none yet; nothing is written here.

        Raises `BudgetError` for an impossible limit or delta, and when the file exists with another delta or a lower
        limit; `BudgetLedgerError` when it cannot be trusted.
        """
        self.path = path
        self.bank = bank
        self.epsilon_limit, self.delta = require_budget(epsilon_limit, delta)
        self._book()

    def history(self) -> list[Entry]:
        """Every mechanism recorded so far, by any run."""
        return [spend.mechanism for spend in self.spends()]

    def spends(self) -> list[Spend]:
        """Every line of the ledger, oldest first. Raises `BudgetLedgerError` when the file is damaged."""
        return list(self._book().spends)

    def reckoned(self) -> Reckoned:
        """Epsilon of everything ever recorded, at this ledger's delta, and the accountant that counted it."""
        return reckoned(self.history(), self.delta)

    def spent(self, accountant: Accountant = "prv") -> float:
        """Epsilon of everything ever recorded, at this ledger's delta."""
        return epsilon(self.history(), self.delta, accountant)

    def require_room(self, mechanism: Entry, *, round_number: int) -> None:
        """Raise `BudgetExhausted` when `spend` would refuse `mechanism` now; writes nothing."""
        self._require_room(self._book(), mechanism, round_number)

    def spend(self, mechanism: Entry, *, run: str, round_number: int, bound_to: str | None = None) -> None:
        """Record `mechanism` durably.

        Call this before the first gradient of the mechanism is computed, and before anything that carries its noise
        leaves the bank.

        Raises `BudgetExhausted`, with the ledger unchanged, when the total would exceed the limit this
        ledger was opened with.
        """
        with locked(self.path.with_suffix(".lock")):
            book = self._book()
            self._require_room(book, mechanism, round_number)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            self._write(book, Spend(mechanism, run, round_number, now, bound_to))

    def _book(self) -> Book:
        """What the file says, and that it allows this run its limit and delta; an empty book before the first spend."""
        if not _is_there(self.path):
            return Book(self.epsilon_limit, self.delta)
        book = read_ledger(self.path, self.bank)
        if book.delta != self.delta:
            raise BudgetError(
                f"{self.path}: this ledger counts at delta {book.delta}, the run asks for {self.delta}: use "
                f"--delta {book.delta}"
            )
        if not self.epsilon_limit <= book.epsilon_limit:
            raise BudgetError(
                f"{self.path}: {self.bank} allows epsilon {book.epsilon_limit} for the life of its data, the run asks "
                f"for {self.epsilon_limit}: lower "
                '--epsilon, or let the bank raise "epsilon_limit" in that file itself'
            )
        return book

    def _require_room(self, book: Book, mechanism: Entry, round_number: int) -> None:
        total = epsilon([*(s.mechanism for s in book.spends), mechanism], self.delta)
        if not total <= self.epsilon_limit:
            raise BudgetExhausted(
                f"{self.bank}: round {round_number} would bring epsilon to {total:.3f}, the limit is "
                f"{self.epsilon_limit} (delta "
                f"{self.delta}, {units_of([mechanism])}); nothing was trained. {self.path} lists what was spent."
            )

    def _write(self, book: Book, last: Spend) -> None:
        spends = [*book.spends, last]
        content = {
            "format": LEDGER_FORMAT,
            "bank": self.bank,
            "unit": units_of(spend.mechanism for spend in spends),
            "epsilon_limit": book.epsilon_limit,
            "delta": self.delta,
            "spent": [_line(spend) for spend in spends],
        }
        replace_durably(self.path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def require_budget(epsilon_limit: object, delta: object) -> tuple[float, float]:
    """Both as numbers that a budget can have. Raises `BudgetError` naming the one that it cannot."""
    return _number("epsilon", options.EPSILON, epsilon_limit), _number("delta", options.DELTA, delta)


def ledger_path(folder: Path, bank: str) -> Path:
    """Where `bank`'s ledger lies in `folder`."""
    return folder / f"{file_name(bank)}.json"


def read_ledger(path: Path, bank: str) -> Book:
    """What the ledger of `bank` at `path` says; nothing is written, no lock is taken.

    Raises `BudgetLedgerError` for anything unexpected: a ledger is never repaired by guessing.
    """
    try:
        content = _parsed(_bytes_of(path))
        if content["format"] != LEDGER_FORMAT or content["unit"] not in ALL_UNITS:
            raise BudgetLedgerError(
                f"{path}: expected format {LEDGER_FORMAT!r} and a known unit, got "
                f"{content['format']!r}, {content['unit']!r}"
            )
        if content["bank"] != bank:
            raise BudgetLedgerError(f"{path} belongs to {content['bank']!r}, not to {bank!r}")
        if not isinstance(content["spent"], list):
            raise TypeError(f'"spent": expected a list, got {type(content["spent"]).__name__}')
        spends = tuple(_spend_of(line) for line in content["spent"])
        limit, delta = content["epsilon_limit"], content["delta"]
    except (ValueError, KeyError, TypeError, RecursionError, BudgetError) as fault:
        raise BudgetLedgerError(
            f"{path} is no ledger this program wrote ({type(fault).__name__}: {fault}); restore "
            "it from the bank's backup: without it nobody knows what was spent"
        ) from fault
    try:
        return Book(*require_budget(limit, delta), spends)
    except BudgetError as fault:
        raise BudgetLedgerError(
            f"{path}: {fault}. No run can be held to that. The {len(spends)} releases in this file stand: let the "
            'bank itself write the "epsilon_limit" and "delta" that it means; what was spent is counted anew at them'
        ) from fault


def _is_there(path: Path) -> bool:
    """Whether there is a file; a link that leads nowhere counts, so that it is refused and not replaced."""
    return path.exists() or path.is_symlink()


def _bytes_of(path: Path) -> bytes:
    # The file is replaced at every spend, and a link would be what is replaced: its target, which another run may
    # share, would never hear of the spend.
    if path.is_symlink() or not path.is_file():
        raise BudgetLedgerError(
            f"{path}: expected a file of its own, got a link or something else; put the ledger itself there"
        )
    with path.open("rb") as file:
        if file.seek(0, 2) > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        file.seek(0)
        return file.read()


def _parsed(raw: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise ValueError(f"a key stands there twice: {sorted(name for name, _ in pairs)}")
        return fields

    content = json.loads(raw.decode("utf-8"), object_pairs_hook=once)
    if not isinstance(content, dict):
        raise TypeError(f"expected an object, got {type(content).__name__}")
    return content


def _spend_of(line: Any) -> Spend:
    """A line of the file. Raises what `read_ledger` turns into a `BudgetLedgerError`."""
    if not isinstance(line, dict) or not isinstance(line["mechanism"], dict):
        raise TypeError(f'a line of "spent": expected an object with its mechanism, got {line!r:.60}')
    kind: Callable[..., Entry] = _KINDS[line["kind"]]
    entry = kind(**line["mechanism"])
    if line["unit"] != units_of([entry]):
        raise ValueError(f"a line of {line['kind']!r} in the unit {line['unit']!r}")
    number = options.Whole(0, MOST_ROUNDS).of(line["round"])
    bound_to = line.get("bound_to")
    texts = (line["run"], line["recorded"]) if bound_to is None else (line["run"], line["recorded"], bound_to)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a line's run, time and hash: expected texts, got {texts!r:.60}")
    return Spend(entry, line["run"], number, line["recorded"], bound_to)


def _line(spend: Spend) -> dict[str, Any]:
    line = {"kind": _NAMES[type(spend.mechanism)], "unit": units_of([spend.mechanism]), **asdict(spend)}
    return {name: value for name, value in line.items() if name != "bound_to" or value is not None}


def _number(name: str, option: options.Real, value: object) -> float:
    try:
        return option.of(value)
    except options.Refused as fault:
        raise BudgetError(f"{name}: {fault}") from None


_KINDS: dict[str, type[Entry]] = {
    "training steps": Mechanism,
    "shared steps": SharedSteps,
    "shared counts": NoisyCounts,
    "shared counts under Laplace noise": LaplaceCounts,
    "client rounds": ClientRounds,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
