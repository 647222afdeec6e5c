"""Guess the role of every column, each with its reason and, where there is one, an alternative.

The order of the questions matters: a column that is the label in disguise, a copy of time or a row number is no party
and no input, whatever its name says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.data.drafting import names
from fl.data.drafting.derivations import Suggestion, suggest_derived
from fl.data.drafting.looks import NO, YES, Look
from fl.data.drafting.suspects import copies_time, gives_away, numbers_rows
from fl.data.schema import DAY_US, MICROSECONDS, TimeUnit
from fl.errors import SchemaError

LEAST_PARTIES = 25  # a column with fewer identifiers is a category
FEWEST_IDS = 100  # of a party that only its cells suggest
MOST_BANKS = 64
SINGLE_ROWS = "no value repeats: it numbers the rows"
IN_COMMON = 0.1  # of the terminals: seen by two banks or two customers
UNIT_NAMES: tuple[tuple[str, TimeUnit], ...] = (
    ("hour", "hours"),
    ("step", "hours"),
    ("min", "minutes"),
    ("day", "days"),
    ("sec", "seconds"),
    ("time", "seconds"),
)
PARTS: dict[str, tuple[str, ...]] = {  # what a column that divides the rows says, in small letters
    "train": ("train", "training", "trn", "tr", "learn", "fit", "build"),
    "validation": ("valid", "validation", "val", "dev", "tune"),
    "test": ("test", "testing", "tst", "te", "holdout", "oot", "eval", "evaluation", "out of time"),
}


@dataclass(frozen=True)
class Guess:
    """A column's role. other: what it may be instead, as a person would write it; empty where nothing is likely."""

    look: Look
    reason: str
    other: str = ""

    @property
    def column(self) -> str:
        return self.look.name


@dataclass(frozen=True)
class Guesses:
    """The role of every column of a file. `inputs`: the columns left for features, in the order of the file."""

    label: Guess
    dropped: tuple[str, ...]  # cells of the label that are neither fraud nor genuine
    time: Guess | None
    unit: TimeUnit | None  # of `time`
    known: Guess | None  # when a fraud was labelled
    amount: Guess | None
    parties: dict[str, Guess]
    shared: str | None  # why the terminal is shared; None where it is not
    bank: Guess | None
    marker: Guess | None  # divides the rows into training and test
    inputs: tuple[Look, ...]
    never: tuple[Guess, ...]
    disguised: tuple[Guess, ...]  # that may be the label: of `never`, or the amount
    derived: tuple[Suggestion, ...]  # lines for [derived]
    span_us: int | None  # between the first and the last row of the sample; None where time measures no days
    instants: NDArray[np.int64] | None = field(repr=False)

    @property
    def days(self) -> float | None:
        return None if self.span_us is None else self.span_us / DAY_US


def guess(path: Path, looks: Sequence[Look], asked: str | None) -> Guesses:
    """The roles of the columns. `asked`: the label's name. Raises `SchemaError` where no label is found."""
    label = _label(path, looks, asked)
    dropped = tuple(word for word in label.look.words if word.lower() not in YES + NO) + label.look.absent
    fraud = _frauds(label.look)
    left = [look for look in looks if look is not label.look]
    marker = _marker(left)
    time = _time([look for look in left if marker is None or look is not marker.look])
    unit = None if time is None else _unit(time.look)
    instants, span = _instants(time, unit)
    taken = {guess.column for guess in (label, marker, time) if guess is not None}
    never: dict[str, Guess] = {}
    disguised, known = [], None
    for look in left:
        if look.name in taken:
            continue
        reason = gives_away(look, label.column, fraud)
        if reason is not None and look.moment is not None and look.empties and names.KNOWN.search(look.name):
            known = Guess(look, "a date that only some rows have, with a name that speaks of the label")
        if reason is not None:
            disguised.append(Guess(look, reason, "an input, if its value is known at the time of the transaction"))
            if not _is_plain_amount(look):
                never[look.name] = disguised[-1]
        elif (plain := _why_never(look, instants)) is not None:
            never[look.name] = plain
    amount = _amount([look for look in left if look.name not in taken | set(never)])
    taken |= set() if amount is None else {amount.column}
    hidden = {guess.column for guess in disguised}
    free = [look for look in left if look.name not in taken | hidden]
    bank = _bank([look for look in free if look.name not in never])
    free = [look for look in free if bank is None or look is not bank.look]
    # An identifier that never repeats may still be a party, as the payer of a single transfer is.
    parties = _parties([look for look in free if look.name not in never or never[look.name].reason == SINGLE_ROWS])
    roles = taken | {guess.column for guess in (bank, *parties.values()) if guess is not None}
    never = {name: each for name, each in never.items() if name not in roles}
    derived = suggest_derived(
        [look for look in left if look.name not in hidden and _may_derive(look, never, roles)],
        None if time is None else time.look,
        None if amount is None else amount.look,
    )
    # A second date is read where a difference is made of it.
    never = {name: each for name, each in never.items() if not _is_derived_from(name, derived)}
    used = {name for each in derived if each.sure for name in each.sources}
    return Guesses(
        label=label,
        dropped=dropped,
        time=time,
        unit=unit,
        known=known,
        amount=amount,
        parties=parties,
        shared=_shared(parties, bank),
        bank=bank,
        marker=marker,
        inputs=tuple(
            look for look in left if look.name not in roles | set(never) and not (look.moment and look.name in used)
        ),
        never=tuple(never.values()),
        disguised=tuple(disguised),
        derived=derived,
        span_us=span,
        instants=instants,
    )


