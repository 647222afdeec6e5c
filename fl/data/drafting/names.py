"""What the words in a column's name suggest. Names are matched in English, and in the plainest words of a few others.

A name such as CUSTOMER_TX_COUNT_PAST_30D speaks of a customer and is none: words for counts, means and spans of time
say that a column is a figure.
"""

from __future__ import annotations

import re

LABEL = re.compile(r"fraud|label|class|target|is_?bad|chargeback|suspicious|betrug|fraude|outcome", re.I)
GIVEAWAY = re.compile(r"fraud|flagged|scenario|chargeback|dispute|betrug", re.I)
TIME = re.compile(
    r"time|date|step|hour|day|when|wann|zeit|datum|fecha|hora|epoch|unix|^ts$|_ts$|created|posted|booked|_at$", re.I
)
NOT_THE_TIME = re.compile(
    r"birth|dob|expir|valid|regist|open|since|label|report|confirm|detect|known|settle|updated|joined|start|end", re.I
)
KNOWN = re.compile(r"label|report|confirm|detect|known|chargeback|dispute", re.I)
AMOUNT = re.compile(r"amount|amt|betrag|summe|importe|monto|montant|valor", re.I)
LESSER_AMOUNT = re.compile(r"value|price|sum$|total|cost|paid|payment|claim", re.I)
CUSTOMER = re.compile(
    r"customer|client|card|cc_?num|account|acct|user|sender|payer|orig|holder|member|policy|insured|iban|kunde|konto"
    r"|karte|cliente|buyer|^from$|^von$",
    re.I,
)
TERMINAL = re.compile(
    r"terminal|merchant|dest|payee|receiver|beneficiary|shop|store|vendor|seller|recipient|provider|garage|hospital"
    r"|h(ae|ä)ndler|tienda|^to$|^nach$|(^|_)(atm|pos)(_|$)",
    re.I,
)
MERCHANT = re.compile(r"merchant|shop|store|vendor|seller", re.I)
DEVICE = re.compile(r"device|imei|fingerprint", re.I)
ID_WORDS = {"id", "no", "nr", "num", "number", "key", "ref", "hash", "nummer", "code", "ident", "identifier"}
CODE_WORDS = {
    *("type", "code", "cat", "category", "class", "kind", "group", "mcc", "channel", "zip", "postcode", "status"),
    *("month", "weekday", "dayofweek", "state", "country", "currency", "mode", "method", "brand", "product", "art"),
}
FIGURE_WORDS = {
    *("past", "last", "prev", "previous", "count", "cnt", "counts", "avg", "average", "mean", "std", "max", "min"),
    *("sum", "median", "ratio", "rate", "freq", "frequency", "velocity", "since", "age", "days", "hours", "balance"),
    *("limit", "score", "risk", "amount", "amt", "tenure", "income", "total", "share", "per", "number_of", "lat"),
    *("lon", "long", "latitude", "longitude", "pop", "population", "delta", "diff", "distance", "elapsed"),
}
DESCRIPTION_WORDS = {"category", "cat", "city", "state", "country", "zip", "type", "group", "class", "mcc", "region"}
SPAN = re.compile(r"\d+(s|sec|m|min|h|hr|hours?|d|days?|w|weeks?|mo|months?|y|years?)")
BANKS = ("bank", "issuer", "institution", "site", "branch", "subsidiary", "tenant", "region", "filiale", "standort")
NOT_A_BANK = re.compile(r"customer|client|merchant|terminal|user|web|shop|store|dest|orig", re.I)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters: `nameOrig` is name and orig, TX_PAST_30D is tx, past and 30d."""
    parts = re.split(r"[\W_]+", re.sub(r"(?<=[a-zäöü])(?=[A-ZÄÖÜ])", "_", name))
    return tuple(part.lower() for part in parts if part)


def is_figure(name: str) -> bool:
    """Whether the name says that the column holds a count, a mean, a span of time or a coordinate."""
    words = words_of(name)
    return any(word in FIGURE_WORDS or SPAN.fullmatch(word) for word in words)


def could_name(pattern: re.Pattern[str], name: str) -> bool:
    """Whether the name speaks of such a party, and neither of a figure nor of a description of the party."""
    return bool(pattern.search(name)) and not is_figure(name) and not set(words_of(name)) & DESCRIPTION_WORDS


def rank_as_bank(name: str) -> int | None:
    """0 for the plainest name of a bank; None for no such name. `website` and CUSTOMER_REGION name no bank."""
    words = words_of(name)
    for rank, word in enumerate(BANKS):
        if any(w in (word, f"{word}s", f"{word}id", f"{word}no") or re.fullmatch(rf"{word}\d*", w) for w in words):
            return None if NOT_A_BANK.search(name) and word != "bank" else rank
    return None
