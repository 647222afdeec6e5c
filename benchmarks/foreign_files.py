"""Three made-up files such as a stranger brings, and for each the schema that an analyst would write by hand.

Each writer returns (header, rows as text). The rows are in time order where there is a time.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl.durable import replace_durably

ROWS = 6000
Made = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Foreign:
    """One kind of file.

    make: the rows of a seed, and how many.  label: the column that new rows lack.  packed: whether gzip compresses the
    file.  edited: the schema that an analyst would write.  clients: how many banks share the rows at random; None where
    a column names the bank of each row.
    """

    name: str
    make: Callable[..., Made]
    label: str
    delimiter: str
    encoding: str
    packed: bool
    edited: str
    clients: int | None = None

    @property
    def filename(self) -> str:
        """As a stranger names it: compressed or not."""
        return f"{self.name}.csv{'.GZ' if self.packed else ''}"

    def write(self, path: Path, made: Made, *, labelled: bool = True) -> Path:
        header, rows = made
        kept = [i for i, name in enumerate(header) if labelled or name != self.label]
        lines = [self.delimiter.join(row[i] for i in kept) for row in [header, *rows]]
        data = ("\n".join(lines) + "\n").encode(self.encoding)
        replace_durably(path, gzip.compress(data) if self.packed else data)
        return path


def card_transactions(seed: int, count: int = ROWS) -> Made:
    """Sixty days of five sites with a status that is unknown for one row in ten, nanoseconds, figures and copies."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.choice(60 * 86_400, count, replace=False))
    site_of = rng.integers(5, size=400)
    header = ["TX_REF", "BOOKED_AT", "EPOCH_S", "CARD_NO", "MERCHANT_ID", "SITE", "AMOUNT", "CARD_TX_PAST_30D"]
    header += ["CHANNEL", "MERCHANT_GROUP", "CURRENCY", "FRAUD_STATUS", "FRAUD_REASON"]
    rows = []
    groups = [f"group {i}" for i in range(28)]
    for i, second in enumerate(seconds):
        card, merchant = int(rng.integers(400)), int(rng.integers(120))
        risky = merchant < 6
        bad = rng.random() < (0.6 if risky else 0.015)
        amount = rng.lognormal(4.6 if bad else 3.2, 0.6)
        when = np.datetime64("2023-02-01T00:00:00") + np.timedelta64(int(second), "s")
        status = "unknown" if rng.random() < 0.1 else str(int(bad))
        row = [str(90_000 + 3 * i), f"{when}.{int(rng.integers(10**9)):09d}", str(1_675_209_600 + int(second))]
        row += [f"C{card:05d}", f"M{merchant:04d}", f"s{site_of[card]}", f"{amount:.2f}"]
        row += [str(int(rng.poisson(12))), str(rng.choice(["web", "chip", "phone"])), groups[merchant % 28], "EUR"]
        rows.append([*row, status, "stolen" if bad else ""])
    return header, rows


CARD_SCHEMA = """\
[label]
column = "FRAUD_STATUS"
delay_days = 7
[drop]
FRAUD_STATUS = ["unknown"]
[time]
column = "BOOKED_AT"
[amount]
column = "AMOUNT"
typical = 30
[parties]
customer = "CARD_NO"
terminal = "MERCHANT_ID"
customer_per_day = 0.3
terminal_per_day = 0.8
shared = ["terminal"]
[partition]
column = "SITE"
[[numeric]]
column = "CARD_TX_PAST_30D"
center = 12
scale = 4
[[categorical]]
column = "CHANNEL"
vocabulary = ["web", "chip", "phone"]
[[categorical]]
column = "MERCHANT_GROUP"
hash_width = 32
[split]
train_fraction = 0.58
test_fraction = 0.3
"""


