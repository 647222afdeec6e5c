"""Redaction: what goes in does not come out, whatever it looks like, and ordinary words survive."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.assist.redact import IBAN_LENGTH, Redactor, is_card, is_iban


def luhn(digits: str) -> str:
    """`digits` with the check digit that makes them a card number."""
    return next(digits + d for d in string.digits if is_card(digits + d))


def iban(country: str, rest: str) -> str:
    """An IBAN of `country` with right check digits."""
    return next(f"{country}{c:02d}{rest}" for c in range(2, 99) if is_iban(f"{country}{c:02d}{rest}"))


cards = st.text(string.digits, min_size=12, max_size=18).map(luhn)
grouped = st.sampled_from(["", " ", "-", ".", "\u200b", "\u00a0"])


@pytest.mark.parametrize("number", ["4111111111111111", "378282246310005", "5555555555554444", "6011000990139424"])
def test_published_test_cards_pass_luhn_and_with_another_last_digit_do_not(number: str) -> None:
    assert is_card(number)
    assert not is_card(number[:-1] + str((int(number[-1]) + 1) % 10))


@pytest.mark.parametrize("number", ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606"])
def test_published_ibans_pass_mod_97_and_with_swapped_digits_do_not(number: str) -> None:
    assert is_iban(number) and IBAN_LENGTH[number[:2]] == len(number)
    assert not is_iban(number[:-4] + number[-3] + number[-4] + number[-2:])


@given(number=cards, separator=grouped, before=st.sampled_from(["", "card ", "x", "(", "no."]))
def test_a_card_number_never_survives_however_it_is_grouped(number: str, separator: str, before: str) -> None:
    printed = separator.join(number[i : i + 4] for i in range(0, len(number), 4))
    redacted = rent().redact(f"rent {before}{printed} rent")
    assert not any(c.isdigit() for c in redacted)
    assert redacted.startswith("rent") and redacted.endswith("rent")


@given(number=cards)
def test_a_card_number_is_named_as_one(number: str) -> None:
    assert rent().redact(f"rent {number}") == "rent [CARD]"


@given(rest=st.text(string.digits, min_size=18, max_size=18), width=st.integers(2, 6))
def test_an_iban_is_named_as_one_in_groups_and_without(rest: str, width: int) -> None:
    number = iban("DE", rest)
    printed = " ".join(number[i : i + width] for i in range(0, len(number), width))
    for shown in (number, printed, number.lower()):
        assert rent().redact(f"rent {shown} rent") == "rent [IBAN] rent"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rent for Maria Gonzalez", "rent for [NAME]"),
        ("rent MARIA GONZÁLEZ", "rent [NAME]"),
        ("rent M. Gonza\u0301lez", "rent [RARE]. [NAME]"),
        ("rent Mr. John Doe", "rent [NAME]"),
        ("rent Zbigniew", "rent [RARE]"),
        ("rent C00012", "rent [CUSTOMER]"),
        ("rent c00012, T00001", "rent [CUSTOMER], [CUSTOMER]"),
        ("rent 12,50 EUR", "rent [AMOUNT]"),
        ("rent $1,200.00", "rent [AMOUNT]"),
        ("rent on 2024-01-31", "rent [RARE] [DATE]"),
        ("rent +49 170 1234567", "rent [PHONE]"),
        ("rent me@example.com", "rent [EMAIL]"),
        ("lunch @ the shop", "lunch [EMAIL] the shop"),
        ("rent ://", "rent [EMAIL]"),
        ("rent https://example.com/a?b=c", "rent [LINK]"),
        ("rent 12345678", "rent [ACCOUNT]"),
        ("rent #4711", "rent [NUMBER]"),
        ("rent ٤١١١", "rent [NUMBER]"),
        ("rent ４１１１", "rent [NUMBER]"),
        ("rent ②", "rent [NUMBER]"),
        ("rent Мaria", "rent [RARE]"),
        ("[SMITH] rent", "[[RARE]] rent"),
        ("[NAME] rent", "[NAME] rent"),
    ],
)
def test_redaction_by_example(redactor: Redactor, text: str, expected: str) -> None:
    assert redactor.redact(text) == expected


# Any text, rich in what redaction looks at.
texts = st.text(
    st.one_of(st.characters(), st.sampled_from("@:/.,-+#()[]|<> \n\u200b\u0301059rentNAMECARDEUR€")), max_size=80
)


@settings(max_examples=500)
@given(texts)
def test_whatever_was_redacted_holds_nothing_that_may_not_leave(text: str) -> None:
    assert rent().leaks(rent().redact(text)) == []


@settings(max_examples=500)
@given(texts)
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = rent().redact(text)
    assert rent().redact(once) == once


@pytest.mark.parametrize("text", ["rent 1", "rent a@b", "rent Zbigniew", "rent maria", "rent ②", "x://y"])
def test_a_leak_is_found(redactor: Redactor, text: str) -> None:
    assert redactor.leaks(text)


def test_a_word_needs_enough_different_customers_not_enough_rows() -> None:
    texts = ["rent Zbigniew"] * 20
    one = Redactor.of_bank(texts, np.zeros(20, np.int64), names=None, identifiers=[], min_customers=10)
    many = Redactor.of_bank(texts, np.arange(20), names=None, identifiers=[], min_customers=10)
    assert one.redact("rent Zbigniew") == "[RARE]"
    assert many.redact("rent Zbigniew") == "rent Zbigniew"


def test_a_common_word_that_is_a_customers_name_goes(redactor: Redactor) -> None:
    assert redactor.redact("rent Bay") == "rent [NAME]"


def test_the_guard_finds_what_no_request_may_hold(redactor: Redactor) -> None:
    for content in (
        "4111 1111 1111 1111",
        "xDE89 3704 0044 0532 0130 00y",
        "me@example.com",
        "C00012",
        "Maria Gonzalez",
    ):
        assert redactor.identifiers_in(f'{{"items": "{content}"}}'), content


def test_the_guard_lets_prompts_and_schemas_pass(redactor: Redactor) -> None:
    body = '{"least": 0.01, "most": 5000, "days": 44, "rows": 40, "description": "0 to 1439", "bay": 2}'
    assert redactor.identifiers_in(body) == []


def test_a_redactors_repr_shows_sizes_only(redactor: Redactor) -> None:
    assert "gonz" not in repr(redactor).lower() and "c00012" not in repr(redactor).lower()


def rent() -> Redactor:
    """A bank whose customers use one word."""
    return Redactor(frozenset(), frozenset(), frozenset(), frozenset({"rent"}))
