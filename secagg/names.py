"""Names of organisations: what may stand in one, and which two look alike to the people who compare lists.

Names are for people; on the wire a key identifies a party. But people count organisations by their names, so with two
names that look alike one organisation could be enrolled twice. Three rules, after Unicode Technical Standard #39
(Unicode security mechanisms), with tables as small as they can be:

    characters    letters and marks of the scripts in everyday use (UAX #31, table 5), the digits 0-9, ASCII punctuation
                  and a few typographic signs; nothing invisible (Default_Ignorable_Code_Point) or blank
    scripts       one in a name, or Latin beside Han with Kana, Bopomofo or Hangul (section 5.2, "highly restrictive")
    look-alikes   two names with one skeleton (section 4) are one name, over the letters in `_LOOKALIKES`

# Strategy: Python's unicodedata knows no scripts, but the name of a letter begins with the name of its script. The
# look-alikes are those that are drawn alike in common typefaces, mostly within and between Latin, Greek, Cyrillic,
# Armenian and the Japanese scripts. Unicode's own table (confusables.txt) has 6,000 more, nearly all of characters that
# the first rule refuses; of the rest, it has pairs within South and South-East Asian scripts, within Arabic and within
# Han that this one lacks, and some of rare Latin, Cyrillic, Ethiopic, Armenian and Hangul letters. The rule helps
# people who read the list. It does not prove that two names differ on every screen.
"""

from __future__ import annotations

import re
import unicodedata

MAX_NAME = 200  # characters

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 16.
_IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)

