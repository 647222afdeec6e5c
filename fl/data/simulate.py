"""Generate the embedded data: card transactions of several banks with three kinds of fraud, from a seed.

The data follow the Fraud Detection Handbook, chapter 3 (Le Borgne et al., 2022): customers with a place, a typical
amount and a rate of transactions; terminals near them; and its three fraud scenarios.

1. Every transaction above an amount threshold is a fraud; here the threshold follows from the fraud share. 2. A
terminal is compromised for 28 days: every transaction there is a fraud. 3. A customer's details leak for 14 days: a
third of the transactions are frauds of five times the amount.

A change of the data from a given day on can be added (`Drift`), to test drift detection.

Added here: regions with one bank each (some customers bank elsewhere), so that the partition is not random; the
requested fraud share at every size; and a free-text description of every transaction.
The code, names and templates are our own. Everything is vectorised over transactions.

Leaves to others: the meaning of the columns (fl/data/schemas/simulated.toml).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl import options
from fl.errors import DataError

SCENARIO_SHARES = (
    0.08,
    0.60,
    0.32,
)  # of all frauds: amount, terminal, customer; about what the handbook's rates give
TERMINAL_DAYS, CUSTOMER_DAYS, CUSTOMER_FACTOR = 28, 14, 5.0
AWAY_SHARE = 0.10  # share of customers with a bank in another region, and of transactions in another region
Ints = NDArray[np.int64]
Texts = NDArray[np.object_]


@dataclass(frozen=True)
class Drift:
    """A change of the data from `day` on (0 is the first day). Earlier transactions are as without it."""

    day: Annotated[int, options.DRIFT_DAY]
    amount_factor: Annotated[float, options.AMOUNT_FACTOR] = 1.0  # of every amount: prices
    # Of the frauds a day, by a wave of compromised terminals.
    fraud_factor: Annotated[float, options.FRAUD_FACTOR] = 1.0

    def __post_init__(self) -> None:
        options.check(self, DataError, "drift: ")


@dataclass(frozen=True)
class Simulation:
    """What to simulate. The defaults make about 470,000 transactions that fit fl/data/schemas/simulated.toml."""

    customers: Annotated[int, options.CUSTOMERS] = 3000
    terminals: Annotated[int, options.TERMINALS] = 1500
    days: Annotated[int, options.SIMULATED_DAYS] = 77
    banks: Annotated[int, options.BANKS] = 8
    fraud_share: Annotated[float, options.FRAUD_SHARE] = 0.01  # of all transactions
    start: dt.date = dt.date(2024, 1, 1)
    seed: Annotated[int, options.SEED] = 0
    drift: Drift | None = None

    def __post_init__(self) -> None:
        options.check(self, DataError, "simulation: ")
        if self.banks > min(self.customers, self.terminals):
            raise DataError(f"simulation: expected no more banks than customers and terminals, got {self.banks}")
        if self.drift is not None and self.drift.day >= self.days:
            raise DataError(f"simulation: expected a drift within its {self.days} days, got day {self.drift.day}")


def embedded(customers: int | None, banks: int | None, fraud_share: float | None, seed: int) -> Simulation:
    """The settings of the embedded data: one terminal for two customers, and defaults where an argument is None."""
    customers = Simulation.customers if customers is None else customers
    banks = Simulation.banks if banks is None else banks
    share = Simulation.fraud_share if fraud_share is None else fraud_share
    return Simulation(customers, max(customers // 2, banks), banks=banks, fraud_share=share, seed=seed)


def simulate(simulation: Simulation) -> pd.DataFrame:
    """The transactions, in time order; the same for the same `simulation` on every machine with this numpy.

    Columns: TRANSACTION (int), TIME (datetime64), CUSTOMER, TERMINAL, BANK (text), AMOUNT (float, cents),
    DESCRIPTION (text), IS_FRAUD (0/1), SCENARIO (0 none, 1 to 3: never a feature).
    """
    # One random stream per subject, so that one more draw of one kind does not change the others.
    streams = np.random.SeedSequence(simulation.seed).spawn(5)
    people, trade, crime, words, change = (np.random.default_rng(stream) for stream in streams)
    world = _world(simulation, people)
    customer, day = _activity(simulation, world, trade)
    second = _seconds_of_day(len(customer), trade)
    terminal = _terminals_visited(world, customer, trade)
    amount = _amounts(world, customer, trade)
    scenario, amount = _commit_frauds(simulation, customer, terminal, day, amount, crime)
    if simulation.drift is not None:
        scenario, amount = _change(simulation, simulation.drift, terminal, day, scenario, amount, change)
    order = np.lexsort((customer, second, day))
    frame = pd.DataFrame(
        {
            "TRANSACTION": np.arange(len(customer)),
            "TIME": _times(simulation.start, day[order], second[order]),
            "CUSTOMER": _names("C", simulation.customers)[customer[order]],
            "TERMINAL": _names("T", simulation.terminals)[terminal[order]],
            "BANK": _names("bank-", simulation.banks, width=1)[world.bank[customer[order]]],
            "AMOUNT": amount[order],
            "DESCRIPTION": _describe(world, terminal[order], scenario[order], words),
            "IS_FRAUD": (scenario[order] > 0).astype(np.int64),
            "SCENARIO": scenario[order],
        }
    )
    return frame


@dataclass(frozen=True, repr=False)
class _World:
    """Customers and terminals. `*_region`, `bank`: int; `rate`: transactions a day; `typical`: amount."""

    customer_region: Ints
    bank: Ints
    rate: NDArray[np.float64]
    typical: NDArray[np.float64]
    terminal_region: Ints
    by_region: Ints  # terminals sorted by region
    region_start: Ints  # where a region begins in by_region; one longer than regions
    favourites: Ints  # int[customers, 12]: terminals a customer returns to
    trade: Ints  # line of business of each terminal


def _world(simulation: Simulation, rng: np.random.Generator) -> _World:
    regions = simulation.banks
    weights = rng.dirichlet(np.full(regions, 8.0))  # regions differ in size, none is empty of terminals
    customer_region = rng.choice(regions, simulation.customers, p=weights)
    terminal_region = np.concatenate(
        [np.arange(regions), rng.choice(regions, simulation.terminals - regions, p=weights)]
    )
    elsewhere = rng.random(simulation.customers) < AWAY_SHARE
    bank = np.where(elsewhere, rng.integers(regions, size=simulation.customers), customer_region)
    bank[rng.permutation(simulation.customers)[:regions]] = np.arange(regions)  # no bank without customers
    by_region = np.argsort(terminal_region, kind="stable")
    region_start = np.searchsorted(terminal_region[by_region], np.arange(regions + 1))
    favourites = _pick(by_region, region_start, np.repeat(customer_region, 12), rng).reshape(-1, 12)
    return _World(
        customer_region=customer_region,
        bank=bank,
        rate=rng.uniform(0.0, 4.0, simulation.customers),
        typical=rng.uniform(5.0, 100.0, simulation.customers),
        terminal_region=terminal_region,
        by_region=by_region,
        region_start=region_start,
        favourites=favourites,
        trade=rng.integers(len(_TRADES), size=simulation.terminals),
    )


def _pick(by_region: Ints, region_start: Ints, region: Ints, rng: np.random.Generator) -> Ints:
    """A random terminal of each given region."""
    start, end = region_start[region], region_start[region + 1]
    return by_region[start + (rng.random(len(region)) * (end - start)).astype(np.int64)]


def _activity(simulation: Simulation, world: _World, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Customer and day of each transaction: Poisson numbers a day, a little more before the weekend."""
    week = np.array([0.95, 0.95, 1.0, 1.0, 1.2, 1.1, 0.8])
    weekday = (simulation.start.weekday() + np.arange(simulation.days)) % 7
    counts = rng.poisson(world.rate[:, None] * week[weekday][None, :])
    customer, day = (np.repeat(axis, counts.ravel()) for axis in (g.ravel() for g in np.indices(counts.shape)))
    return customer.astype(np.int64), day.astype(np.int64)