def _may_derive(look: Look, never: dict[str, Guess], roles: set[str]) -> bool:
    """Whether a derived column may be made of it: an input, a second date, or the amount and the time themselves."""
    if look.name in never:
        return look.moment is not None
    return look.name not in roles or look.numbers is not None


def _is_derived_from(name: str, derived: Sequence[Suggestion]) -> bool:
    return any(name in each.sources for each in derived if each.sure)


def _label(path: Path, looks: Sequence[Look], asked: str | None) -> Guess:
    by_name = {look.name: look for look in looks}
    if asked is not None and asked not in by_name:
        raise SchemaError(f"{path}: expected the label column {asked!r}, got columns {list(by_name)}")
    named = [look for look in looks if look.is_answer and names.LABEL.search(look.name)]
    if asked is None and not named:
        raise SchemaError(f"{path}: expected a label column with two values, got none; name it with --label COLUMN")

    def doubt(look: Look) -> tuple[bool, bool]:
        return bool({"flag", "flagged"} & set(names.words_of(look.name))), len(look.words) > 2

    look = by_name[asked] if asked else min(named, key=doubt)
    if not look.is_answer:
        raise SchemaError(f"{path}: label {look.name!r}: expected yes/no values, got {list(look.words[:5])}")
    others = [other.name for other in named if other is not look]
    reason = "as asked" if asked else "its name, and that its words mean yes and no"
    return Guess(look, reason, _one_of(others))


def _one_of(others: Sequence[str]) -> str:
    return "" if not others else others[0] if len(others) == 1 else f"one of {', '.join(others)}"


def _frauds(label: Look) -> NDArray[np.int8]:
    """int8[n] of the sample: 1 fraud, 0 genuine, -1 neither."""
    meaning = {word: 1 if word.lower() in YES else 0 if word.lower() in NO else -1 for word in label.words}
    return np.array([meaning.get(value, -1) for value in label.values], np.int8)


def _marker(looks: Sequence[Look]) -> Guess | None:
    every = {word for words in PARTS.values() for word in words}
    for look in looks:
        found = {word.lower() for word in look.words}
        divides = look.complete and not look.empties and 2 <= len(found) <= 4 and found <= every
        if divides and found & set(PARTS["test"]) and found & set(PARTS["train"]):
            return Guess(look, "its words name parts of the data", "remove [split] column to split by time instead")
    return None


def part_words(marker: Look) -> dict[str, list[str]]:
    """The words of each part, as the file writes them."""
    return {part: [word for word in marker.words if word.lower() in words] for part, words in PARTS.items()}


def _time(looks: Sequence[Look]) -> Guess | None:
    dated = [look for look in looks if look.moment is not None and not look.empties]
    dated = [look for look in dated if not names.NOT_THE_TIME.search(look.name)] or dated

    def fit(look: Look) -> tuple[bool, bool, bool, bool]:
        assert look.moment is not None
        has_clock = bool((look.moment.instants % DAY_US != 0).any())
        return bool(names.TIME.search(look.name)), has_clock, look.moment.ascends, look.moment.origin is None

    if dated:
        best = max(dated, key=fit)
        others = [look.name for look in dated if look is not best]
        return Guess(best, "its cells are dates", _one_of(others))
    ascending = [look for look in looks if names.TIME.search(look.name) and look.is_ascending and len(look.words) > 1]
    ascending = [look for look in ascending if not names.SPAN.search(look.name.lower())]
    return Guess(ascending[0], "it ascends, and its name speaks of time") if ascending else None


def _unit(time: Look) -> TimeUnit:
    if time.moment is not None:
        return time.moment.unit
    return next((unit for part, unit in UNIT_NAMES if part in time.name.lower()), "order")


def _instants(time: Guess | None, unit: TimeUnit | None) -> tuple[NDArray[np.int64] | None, int | None]:
    """(instants of the sample's rows, their span in microseconds); the span is None where time measures no days."""
    if time is None:
        return None, None
    if time.look.moment is not None:
        instants = time.look.moment.instants
    else:
        assert time.look.numbers is not None and unit is not None
        instants = np.rint(time.look.numbers * MICROSECONDS.get(unit, 1)).astype(np.int64)
    return instants, None if unit == "order" else int(instants.max() - instants.min())


def _why_never(look: Look, instants: NDArray[np.int64] | None) -> Guess | None:
    if len(look.words) <= 1 and not (look.words and look.absent):
        return Guess(look, f"it has one value in {look.rows} rows")
    if look.moment is not None and not (look.numbers is not None and look.moment.format):
        return Guess(look, "it is a second date", "the [time] column")
    if copies_time(look, instants):
        return Guess(look, "it ascends with the time: the time in another form, or a running number")
    if not look.is_text and numbers_rows(look):
        return Guess(look, SINGLE_ROWS, "a party in [parties], if it is an identifier")
    if look.numbers is None and not look.is_text and not look.complete:
        return Guess(look, "more words than a category has", "a party in [parties], or a [[categorical]] column")
    return None


