"""Write guesses as a schema file, with the reason beside each and alternatives as comments that can be uncommented.

Scaling constants are left to the banks, which compute them together (`fl.data.constants`). What stands beside them as
a comment, and every vocabulary, are statistics of the data, until a person replaces them by public ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from fl.data.drafting import names
from fl.data.drafting.guesses import Guess, Guesses, part_words
from fl.data.drafting.looks import NO, YES, Look
from fl.data.schema import MINUTE_US, LabelColumn
from fl.data.signed_log import signed_log1p
from fl.toml import literal

LISTED_WORDS = 64  # a category with more words is hashed
CODED_WORDS = 24  # whole numbers with no more values than this are a category if their name speaks of a code
RARE_WORDS = 5  # rows of the sample below which a word is not listed, where there are many words
HASHED = (64, 256)  # fewest and most columns of a hashed category
WINDOWS_DAYS, WINDOWS_MINUTES = (1, 7, 30), (10, 60, 360)
HOURS_BELOW_DAYS = 2.0  # data that span less are data of hours
DELAYS = ((28.0, 7), (8.0, 1))  # a file that spans so many days is drafted with that label delay
TEST_FRACTION, TRAIN_FRACTION = 0.3, 0.7
NORMAL_IQR = 1.349  # interquartile range of a normal law in standard deviations
COMPUTED = 'constants = "shared"  # all banks compute them together in one secure round; "bank": each its own\n'


def head(name: str, written: str, rows: int, sampled: int, warnings: Sequence[str]) -> str:
    """What was detected, what was looked at, and what must be read before the draft is used."""
    lines = [
        f"Drafted from {plain(name)}. Detected: {written}.",
        f"{rows} rows, of which {sampled}, evenly spread, were looked at closely. All entries are guesses:",
        "correct them, then check with: python -m demos schema --check THIS.toml FILE",
        *(f"WARNING: {plain(each)}" for each in warnings),
    ]
    return "".join(f"# {line}\n" for line in lines)


def sections(guesses: Guesses) -> Iterable[str]:
    """The tables of the file. Every column is in exactly one of them."""
    delay = delay_days(guesses)
    yield _label(guesses, delay)
    if guesses.dropped:
        yield _drop(guesses)
    if guesses.time is not None:
        yield _time(guesses)
    if guesses.amount is not None:
        yield _amount(guesses.amount)
    yield _parties(guesses)
    if guesses.bank is not None:
        note = _note(guesses.bank)
        yield f"[partition]  # {note}\ncolumn = {literal(guesses.bank.column)}\n\n"
    for look in guesses.inputs:
        yield _input(look)
    if guesses.derived:
        yield _derived(guesses)
    yield _never(guesses.never)
    yield _windows(guesses)
    yield _split(guesses, delay)


def plain(text: str) -> str:
    """For a comment: no control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)


def delay_days(guesses: Guesses) -> int:
    """Days until a label is known, as far as the file is long enough to leave some out."""
    days = guesses.days
    return 0 if days is None else next((delay for least, delay in DELAYS if days >= least), 0)


def _no_days(guesses: Guesses) -> str:
    return "no column holds a time" if guesses.time is None else "the time is an order and measures no days"


def _note(guess: Guess) -> str:
    return plain(guess.reason + (f"; or {guess.other}" if guess.other else ""))


def _label(guesses: Guesses, delay: int) -> str:
    label = guesses.label
    why = f"the file spans {guesses.days:.1f} days" if guesses.days is not None else _no_days(guesses)
    positive = [w for w in label.look.words if w.lower() in YES and w not in LabelColumn.positive]
    negative = [w for w in label.look.words if w.lower() in NO and w not in LabelColumn.negative]
    lines = [f"[label]  # {_note(label)}\ncolumn = {literal(label.column)}\n"]
    lines.append(f"delay_days = {delay}  # days until a fraud is known, a guess: {why}\n")
    if positive or negative:
        lines.append(f"positive = {literal([*positive, *LabelColumn.positive])}\n")
        lines.append(f"negative = {literal([*negative, *LabelColumn.negative])}\n")
    if guesses.known is not None:
        lines.append(f"# known = {literal(guesses.known.column)}  # {guesses.known.reason}\n")
    return "".join(lines) + "\n"


def _drop(guesses: Guesses) -> str:
    words = ", ".join(repr(plain(word)) for word in guesses.dropped)
    return (
        f"[drop]  # rows whose label is {words}: neither fraud nor genuine, so that nothing can be learnt from them.\n"
        "# Or list such a word in [label] positive or negative, if it means one of them.\n"
        f"{literal(guesses.label.column)} = {literal(list(guesses.dropped))}\n\n"
    )