def _seconds_of_day(n: int, rng: np.random.Generator) -> Ints:
    """Seconds of the day: normal around 13:00 with a deviation of 5 hours, wrapped into the day."""
    return (rng.normal(13 * 3600, 5 * 3600, n) % 86_400).astype(np.int64)


def _terminals_visited(world: _World, customer: Ints, rng: np.random.Generator) -> Ints:
    """Mostly a favourite terminal, else another one of the region, sometimes one of another region."""
    n = len(customer)
    favourite = world.favourites[customer, rng.integers(world.favourites.shape[1], size=n)]
    regions = len(world.region_start) - 1
    abroad = rng.random(n) < AWAY_SHARE
    region = np.where(abroad, rng.integers(regions, size=n), world.customer_region[customer])
    other = _pick(world.by_region, world.region_start, region, rng)
    return np.where((rng.random(n) < 0.7) & ~abroad, favourite, other)


def _amounts(world: _World, customer: Ints, rng: np.random.Generator) -> NDArray[np.float64]:
    """Normal around the customer's typical amount, with half of it as deviation; a negative amount is drawn again."""
    typical = world.typical[customer]
    amount = rng.normal(typical, typical / 2)
    amount = np.where(amount <= 0, rng.uniform(0.0, 2.0, len(amount)) * typical, amount)
    return np.round(np.maximum(amount, 0.01), 2).astype(np.float64)