def _is_plain_amount(look: Look) -> bool:
    """The amount of a transaction is known when it happens, however well it tells frauds; its name must say it."""
    return bool(names.AMOUNT.search(look.name)) and not names.GIVEAWAY.search(look.name) and _fits_amount(look)


def _fits_amount(look: Look) -> bool:
    figure = set(names.words_of(look.name)) & (names.FIGURE_WORDS - {"amount", "amt", "total", "sum"})
    spanned = any(names.SPAN.fullmatch(word) for word in names.words_of(look.name))
    return look.numbers is not None and not look.empties and not figure and not spanned and len(look.words) > 20


def _amount(looks: Sequence[Look]) -> Guess | None:
    for pattern in (names.AMOUNT, names.LESSER_AMOUNT):
        named = [look for look in looks if pattern.search(look.name) and _fits_amount(look)]
        if named:
            others = [look.name for look in named[1:]]
            return Guess(named[0], "its name, and that it is a number", _one_of(others))
    return None


def _bank(looks: Sequence[Look]) -> Guess | None:
    ranked = [
        (rank, position, look)
        for position, look in enumerate(looks)
        if (rank := names.rank_as_bank(look.name)) is not None
        and look.complete
        and 2 <= len(look.words) <= MOST_BANKS
        and not look.empties
        and look.is_whole
        and not names.is_figure(look.name)
    ]
    if not ranked:
        return None
    best = min(ranked)[2]
    others = [look.name for _, _, look in sorted(ranked, key=lambda each: each[:2]) if look is not best]
    return Guess(best, f"its name, and that it has {len(best.words)} words", _one_of(others))


def _parties(looks: Sequence[Look]) -> dict[str, Guess]:
    """Who pays and where, by name, else by what identifiers look like; further kinds by name alone."""
    found: dict[str, Guess] = {}

    def taken() -> set[str]:
        return {guess.column for guess in found.values()}

    by_name = "its name, and that it has many identifiers"
    for role, pattern in (("customer", names.CUSTOMER), ("terminal", names.TERMINAL)):
        fits = [look for look in looks if names.could_name(pattern, look.name) and _could_be_party(look)]
        fits = [look for look in fits if look.name not in taken()]
        if fits:
            others = [look.name for look in fits[1:]]
            found[role] = Guess(fits[0], by_name, _one_of(others))
    for role, pattern in (("merchant", names.MERCHANT), ("device", names.DEVICE)):
        further = [look for look in looks if names.could_name(pattern, look.name) and look.name not in taken()]
        further = [look for look in further if _could_be_party(look)]
        if further and "terminal" in found:
            found[role] = Guess(further[0], by_name, "a [[categorical]] column")
    for role in ("customer", "terminal"):
        alike = [look for look in looks if look.name not in taken() and _is_identifier(look)]
        if role not in found and alike:
            most = max(alike, key=lambda look: len(look.words))
            reason = f"its cells look like identifiers: {len(most.words)} of them in {most.rows} rows"
            found[role] = Guess(most, reason, "a [[categorical]] column")
    return found


def _could_be_party(look: Look) -> bool:
    """Identifiers: many, none empty, whole numbers or words."""
    many = len(look.words) >= LEAST_PARTIES or not look.complete
    return look.is_whole and not look.empties and many and not look.is_text and look.moment is None


def _is_identifier(look: Look) -> bool:
    """Whether cells alone look like identifiers: many, repeating, and with digits that order nothing."""
    if not _could_be_party(look) or not look.repeats or not look.complete or names.is_figure(look.name):
        return False
    if not FEWEST_IDS <= len(look.words) <= look.rows / 2 or look.is_ascending:
        return False
    words = set(names.words_of(look.name))
    if look.numbers is not None:
        return bool(words & (names.ID_WORDS - {"num", "number", "no", "code"}))
    coded = np.mean([any(letter.isdigit() for letter in word) and " " not in word for word in look.words[:1000]])
    return bool(coded > 0.9) and not words & names.DESCRIPTION_WORDS


def _shared(parties: dict[str, Guess], bank: Guess | None) -> str | None:
    """Why banks have terminals in common; None where they have not."""
    if "terminal" not in parties:
        return None
    other = bank if bank is not None else parties.get("customer")
    if other is None:
        return None
    terminals, owners = parties["terminal"].look.values, other.look.values
    pairs = set(zip(terminals.tolist(), owners.tolist(), strict=True))
    seen: dict[str, int] = {}
    for terminal, _ in pairs:
        seen[terminal] = seen.get(terminal, 0) + 1
    several = sum(count > 1 for count in seen.values()) / len(seen)
    who = "banks" if bank is not None else "customers"
    if several < IN_COMMON:
        return None
    return f"{100 * several:.0f} % of the terminals in the sample serve several {who}"