def _time(guesses: Guesses) -> str:
    time, unit = guesses.time, guesses.unit
    assert time is not None and unit is not None
    moment = time.look.moment
    if moment is None:
        reason = (
            "it ascends; if it measures time, replace order by seconds, minutes, hours or days"
            if unit == "order"
            else f"it ascends, and its name suggests {unit}; if 0 is a date, add origin = 2024-01-31"
        )
        return f'[time]  # {reason}\ncolumn = {literal(time.column)}\nunit = "{unit}"\n\n'
    lines = [f'[time]  # {_note(time)}\ncolumn = {literal(time.column)}\nunit = "{unit}"\n']
    if moment.origin is not None:
        lines.append(f"origin = {moment.origin.isoformat()}  # its numbers count {unit} from that day\n")
    if moment.format is not None:
        others = f"; {' and '.join(map(plain, moment.others[:3]))} would fit too" if moment.others else ""
        lines.append(f"format = {literal(moment.format)}  # reads every cell of the sample{others}\n")
    return "".join(lines) + "\n"


def _amount(amount: Guess) -> str:
    numbers = amount.look.numbers
    assert numbers is not None
    typical = _digits(float(np.median(np.abs(numbers))), 1)
    logs = signed_log1p(numbers)
    return (
        f"[amount]  # {_note(amount)}\ncolumn = {literal(amount.column)}\n"
        f"{COMPUTED}# or public figures, such as typical = {typical!r} and spread = {_spread(logs)!r} (log)\n\n"
    )


def _parties(guesses: Guesses) -> str:
    lines = ["[parties]  # who pays, and where\n"]
    for role in ("customer", "terminal"):
        guess = guesses.parties.get(role)
        if guess is None:
            lines.append(f'# {role} = "..."  # none recognised\n')
            continue
        lines.append(f"{role} = {literal(guess.column)}  # {_note(guess)}\n")
        if (usual := _per_day(guess.look, guesses.days)) is not None:
            lines.append(f"{role}_per_day = {usual!r}  # transactions of one {role}, from the file, to one digit\n")
    for role in ("merchant", "device"):
        if role in guesses.parties:
            lines.append(f"{role} = {literal(guesses.parties[role].column)}  # {_note(guesses.parties[role])}\n")
    if guesses.shared is not None:
        days = guesses.days is not None and guesses.days >= HOURS_BELOW_DAYS
        lines.append(f'{"" if days else "# "}shared = ["terminal"]  # {guesses.shared}; remove it to share no counts\n')
    elif "terminal" in guesses.parties:
        lines.append('# shared = ["terminal"]  # if banks have terminals in common; the sample does not show it\n')
    return "".join(lines) + "\n"


def _per_day(party: Look, days: float | None) -> float | None:
    if days is None or not party.complete or days <= 0 or not party.words:
        return None
    return _digits(party.rows / len(party.words) / max(days, 1.0), 1) or None


def _input(look: Look) -> str:
    name = literal(look.name)
    if look.numbers is not None and not _is_code(look):
        return _numeric(look)
    if look.is_text:
        return f"[[text]]  # several words per cell; a feature with use = true\ncolumn = {name}\nuse = false\n\n"
    words = _listed(look)
    if len(words) <= LISTED_WORDS:
        rare = len(look.words) - len(words)
        note = f"{len(look.words)} words" + (f", of which {rare} are too rare to list" if rare else "")
        other = "; or [[numeric]]" if look.numbers is not None else "; or hash_width = 64 instead of a list"
        return (
            f"[[categorical]]  # {note}; others become all zeros. This list must be public{other}\n"
            f"column = {name}\nvocabulary = {literal(words)}\n\n"
        )
    width = int(np.clip(2 ** int(np.ceil(np.log2(len(look.words) / 4))), *HASHED))
    return (
        f"[[categorical]]  # {len(look.words)} words: too many to list; or a party, if they are identifiers\n"
        f"column = {name}\nhash_width = {width}\n\n"
    )


def _is_code(look: Look) -> bool:
    """Whole numbers that name something: few of them, or a name that speaks of a code."""
    if look.numbers is None or not look.is_whole or not look.complete or names.is_figure(look.name):
        return False
    return 3 <= len(look.words) <= 1000 and bool(set(names.words_of(look.name)) & names.CODE_WORDS)


def _listed(look: Look) -> list[str]:
    """The words for a vocabulary: all, or those that are not rare where there are many."""
    if len(look.words) <= CODED_WORDS:
        return sorted(look.words)  # the order of their frequency would say more than the list has to
    values, counts = np.unique(look.values.astype(str), return_counts=True)
    often = {str(value) for value, count in zip(values, counts, strict=True) if count >= RARE_WORDS}
    kept = [word for word in look.words if word in often]
    return sorted(kept) if len(kept) <= LISTED_WORDS and kept else sorted(look.words)