def _commit_frauds(
    simulation: Simulation,
    customer: Ints,
    terminal: Ints,
    day: Ints,
    amount: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[Ints, NDArray[np.float64]]:
    """Scenario of every transaction, and the amounts. The fraud share is met to within one episode."""
    wanted = np.round(np.array(SCENARIO_SHARES) * simulation.fraud_share * len(amount)).astype(np.int64)
    scenario = np.zeros(len(amount), np.int64)
    if wanted[0]:
        threshold = np.partition(amount, -wanted[0])[-wanted[0]]
        scenario[amount >= threshold] = 1
    at_terminal = _episodes(terminal, day, simulation.terminals, simulation.days, TERMINAL_DAYS, wanted[1], 1.0, rng)
    scenario[at_terminal] = 2
    at_customer = _episodes(customer, day, simulation.customers, simulation.days, CUSTOMER_DAYS, wanted[2], 1 / 3, rng)
    at_customer = at_customer[scenario[at_customer] == 0]
    scenario[at_customer] = 3
    amount = amount.copy()
    amount[at_customer] = np.round(amount[at_customer] * CUSTOMER_FACTOR, 2)
    return scenario, amount


def _change(
    simulation: Simulation,
    drift: Drift,
    terminal: Ints,
    day: Ints,
    scenario: Ints,
    amount: NDArray[np.float64],
    rng: np.random.Generator,
) -> tuple[Ints, NDArray[np.float64]]:
    """Scenario and amount of every transaction with the drift: other amounts, more compromised terminals."""
    later = np.flatnonzero(day >= drift.day)
    amount, scenario = amount.copy(), scenario.copy()
    amount[later] = np.maximum(np.round(amount[later] * drift.amount_factor, 2), 0.01)
    more = round((drift.fraud_factor - 1.0) * simulation.fraud_share * len(later))
    honest = later[scenario[later] == 0]
    left = simulation.days - drift.day
    hit = _episodes(terminal[honest], day[honest] - drift.day, simulation.terminals, left, left, more, 1.0, rng)
    scenario[honest[hit]] = 2
    return scenario, amount


def _episodes(
    party: Ints,
    day: Ints,
    parties: int,
    days: int,
    length: int,
    wanted: int,
    rate: float,
    rng: np.random.Generator,
) -> Ints:
    """Transactions that fall into compromises of `length` days, drawn one party after the other until `wanted`.

    Starts spread over the whole span, and before it, so that fraud is as frequent on the first day as on the
    last. Each transaction of a compromise is a fraud with probability `rate`.
    """
    order = np.lexsort((day, party))
    key = party[order] * (days + 2 * length) + day[order] + length
    victim = rng.permutation(np.repeat(np.arange(parties), 1 + days // length))
    start = rng.integers(-length + 1, days, len(victim))
    base = victim * (days + 2 * length) + start + length
    low, high = np.searchsorted(key, base), np.searchsorted(key, base + length)
    lengths = high - low
    flat = np.repeat(low - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths) + np.arange(lengths.sum())
    hits = order[flat[rng.random(len(flat)) < rate]]
    _, first = np.unique(hits, return_index=True)
    return hits[np.sort(first)[:wanted]]


def _times(start: dt.date, day: Ints, second: Ints) -> NDArray[np.datetime64]:
    return np.datetime64(start, "s") + (day * 86_400 + second).astype("timedelta64[s]")


def _names(prefix: str, count: int, width: int = 5) -> Texts:
    return np.array([f"{prefix}{i:0{width}d}" for i in range(count)], object)


# Descriptions as on a bank statement. Each line of business has shop names and goods.
_TRADES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hofladen", "Frischmarkt", "Corner Grocer", "La Huerta"),
        ("groceries", "weekly shop", "fruit and bread"),
    ),
    (("Shoreline Fuel", "Petrolux", "Autohof", "Rapid Gas"), ("diesel", "unleaded 95", "car wash")),
    (("Trattoria Lume", "Noodle Yard", "Le Bistrot", "Golden Fork"), ("lunch", "dinner for two", "takeaway")),
    (
        ("Volt & Byte", "Kabelwerk", "Gadget Pier", "Pixelhaus"),
        ("headphones", "laptop", "phone contract", "spare parts"),
    ),
    (("Railpoint", "Aeroline", "City Bikes", "Nightcoach"), ("ticket", "seat reservation", "monthly pass")),
    (
        ("Streambox", "Cloudnote", "Playhall", "Webshop Direct"),
        ("subscription", "order", "digital voucher", "gift card"),
    ),
    (("Apotheke am Ring", "Vita Pharmacy", "Dr. Osei Dental"), ("prescription", "co-payment", "check-up")),
    (("Linden Hardware", "Casa Verde", "Moebel Nord"), ("paint and tools", "garden chairs", "delivery")),
)
_CITIES = (
    "Alderney Bay",
    "Brunnthal",
    "Cortona",
    "Dunmore",
    "Esbjerg",
    "Figueras",
    "Gransee",
    "Hartwell",
    "Ivrea",
    "Joensuu",
)
_PURPOSES = (
    "invoice {n}",
    "rent {month}",
    "thanks for {month}",
    "membership {n}",
    "refund of deposit {n}",
    "school trip {month}",
    "shared bill {month}",
    "installment {n}",
)
_URGENT = (
    "urgent release of parcel {n}",
    "account verification {n}",
    "customs fee {n} today",
    "crypto top-up {n}",
    "gift card codes {n}",
    "support case {n} refund",
)
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
URGENT_SHARE = {0: 0.01, 1: 0.10, 2: 0.05, 3: 0.35}  # by scenario: the text hints at the label and does not tell it


def _describe(world: _World, terminal: Ints, scenario: Ints, rng: np.random.Generator) -> Texts:
    """A text per transaction: a purchase, the purpose of a transfer, or, more often in frauds, an urgent request."""
    n = len(terminal)
    shop = np.array([_shop(world, t) for t in range(len(world.trade))], object)
    number = rng.integers(1000, 9999, n).astype(str).astype(object)
    goods = np.empty(n, object)
    trade = world.trade[terminal]
    for i, (_, items) in enumerate(_TRADES):
        at = np.flatnonzero(trade == i)
        goods[at] = np.array(items, object)[rng.integers(len(items), size=len(at))]
    text: Texts = shop[terminal] + ", " + goods + " #" + number
    kind = rng.random(n)
    urgent = kind < np.array([URGENT_SHARE[s] for s in range(4)])[scenario]
    transfer = ~urgent & (rng.random(n) < 0.15)
    text[transfer] = _filled(_PURPOSES, number[transfer], rng)
    text[urgent] = _filled(_URGENT, number[urgent], rng)
    return text


def _shop(world: _World, terminal: int) -> str:
    """Name and city of a terminal; both follow from its number, without a random draw."""
    names = _TRADES[world.trade[terminal]][0]
    city = _CITIES[int(world.terminal_region[terminal]) % len(_CITIES)]
    return f"{names[terminal % len(names)]} {city}"


def _filled(templates: tuple[str, ...], number: Texts, rng: np.random.Generator) -> list[str]:
    which = rng.integers(len(templates), size=len(number))
    month = rng.integers(len(_MONTHS), size=len(number))
    return [templates[w].format(n=n, month=_MONTHS[m]) for w, n, m in zip(which, number, month, strict=True)]