# First words of the names of letters, by script; UAX #31, table 5, "recommended scripts".
_SCRIPTS = frozenset(
    {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW", "ARABIC", "BENGALI", "BOPOMOFO", "DEVANAGARI", "ETHIOPIC"}
    | {"GEORGIAN", "GUJARATI", "GURMUKHI", "CJK", "HANGUL", "HIRAGANA", "KANNADA", "KATAKANA", "KHMER", "LAO"}
    | {"MALAYALAM", "MYANMAR", "ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAANA", "THAI", "TIBETAN"}
)
_TOGETHER = (
    frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA"}),
    frozenset({"LATIN", "CJK", "BOPOMOFO"}),
    frozenset({"LATIN", "CJK", "HANGUL"}),
)
# Of these, what languages of today are written in: no phonetic or medieval letters, no clicks, no single Hangul parts.
_IN_USE = {
    "LATIN": ((0x0041, 0x01BE), (0x01C4, 0x02AF), (0x1E00, 0x1EF9)),
    "GREEK": ((0x0370, 0x03FF), (0x1F00, 0x1FFF)),
    "CYRILLIC": ((0x0400, 0x052F),),
    "GEORGIAN": ((0x10D0, 0x10FF),),
    "HANGUL": ((0xAC00, 0xD7A3),),
    "COMBINING": ((0x0300, 0x0345), (0x3099, 0x309A)),
}
_NAMED_OTHERWISE = {"\u3005": "CJK", "\u30fc": "KATAKANA"}  # the iteration mark of Han, the long vowel of Kana
_SIGNS = "\u2018\u2019\u2013\u2014\u00b7\u30fb"  # typographic apostrophes, dashes, middle dots

_LETTERS_AND_MARKS = ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc")
_ANYWHERE = ((0, 0x10FFFF),)

# What is drawn alike -> what else it is drawn like. Escapes, so that this file can be read.
_LOOKALIKES = {
    "A": "\u0391\u0410",
    "B": "\u0392\u0412",
    "C": "\u0421\u03f9",
    "E": "\u0395\u0415",
    "F": "\u03dc",
    "G": "\u050c",
    "H": "\u0397\u041d",
    "J": "\u037f\u0408",
    "K": "\u039a\u041a",
    "M": "\u039c\u03fa\u041c",
    "N": "\u039d",
    "O": "0\u039f\u041e\u0555",
    "P": "\u03a1\u0420",
    "R": "\u01a6",
    "S": "\u0405\u054f",
    "T": "\u03a4\u0422",
    "U": "\u054d",
    "V": "\u0474",
    "W": "\u051c",
    "X": "\u03a7\u0425",
    "Y": "\u03a5\u0423\u04ae",
    "Z": "\u0396",
    "a": "\u0251\u03b1\u0430",
    "b": "\u0184\u042c",
    "c": "\u0441",
    "d": "\u0501",
    "e": "\u0435\u04bd",
    "f": "\u0584",
    "g": "\u018d\u0261\u0581",
    "h": "\u04bb\u0570",
    "i": "\u0131\u0269\u026a\u03b9\u0456\u04cf",
    "j": "\u03f3\u0458",
    "l": "1I|\u0196\u0399\u0406\u04c0\u05d5\u05df\u0627",
    "n": "\u0578\u057c",
    "o": "\u03bf\u03c3\u043e\u0585\u05e1\u0647\u06be\u06c1\u06d5\u0d20\u101d",
    "p": "\u03c1\u0440",
    "q": "\u051b\u0563\u0566",
    "r": "\u0433",
    "s": "\u01bd\u0455",
    "u": "\u028b\u03c5\u057d",
    "v": "\u03bd\u0475",
    "w": "\u026f\u0461\u051d\u0561",
    "x": "\u0445",
    "y": "\u0263\u028f\u03b3\u0443\u04af\u10e7",
    "2": "\u01a7",
    "3": "\u01b7\u021c\u0417\u04e0",
    "5": "\u01bc",
    "6": "\u0431",
    "8": "\u0222\u0223",
    "?": "\u0241\u0294\u097d",
    "AE": "\u00c6\u04d4",
    "ae": "\u00e6\u04d5",
    "OE": "\u0152",
    "oe": "\u0153",
    "bl": "\u042b",
    "lO": "\u042e",
    "rn": "m",
    "'": "`\u2018\u2019",
    "-": "\u2013\u2014",
    "\u00b7": "\u30fb",
    # letters that look like no ASCII letter
    "\u00df": "\u03b2",
    "\u00de": "\u03f7",
    "\u00fe": "\u03f8",
    "\u0186": "\u03fd",
    "\u0254": "\u037b",
    "\u018f": "\u04d8",
    "\u01dd": "\u0259\u04d9",
    "\u0190": "\u0510",
    "\u03b5": "\u025b\u0454",
    "\u025c": "\u0437",
    "\u0292": "\u021d\u04e1\u10f3",
    "\u01f6": "\u050a",
    "\u0185": "\u044c",
    "\u0237": "\u0575",
    "\u03ba": "\u0138\u043a",
    "\u0393": "\u0413",
    "\u039b": "\u0245\u041b",
    "\u03a0": "\u041f",
    "\u03a3": "\u01a9",
    "\u03a6": "\u0424\u0553",
    "\u03a8": "\u0470",
    "\u0376": "\u0418",
    "\u03c0": "\u043f",
    "\u03c2": "\u03db",
    "\u03c4": "\u0442",
    "\u03c6": "\u0278\u0444",
    "\u03c8": "\u0471",
    # marks above and below: caron and breve, cedilla and comma, tilde, circumflex, ogonek, bar
    "\u030c": "\u0306",
    "\u0327": "\u0326\u0321",
    "\u0303": "\u0342",
    "\u0302": "\u0311",
    "\u0328": "\u0322\u0345",
    "\u0304": "\u0305",
    "\u0301": "\u0341",
    # Arabic letters that differ at the end of a word alone, Thai and Lao vowels that are two of another
    "\u064a": "\u0649\u06cc",
    "\u0643": "\u06a9",
    "\u0e40\u0e40": "\u0e41",
    "\u0ec0\u0ec0": "\u0ec1",
    # Katakana, Hiragana and Han
    "\u4e00": "\u30fc",
    "\u4e8c": "\u30cb",
    "\u516b": "\u30cf",
    "\u529b": "\u30ab",
    "\u535c": "\u30c8",
    "\u53e3": "\u30ed\u56d7",
    "\u571f": "\u58eb",
    "\u5915": "\u30bf",
    "\u5de5": "\u30a8",
    "\u3078": "\u30d8",
    "\u4e3f": "\u30ce",
}
_SECOND_DOT = re.compile(
    "([ij][\u0316-\u0333]*)\u0307"
)  # a dot above takes the place of the letter's own (Soft_Dotted)
_DRAWN_AS = {ord(one): alike for alike, others in _LOOKALIKES.items() for one in others}


def fault(name: str) -> str | None:
    """What is wrong with a name and what to do, or None. Characters are shown by number: some are invisible."""
    if not 0 < len(name) <= MAX_NAME or name != unicodedata.normalize("NFC", name).strip() or not name.isprintable():
        return f"expected 1..{MAX_NAME} printable characters (NFC) without outer blanks, got {name!a}"
    for one in name:
        if any(low <= ord(one) <= high for low, high in _IGNORABLE):
            return f"{_shown(one)} is invisible; leave it out of {name!a}"
    plain = unicodedata.normalize("NFKC", name)
    if "  " in plain:
        return f"expected single blanks between words, got {name!a}"
    found: set[str] = set()
    before = " "
    for one in plain:
        script = _script(one, before)
        if script is None:
            return f"{_shown(one)} is not a letter, digit or sign that a name may hold; write {name!a} without it"
        found.add(script)
        before = one
    found.discard("")
    if not any(one.isalnum() for one in plain):
        return f"expected a letter or a digit, got {name!a}"
    if len(found) > 1 and not any(found <= together for together in _TOGETHER):
        scripts = ", ".join(sorted(found)).lower()
        return f"mixes the scripts {scripts}, and letters of one look like others'; write {name!a} in one"
    return None


def comparable(name: str) -> str:
    """Names that differ only in case, width or composition are one organisation's."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def skeletons(name: str) -> tuple[str, str]:
    """How a name is drawn, as written and in small letters: two names that agree in either look alike (UTS #39, 4)."""
    return _drawn(unicodedata.normalize("NFKC", name)), _drawn(comparable(name))


def _drawn(name: str) -> str:
    drawn = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).translate(_DRAWN_AS))
    return _SECOND_DOT.sub(r"\1", drawn)


def _script(one: str, before: str) -> str | None:
    """The script of a character, "" for one of no script, None for one that no name holds."""
    if (" " <= one <= "~" and not one.isalpha()) or one in _SIGNS:
        return ""
    category = unicodedata.category(one)
    described = unicodedata.name(one, "")
    script = _NAMED_OTHERWISE.get(one, described.split(" ")[0])
    ranges = _IN_USE.get(script)
    if category not in _LETTERS_AND_MARKS or not any(low <= ord(one) <= high for low, high in ranges or _ANYWHERE):
        return None
    if category[0] == "M" and (unicodedata.category(before) not in _LETTERS_AND_MARKS or "OVERLAY" in described):
        return None  # alone it is drawn on a blank, and a bar through a letter makes another letter
    if script == "COMBINING":
        return ""
    return script if script in _SCRIPTS else None


def _shown(one: str) -> str:
    return f"U+{ord(one):04X} ({unicodedata.name(one, 'no name')})"