def _numeric(look: Look) -> str:
    assert look.numbers is not None
    least, most = float(look.numbers.min()), float(look.numbers.max())
    lines = [f"[[numeric]]  # numbers from {least:g} to {most:g} in the sample\ncolumn = {literal(look.name)}\n"]
    transform, values = transformed(look)
    lines.append(f'transform = "{transform}"\n')
    if len(look.words) > 2 and (most > 1 or least < 0):
        after = "log" if transform != "identity" else "numbers"
        lines.append(COMPUTED)
        center, scale = _digits(float(np.median(values)), 2), _spread(values)
        lines.append(f"# or public figures, such as center = {center!r} and scale = {scale!r} of the {after}\n")
    if look.empties:
        lines.append(f"missing = {_digits(float(np.median(look.numbers)), 2)!r}  # {look.empties} empty cells\n")
    return "".join(lines) + "\n"


def transformed(look: Look) -> tuple[str, np.ndarray]:
    """("identity" or "signed_log1p", the numbers after it): a logarithm for numbers with a long tail."""
    assert look.numbers is not None
    magnitude = np.abs(look.numbers)
    usual = float(np.quantile(magnitude, 0.75)) or float(magnitude.mean())
    if magnitude.max(initial=0.0) > 3 and magnitude.max() > 5 * usual:
        return "signed_log1p", signed_log1p(look.numbers)
    return "identity", look.numbers


def _derived(guesses: Guesses) -> str:
    lines = "".join(
        f"{'' if each.sure else '# '}{each.name} = {each.entry}  # {plain(each.reason)}\n" for each in guesses.derived
    )
    return f"[derived]  # numbers that are computed from several columns of a row\n{lines}\n"


def _never(never: Sequence[Guess]) -> str:
    lines = "".join(f"    {literal(guess.column)},  # {_note(guess)}\n" for guess in never)
    return f"[columns]  # what is not read\nnever = [\n{lines}]\n\n" if lines else "[columns]\nnever = []\n\n"


def _windows(guesses: Guesses) -> str:
    days, span = guesses.days, guesses.span_us
    if days is None or span is None:
        return f"[features]\nwindows_days = []  # {_no_days(guesses)}\n\n"
    if days < HOURS_BELOW_DAYS:
        minutes = [m for m in WINDOWS_MINUTES if m * MINUTE_US <= span / 2] or [1]
        note = f"of the parties' counts and means; the file spans {span / (60 * MINUTE_US):.1f} hours"
        return f"[features]\nwindows_minutes = {minutes}  # {note}\nwindows_days = []\n\n"
    windows = [w for w in WINDOWS_DAYS if w <= max(round(days) / 2, 1)] or [1]
    return f"[features]\nwindows_days = {windows}  # of the parties' counts, means and fraud shares\n\n"


def _split(guesses: Guesses, delay: int) -> str:
    if guesses.marker is not None:
        words = part_words(guesses.marker.look)
        lines = [f"[split]  # {_note(guesses.marker)}\ncolumn = {literal(guesses.marker.column)}\n"]
        lines += [f"{part} = {literal(listed)}\n" for part, listed in words.items() if listed]
        return "".join(lines)
    kind = "in time order" if guesses.time is not None else "at random: no column holds a time"
    days = guesses.days
    gap = 0.0 if days is None or delay == 0 else delay / days
    train = int(100 * (1 - TEST_FRACTION - gap)) / 100
    train = TRAIN_FRACTION if gap == 0 else train
    note = "" if gap == 0 else f"  # the rest is the {delay} days in which labels of the training are not known yet"
    return (
        f"[split]  # {kind}{_periods_instead(guesses)}\n"
        f"train_fraction = {train}{note}\ntest_fraction = {TEST_FRACTION}\nvalidation_share = 0.1\n"
    )


def _periods_instead(guesses: Guesses) -> str:
    if guesses.days is None:
        return ""
    dated = guesses.time is not None and guesses.time.look.moment is not None
    if guesses.days < HOURS_BELOW_DAYS:
        moments = "2024-02-12T00:00:00, 2024-02-12T12:00:00" if dated else "0.0, 0.5"
        return f"; or periods from one moment to another, as in train = [{moments}], and test alike"
    days = "2024-02-12, 2024-02-18" if dated else "0, 6"
    return f"; or first and last days, as in train = [{days}], and test alike"


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}") if np.isfinite(value) else 0.0


def _spread(values: np.ndarray) -> float:
    """A standard deviation that outliers do not move, to two digits; of all values where most are equal."""
    low, high = np.quantile(values, [0.25, 0.75])
    spread = float(high - low) / NORMAL_IQR or float(np.std(values))
    return _digits(spread, 2) or 1.0
