"""Remove everything from a description that may identify a person, before the description enters a prompt.

The rule is an allow-list: a text keeps only words that at least `min_customers` different customers and a share of
`MIN_SHARE` of all customers of this bank use, and no digit. In addition, recognised identifiers become placeholders
with a name, because a model can use the fact that there was a card number: cards (Luhn, ISO/IEC 7812-1), IBANs
(mod 97, ISO 13616), e-mail addresses, links, phone and account numbers, dates, amounts, the bank's own customer
identifiers and the names on its customer list. The rule also removes a name that is on no list and fits no pattern,
unless that many customers write it.

`leaks` finds what must not be in a redacted text, `identifiers_in` what must not be in any request; the gateway sends
neither. Not detected (docs/assist.md): numbers written as words, and names that are common words and on no list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

MIN_CUSTOMERS = 10  # customers that must use a word; a rarer word may identify a person
MIN_SHARE = 0.02  # share of the bank's customers: at a large bank, ten customers use every surname
PLACEHOLDERS = (
    "CARD",
    "IBAN",
    "ACCOUNT",
    "PHONE",
    "EMAIL",
    "LINK",
    "DATE",
    "AMOUNT",
    "NUMBER",
    "CUSTOMER",
    "NAME",
    "RARE",
)
_PLACEHOLDER = re.compile(r"\[(?:" + "|".join(PLACEHOLDERS) + r")\]")
_REPEATED = re.compile(r"(\[(?:NAME|RARE)\])(?:[\s.,'-]*\1)+")
_WORD = re.compile(r"[^\W\d_]+")
_WITH_DIGIT = re.compile(r"[^\s\[\],;:()]*\d[^\s\[\],;:()]*")

_TEMPLATE = re.compile(r"<\||\|>")  # control tokens of chat templates begin and end so
_LINK = re.compile(r"(?:\w+://|www\.)\S+", re.IGNORECASE)
_EMAIL = re.compile(r"\S+@\S+")
_ADDRESS = re.compile(r"\S*(?:@|://)\S*")  # a part of an address is removed, too
_IBAN_START = re.compile(r"(?=([A-Za-z]{2})(?:[ .-]?\d){2})")
_CARD = re.compile(r"(?<!\d)\d(?:[ .\-/]?\d){12,18}(?!\d)")
_DATE = re.compile(r"(?<!\d)(?:\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d\d))(?!\d)")
_AMOUNT = re.compile(
    r"(?:[$€£¥]|\b(?:EUR|USD|GBP|CHF|JPY|SEK|NOK|DKK|PLN)\b)\s?\d[\d.,' ]*\d?"
    r"|\d[\d.,']*\s?(?:[$€£¥]|\b(?:EUR|USD|GBP|CHF|JPY|SEK|NOK|DKK|PLN)\b)"
    r"|(?<![\d.,])\d{1,3}(?:[.,' ]?\d{3})*[.,]\d\d(?![\d.,])",
    re.IGNORECASE,
)
_PHONE = re.compile(r"(?:\+|\b00)\d[\d ()./-]{6,}\d|\(\d{2,5}\)[ -]?\d[\d -]{4,}\d")
_ACCOUNT = re.compile(r"(?<!\d)\d(?:[ -]?\d){5,}(?!\d)")
_TITLED = re.compile(
    r"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herrn?|Frau|Sr|Sra|Señora?|Mme|Mlle|Sig|Signora)\b\.?"
    r"(?:[ ]+[^\W\d_][\w'’.-]*){1,3}",
    re.IGNORECASE,
)
IBAN_LENGTH = {  # characters, by country; ISO 13616 registry
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD", "FK"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "XK", "MN"), 20),
    **dict.fromkeys(("CH", "CR", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "TL", "SO", "OM"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
LONG_IDENTIFIER = 6  # characters; a shorter customer number may be an ordinary number in a request


def clean(text: str) -> str:
    """`text` in compatibility form (NFKC), with the digits of all scripts as 0 to 9 and without invisible characters.

    A zero-width space thus cannot split a number.
    """
    if text.isascii() and text.isprintable():
        return text
    plain = "".join(_plain(c) for c in unicodedata.normalize("NFKC", text))
    return unicodedata.normalize("NFKC", plain)  # removed characters may have separated parts of a letter


def _plain(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Cc":
        return " "
    return "" if category.startswith("C") else character


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """`word` without accents and case, as names are compared."""
    if word.isascii():
        return word.lower()
    apart = unicodedata.normalize("NFKD", word)
    return "".join(c for c in apart if not unicodedata.combining(c)).casefold()


def words(text: str) -> list[str]:
    """The folded words of a text, placeholders left out."""
    return [fold(word) for word in _WORD.findall(_PLACEHOLDER.sub(" ", clean(text)))]


def is_card(digits: str) -> bool:
    """Whether 13 to 19 digits pass the Luhn check of ISO/IEC 7812-1."""
    if not (digits.isascii() and digits.isdigit() and 13 <= len(digits) <= 19):
        return False
    doubled = (2 * int(d) if i % 2 else int(d) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_iban(text: str) -> bool:
    """Whether letters and digits without separators pass the mod-97 check of ISO 13616."""
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", text.upper()):
        return False
    return int("".join(str(int(c, 36)) for c in text.upper()[4:] + text.upper()[:4])) % 97 == 1


def _ibans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every IBAN in `text`, printed in groups or not, none inside another."""
    spans: list[tuple[int, int]] = []
    for candidate in _IBAN_START.finditer(text):
        start, length = candidate.start(), IBAN_LENGTH.get(candidate[1].upper(), 0)
        if not length or (spans and start < spans[-1][1]):
            continue
        run = re.match(rf"(?:[ .-]?[A-Za-z0-9]){{{length}}}", text[start:])
        if run is not None and is_iban(_compact(run[0])):
            spans.append((start, start + run.end()))
    return spans


