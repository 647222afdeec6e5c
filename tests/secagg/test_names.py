"""Names that show as others do: nothing invisible, one script, and no two on a list that are drawn alike."""

from __future__ import annotations

import unicodedata

import pytest

from secagg import names
from secagg.enrolment import Enrolment
from secagg.errors import EnrolmentError, IdentityError
from secagg.identity import Member


def listed(*organisations: str) -> Enrolment:
    """An enrolment of these banks; every key is another one."""
    parties = [Member(name, bytes([number]) * 32) for number, name in enumerate(("Keys", "Sums", *organisations), 3)]
    return Enrolment(bytes(16), parties[0], parties[1], tuple(parties[2:]))


ORDINARY = (
    "Bank A",
    "Crédit Agricole S.A.",
    "Österreichische Sparkasse & Söhne, Nr. 7 (Wien)",
    "Łódzki Bank Spółdzielczy",
    "Türkiye İş Bankası",
    "Băncile Române — Cluj",
    "Ngân hàng Á Châu",
    "O’Neill's #1 Credit-Union/EU",
    "Εθνική Τράπεζα της Ελλάδος",
    "Сбербанк 24",
    "Հայաստանի Բանկ",
    "בנק לאומי",
    "البنك الأهلي",
    "भारतीय स्टेट बैंक",
    "ธนาคารกรุงไทย",
    "三菱UFJ銀行",
    "佐々木ファイナンス・グループ",
    "みずほ銀行",
    "국민은행 KB",
    "Ｂank Ｗide",
    "㈱ぎんこう",
)


def test_ordinary_names_of_many_languages_are_enrolled_together():
    assert len(listed(*ORDINARY).clients) == len(ORDINARY)


def test_banks_and_clients_that_are_counted_are_enrolled_together():
    counted = [f"{what} {number}" for what in ("bank", "client", "BANK", "Region") for number in range(50)]
    listed(*counted[:50], *counted[50:100], *counted[150:])
    listed(*(f"Bank {chr(letter)}" for letter in range(ord("A"), ord("Z") + 1)))