def claims(seed: int, count: int = ROWS) -> Made:
    """Thirty categories, some written with blanks, some as numbers, and no time, no party and no amount."""
    rng = np.random.default_rng(seed)
    header = [
        *(f"answer_{i:02d}" for i in range(24)),
        "vehicle_price",
        "days_to_claim",
        "zone_code",
        "make",
        "age_group",
    ]
    header += ["year_class", "fraud_found"]
    prices = ["less than 20 thousand", "20 to 29 thousand", "30 to 39 thousand", "more than 69 thousand"]
    waits = ["none at all", "1 to 7", "8 to 15", "15 to 30", "more than 30"]
    rows = []
    for _ in range(count):
        answers = rng.integers(4, size=24)
        age = int(20 + 5 * rng.integers(8))
        price, wait, zone, make = rng.integers(4), rng.integers(5), rng.integers(7), rng.integers(19)
        odds = -5.2 + 1.6 * (answers[0] == 2) + 1.4 * (answers[1] == 0) + 2.0 * (price == 3) + 2.0 * (wait == 4)
        bad = rng.random() < 1 / (1 + np.exp(-(odds + 1.8 * (zone == 5) + 1.2 * (make % 5 == 0))))
        row = [*("abcd"[answer] for answer in answers), prices[price], waits[wait], str(100 + zone), f"make {make}"]
        rows.append([*row, f"{age} to {age + 5}", str(rng.integers(1, 9)), "NY"[int(bad)]])
    return header, rows


CLAIMS_SCHEMA = (
    """\
[label]
column = "fraud_found"
positive = ["Y"]
negative = ["N"]
[[categorical]]
columns = ["""
    + ", ".join(f'"answer_{i:02d}"' for i in range(24))
    + """]
vocabulary = ["a", "b", "c", "d"]
[[categorical]]
column = "vehicle_price"
vocabulary = ["less than 20 thousand", "20 to 29 thousand", "30 to 39 thousand", "more than 69 thousand"]
[[categorical]]
column = "days_to_claim"
vocabulary = ["none at all", "1 to 7", "8 to 15", "15 to 30", "more than 30"]
[[categorical]]
column = "zone_code"
vocabulary = ["100", "101", "102", "103", "104", "105", "106"]
[[categorical]]
column = "make"
vocabulary = ["""
    + ", ".join(f'"make {i}"' for i in range(19))
    + """]
[split]
train_fraction = 0.7
test_fraction = 0.3
"""
)


def one_day(seed: int, count: int = ROWS) -> Made:
    """Eighteen hours in Latin-1 with semicolons, decimal commas and points between thousands."""
    rng = np.random.default_rng(seed)
    tenths = np.sort(rng.choice(18 * 36_000, count, replace=False))
    header = ["Zeitpunkt", "Konto", "Händler", "Betrag", "Gebühr", "Ort", "Betrug"]
    rows = []
    for tenth in tenths:
        account, shop = int(rng.integers(300)), int(rng.integers(60))
        bad = rng.random() < (0.5 if shop < 4 else 0.015)
        amount = rng.lognormal(5.4 if bad else 4.0, 0.6)
        when = np.datetime64("2024-03-05T05:00:00.000") + np.timedelta64(100 * int(tenth), "ms")
        date, clock = str(when).split("T")
        written = f"{amount:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")
        year, month, day = date.split("-")
        town = str(rng.choice(["Köln", "Nürnberg", "Bonn"]))
        fee = f"{rng.exponential(2.0):.2f}".replace(".", ",")
        answer = "ja" if bad else "nein"
        rows.append([f"{day}.{month}.{year} {clock}", f"DE{account:06d}", f"H{shop:03d}", written, fee, town, answer])
    return header, rows


DAY_SCHEMA = """\
[file]
delimiter = ";"
decimal = ","
encoding = "latin-1"
[label]
column = "Betrug"
positive = ["ja"]
negative = ["nein"]
[time]
column = "Zeitpunkt"
format = "%d.%m.%Y %H:%M:%S.%f"
[amount]
column = "Betrag"
typical = 60
[parties]
customer = "Konto"
terminal = "Händler"
customer_per_day = 20
terminal_per_day = 100
[[numeric]]
column = "Gebühr"
transform = "log1p"
center = 1
scale = 0.6
[[categorical]]
column = "Ort"
vocabulary = ["Köln", "Nürnberg", "Bonn"]
[features]
windows_minutes = [10, 60, 360]
windows_days = []
[split]
train_fraction = 0.7
test_fraction = 0.3
"""

FOREIGN = (
    Foreign("cards", card_transactions, "FRAUD_STATUS", ",", "utf-8", False, CARD_SCHEMA),
    Foreign("claims", claims, "fraud_found", ",", "utf-8", False, CLAIMS_SCHEMA, 3),
    Foreign("oneday", one_day, "Betrug", ";", "latin-1", True, DAY_SCHEMA, 3),
)