def _compact(text: str) -> str:
    return re.sub(r"[ .\-/]", "", text)


@dataclass(frozen=True)
class Redactor:
    """The identifiers and names of one bank's customers, and their common words. The repr shows sizes only.

    `names`: folded words of the customer list. `full_names`: its folded entries, words joined by a space.
    `identifiers`: folded customer identifiers. `common`: folded words that may stay.
    """

    names: frozenset[str] = field(repr=False)
    full_names: frozenset[str] = field(repr=False)
    identifiers: frozenset[str] = field(repr=False)
    common: frozenset[str] = field(repr=False)
    has_customer_list: bool = False

    def __repr__(self) -> str:
        return f"Redactor(names={len(self.full_names)}, identifiers={len(self.identifiers)}, words={len(self.common)})"

    @classmethod
    def of_bank(
        cls,
        texts: Iterable[str],
        customers: NDArray[np.int64],
        *,
        names: Iterable[str] | None,
        identifiers: Iterable[str],
        min_customers: int = MIN_CUSTOMERS,
    ) -> Redactor:
        """Learn from a bank's `texts` and the customer of each (int64[n]) which words are common.

        `names`: the bank's customer list; None when it gave none.
        """
        entries = [" ".join(words(entry)) for entry in names or ()]
        known = frozenset(entry for entry in entries if entry)
        private = frozenset(word for entry in known for word in entry.split())
        users: dict[str, set[int]] = {}
        for text, customer in zip(texts, customers.tolist(), strict=True):
            for word in set(words(text)):
                users.setdefault(word, set()).add(customer)
        least = max(min_customers, MIN_SHARE * len(np.unique(customers)))
        common = frozenset(w for w, who in users.items() if len(who) >= least)
        ids = frozenset(fold(clean(identifier)) for identifier in identifiers) - {""}
        return cls(private, known, ids, common - private - ids, names is not None)

    def redact(self, text: str) -> str:
        """`text` with every identifier, number, name and rare word replaced by a placeholder."""
        text = _LINK.sub("[LINK]", _TEMPLATE.sub(" ", clean(text)))
        text = _ADDRESS.sub("[EMAIL]", text)
        text = self._own_identifiers(text)
        for start, end in reversed(_ibans(text)):
            text = f"{text[:start]}[IBAN]{text[end:]}"
        text = _CARD.sub(lambda m: "[CARD]" if is_card(_compact(m[0])) else m[0], text)
        for pattern, name in ((_DATE, "DATE"), (_AMOUNT, "AMOUNT"), (_PHONE, "PHONE"), (_ACCOUNT, "ACCOUNT")):
            text = pattern.sub(f"[{name}]", text)
        text = _WITH_DIGIT.sub("[NUMBER]", text)
        if not text.isascii():
            text = "".join("[NUMBER]" if unicodedata.category(c).startswith("N") else c for c in text)
        text = _TITLED.sub(" [NAME]", text)
        text = self._only_common_words(text)
        return " ".join(_REPEATED.sub(r"\1", text).split())

    def leaks(self, redacted: str) -> list[str]:
        """The kinds of content in `redacted` that a redacted text must not hold; empty for every result of `redact`."""
        rest = _PLACEHOLDER.sub(" ", redacted)
        kinds = []
        if any(unicodedata.category(c).startswith("N") for c in clean(rest)):
            kinds.append("a digit")
        if "@" in rest or "://" in rest:
            kinds.append("an address")
        left = words(redacted)
        for kind, private in (("a customer's name", self.names), ("a customer identifier", self.identifiers)):
            if any(word in private for word in left):
                kinds.append(kind)
        if any(word not in self.common for word in left):
            kinds.append("a rare word")
        return kinds

    def identifiers_in(self, content: str) -> list[str]:
        """The kinds of content in `content` that no request may hold, prompt and scenario included."""
        kinds = []
        text = clean(content)
        if any(is_card(_compact(m[0])) for m in _CARD.finditer(text)):
            kinds.append("a card number")
        if _ibans(text):
            kinds.append("an IBAN")
        if _EMAIL.search(text):
            kinds.append("an e-mail address")
        tokens = set(re.findall(r"\w+", fold(text)))
        if any(len(token) >= LONG_IDENTIFIER and token in self.identifiers for token in tokens):
            kinds.append("a customer identifier")
        if self._names_pattern is not None and self._names_pattern.search(" ".join(words(text))):
            kinds.append("a customer's name")
        return kinds

    @cached_property
    def _names_pattern(self) -> re.Pattern[str] | None:
        """A pattern of the names with at least two words: a single name may be an ordinary word of a prompt."""
        long = sorted(name for name in self.full_names if " " in name)
        return re.compile(r"\b(?:" + "|".join(map(re.escape, long)) + r")\b") if long else None

    def _own_identifiers(self, text: str) -> str:
        if not self.identifiers:
            return text
        return re.sub(r"[\w-]+", lambda m: "[CUSTOMER]" if fold(m[0]) in self.identifiers else m[0], text)

    def _only_common_words(self, text: str) -> str:
        def kept(word: re.Match[str]) -> str:
            folded = fold(word[0])
            if folded in self.names:
                return "[NAME]"
            return word[0] if folded in self.common else "[RARE]"

        parts = re.split(f"({_PLACEHOLDER.pattern})", text)
        return "".join(part if i % 2 else _WORD.sub(kept, part) for i, part in enumerate(parts))