@pytest.mark.parametrize(("low", "high"), names._IGNORABLE)
def test_a_code_point_that_screens_ignore_is_refused_wherever_it_stands(low, high):
    for number in {low, high, (low + high) // 2}:
        for name in (f"Ba{chr(number)}nk", f"{chr(number)}Bank", f"Bank{chr(number)}", chr(number)):
            with pytest.raises(IdentityError, match=r"^organisation: "):
                Member(name, bytes([9]) * 32)


@pytest.mark.parametrize(
    "one",
    [
        *(
            "\u2800",
            "\u3164",
            "\u115f",
            "\u1160",
            "\uffa0",
            "\U0001d159",
            "\u00a0",
            "\u3000",
            "\u2003",
            "\u2028",
            "\u0085",
        ),
        *("\t", "\x00", "\x7f", "\u009b", "\ufffc", "\ufffd", "\ue000", "\U000e0041", "\ufe0f", "\u034f", "\u17b4"),
        *(
            "  ",
            " \u0301",
            "\u0338",
            "\u0489",
            "\u00b4",
            "\u20dd",
            "\u0661",
            "\u2460\ufe0e",
            "\u20ac",
            "\u2713",
            "\U0001f3e6",
        ),
        *("\u01c3", "\u02bc", "\u1d00", "\ua78c", "\u13aa", "\u2c80", "\U00010400", "\u1100", "\u2126\u200d"),
    ],
    ids=ascii,
)
def test_blanks_controls_marks_symbols_and_letters_out_of_use_are_refused(one):
    with pytest.raises(IdentityError, match=r"^organisation: ") as refused:
        Member(f"Ba{one}nk", bytes([9]) * 32)
    assert str(refused.value).isascii()  # what cannot be seen is written out


def test_nothing_that_is_accepted_renders_as_nothing():
    """One by one, all but Han and Hangul: letters, marks, ASCII, and what turns into these under NFKC."""
    looked_at = (range(0x3400), range(0xA000, 0xAC00), range(0xE000, 0x20000), range(0xE0000, 0xE1000))
    accepted = [chr(each) for numbers in looked_at for each in numbers if names.fault(f"a{chr(each)}a") is None]
    for one in accepted:
        assert not any(low <= ord(one) <= high for low, high in names._IGNORABLE)
        for each in unicodedata.normalize("NFKC", one):
            assert each.isascii() or unicodedata.category(each)[0] in "LM" or each in names._SIGNS
    assert len(accepted) > 500


@pytest.mark.parametrize(
    "name",
    [
        "B\u0430nk",  # Cyrillic a
        "Bank \u0391",  # Greek Alpha
        "\u0421\u0431\u0435p\u0431\u0430\u043d\u043a",  # one Latin p
        "\u03b1\u0430",
        "Bank \u0561",
        "Bank \u05d0",
        "\u0e01\u0e81",  # Thai and Lao
        "\u30a2\uac00",  # Kana and Hangul
        "\u3105\u3042",  # Bopomofo and Hiragana
        "\uff21\u0430",  # a wide Latin A, a Cyrillic a
    ],
    ids=ascii,
)
def test_a_name_that_mixes_scripts_is_refused(name):
    with pytest.raises(IdentityError, match=r"mixes the scripts [a-z]+, [a-z]+"):
        Member(name, bytes([9]) * 32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HOPE", "\u041d\u041e\u0420\u0415"),  # Cyrillic
        ("TAXI", "\u03a4\u0391\u03a7\u0399"),  # Greek
        ("cope", "\u0441\u043e\u0440\u0435"),
        ("COPE", "\u0421\u041e\u0420\u0415"),
        ("\u03a4\u039f\u039a", "\u0422\u041e\u041a"),  # Greek and Cyrillic
        ("\u0393\u03a6", "\u0413\u0424"),
        ("uno", "\u057d\u0578\u0585"),  # Armenian
        ("Bank 1", "Bank I"),
        ("Bank l", "Bank I"),
        ("Bank O", "Bank 0"),
        ("Bankl", "Bank|"),
        ("Modem", "Modern"),
        ("Bank ı", "Bank i"),
        ("ɡas", "gas"),
        ("\u00e6on", "aeon"),
        ("Bank \u0219", "Bank \u015f"),  # comma and cedilla
        ("Bank \u01ce", "Bank \u0103"),  # caron and breve
        ("O'Neill", "O\u2019Neill"),
        ("A-B", "A\u2013B"),
        ("\u30cb\u30ed", "\u4e8c\u53e3"),  # Katakana and Han
        ("\u30d8", "\u3078"),  # Katakana and Hiragana
        ("Citi", "Ci\u0307ti"),  # a dot above an i takes the place of its own
        ("jay", "j\u0307ay"),
        ("\u0628\u064a\u0646", "\u0628\u06cc\u0646"),  # Arabic and Persian yeh inside a word
        ("\u0643\u0628", "\u06a9\u0628"),  # and kaf
        ("\u0e40\u0e40\u0e1a", "\u0e41\u0e1a"),  # Thai: one vowel that is drawn as two of another
    ],
    ids=ascii,
)
def test_two_names_that_are_drawn_alike_are_not_enrolled_together(one, other):
    listed(one), listed(other)  # either of them alone is
    with pytest.raises(EnrolmentError, match="look alike") as refused:
        listed(one, "Between", other)
    assert str(refused.value).isascii()


@pytest.mark.parametrize("other", ["BANK A", "bank a", "\uff22ank A", "Bank \uff21"])
def test_case_and_width_make_no_other_organisation(other):
    with pytest.raises(EnrolmentError, match="'bank a' is enrolled twice"):
        listed("Bank A", other)


def test_the_table_of_look_alikes_leads_nowhere_twice():
    """Each drawn as one thing, which is drawn as itself: else two skeletons of one drawing could differ."""
    drawn = [one for others in names._LOOKALIKES.values() for one in others]
    assert len(drawn) == len(set(drawn))
    for alike in names._LOOKALIKES:
        assert not set(alike) & set(drawn)
