"""Generate the embedded data: card transactions of several banks with three kinds of fraud, from a seed.

The data follow the Fraud Detection Handbook, chapter 3 (Le Borgne et al., 2022): customers with a place, a typical
amount and a rate of transactions; terminals near them; and its three fraud scenarios.

1. Every transaction above an amount threshold is a fraud; here the threshold follows from the fraud share. 2. A
terminal is compromised for some weeks, and most transactions there are frauds. 3. A customer's details leak for 14
days: a third of the transactions are frauds of five times the amount.

The handbook's compromised terminals are all alike: 28 days in which every transaction is a fraud. Here each
compromise has a duration and a share of frauds of its own (`Compromises`), since a method that was tuned to one
duration would otherwise look better than it is.

A change of the data from a given day on can be added (`Drift`), to test drift detection.

Added here: banks that issue cards and regions where customers live, each customer in one of both, drawn independently;
a fraud share that is met whatever the size; and a free-text description of every transaction. The banks' cards meet at
the same terminals, as card issuers' do. Regions share only the transactions of customers who are away.
The code, names and templates are our own. Everything is vectorised over transactions.

Why the defaults are what they are. What banks can learn from each other is which terminals are compromised, so the
default world is one where a single bank sees too little of a terminal, as in the handbook's with ten random banks:

- Two terminals for a customer give one transaction a day at a terminal. Each of ten banks sees one in ten days and
  hardly finds out alone; all together see a fraud almost every day (labels take 7 days, in this world as in theirs).
- 60 % of 1 % frauds at terminals that are compromised for 14 to 42 days, with a share of frauds from .6 to 1, are about
  45 compromised terminals of 6,000 at a time. A share or a duration much lower would leave nothing to find: what is
  over before its labels arrive helps nobody.
- A customer has 40 terminals to return to. The test leaves out customers who are known to be compromised;
  with a dozen, those were nearly all who go to a terminal that was compromised in the training days.
- 3,000 customers in 77 days are 470,000 transactions: six weeks of history, a week to train on, a week until its labels
  are known, and three weeks to test on, in a second or two of computing.

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

AMOUNT_OF_REST = 0.20  # of the frauds that are not at compromised terminals; the others are at compromised customers
CUSTOMER_DAYS, CUSTOMER_RATE, CUSTOMER_FACTOR = 14, 1 / 3, 5.0
AWAY_SHARE = 0.10  # share of transactions outside the customer's region
TERMINALS_PER_CUSTOMER = 2
FAVOURITES = 40  # terminals that a customer returns to
MOST_COMPROMISES = 1000  # of one terminal or customer, before a fraud share is given up
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
class Compromises:
    """How terminals are compromised: for how long, how much of what happens there is fraud, and how often.

    A duration is a whole number of days from `shortest_days` to `longest_days` with the mean `mean_days`; None: the
    middle, and then all durations are equally likely. Other means make durations near one end likelier (see
    `_durations`). Each compromise has a share of frauds of its own, uniform from `least_share` to `most_share`.
    `of_frauds`: the share of all frauds that happen at compromised terminals; 0: no terminal is ever compromised.
    """

    shortest_days: Annotated[int, options.COMPROMISE_DAYS] = 14
    longest_days: Annotated[int, options.COMPROMISE_DAYS] = 42
    mean_days: Annotated[float | None, options.MEAN_DAYS] = None
    least_share: Annotated[float, options.COMPROMISE_SHARE] = 0.6
    most_share: Annotated[float, options.COMPROMISE_SHARE] = 1.0
    of_frauds: Annotated[float, options.TERMINAL_FRAUDS] = 0.6

    def __post_init__(self) -> None:
        options.check(self, DataError, "compromises: ")
        if self.shortest_days > self.longest_days or self.least_share > self.most_share:
            raise DataError(
                f"compromises: expected a shortest duration of at most {self.longest_days} days and a least share of "
                f"at most {self.most_share:g}, got {self.shortest_days} and {self.least_share:g}"
            )
        if self.mean_days is not None and not self.shortest_days <= self.mean_days <= self.longest_days:
            raise DataError(
                f"compromises: expected a mean from {self.shortest_days} to {self.longest_days} days, which are the "
                f"shortest and the longest duration, got {self.mean_days:g}"
            )


@dataclass(frozen=True)
class Simulation:
    """What to simulate. The defaults make about 470,000 transactions that fit fl/data/schemas/simulated.toml."""

    customers: Annotated[int, options.CUSTOMERS] = 3000
    terminals: Annotated[int, options.TERMINALS] = 6000
    days: Annotated[int, options.SIMULATED_DAYS] = 77
    banks: Annotated[int, options.BANKS] = 10
    fraud_share: Annotated[float, options.FRAUD_SHARE] = 0.01  # of all transactions
    start: dt.date = dt.date(2024, 1, 1)
    seed: Annotated[int, options.SEED] = 0
    drift: Drift | None = None
    regions: Annotated[int, options.REGIONS] = 8
    compromises: Compromises = Compromises()

    def __post_init__(self) -> None:
        options.check(self, DataError, "simulation: ")
        if self.banks > self.customers:
            raise DataError(f"simulation: expected no more banks than the {self.customers} customers, got {self.banks}")
        if self.regions > min(self.customers, self.terminals):
            raise DataError(
                f"simulation: expected no more regions than customers ({self.customers}) and terminals "
                f"({self.terminals}), got {self.regions}"
            )
        if self.drift is not None and self.drift.day >= self.days:
            raise DataError(f"simulation: expected a drift within its {self.days} days, got day {self.drift.day}")


def embedded(
    customers: int | None = None,
    banks: int | None = None,
    fraud_share: float | None = None,
    seed: int = 0,
    compromises: Compromises | None = None,
) -> Simulation:
    """The settings of the embedded data: two terminals for a customer, and defaults where an argument is None."""
    customers = Simulation.customers if customers is None else customers
    return Simulation(
        customers,
        TERMINALS_PER_CUSTOMER * customers,
        banks=Simulation.banks if banks is None else banks,
        fraud_share=Simulation.fraud_share if fraud_share is None else fraud_share,
        seed=seed,
        compromises=Compromises() if compromises is None else compromises,
    )


def simulate(simulation: Simulation) -> pd.DataFrame:
    """The transactions, in time order; the same for the same `simulation` on every machine with this numpy.

    Columns: TRANSACTION (int), TIME (datetime64), CUSTOMER, TERMINAL, BANK (text; the customer's), REGION (text; the
    customer's), AMOUNT (float, cents), DESCRIPTION (text), IS_FRAUD (0/1), SCENARIO (0 none, 1 to 3: never a feature).
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
    # Sorted one after the other, so that no column is in memory twice.
    customer, terminal, day, second = customer[order], terminal[order], day[order], second[order]
    amount, scenario = amount[order], scenario[order]
    return pd.DataFrame(
        {
            "TRANSACTION": np.arange(len(customer)),
            "TIME": _times(simulation.start, day, second),
            "CUSTOMER": _names("C", simulation.customers)[customer],
            "TERMINAL": _names("T", simulation.terminals)[terminal],
            "BANK": _names("bank-", simulation.banks, width=1)[world.bank[customer]],
            "REGION": _names("region-", simulation.regions, width=1)[world.customer_region[customer]],
            "AMOUNT": amount,
            "DESCRIPTION": _describe(world, terminal, scenario, words),
            "IS_FRAUD": (scenario > 0).astype(np.int64),
            "SCENARIO": scenario,
        }
    )


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
    favourites: Ints  # int[customers, FAVOURITES]: terminals a customer returns to
    trade: Ints  # line of business of each terminal


def _world(simulation: Simulation, rng: np.random.Generator) -> _World:
    regions, banks = simulation.regions, simulation.banks
    weights = rng.dirichlet(np.full(regions, 8.0))  # regions and banks differ in size
    customer_region = _members(simulation.customers, weights, rng)
    terminal_region = _members(simulation.terminals, weights, rng)
    bank = _members(simulation.customers, rng.dirichlet(np.full(banks, 8.0)), rng)
    by_region = np.argsort(terminal_region, kind="stable")
    region_start = np.searchsorted(terminal_region[by_region], np.arange(regions + 1))
    favourites = _pick(by_region, region_start, np.repeat(customer_region, FAVOURITES), rng)
    return _World(
        customer_region=customer_region,
        bank=bank,
        rate=rng.uniform(0.0, 4.0, simulation.customers),
        typical=rng.uniform(5.0, 100.0, simulation.customers),
        terminal_region=terminal_region,
        by_region=by_region,
        region_start=region_start,
        favourites=favourites.reshape(-1, FAVOURITES),
        trade=rng.integers(len(_TRADES), size=simulation.terminals),
    )


def _members(count: int, weights: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """A group for each of `count` members, drawn by the groups' weights; no group is empty."""
    groups = rng.choice(len(weights), count, p=weights)
    groups[rng.permutation(count)[: len(weights)]] = np.arange(len(weights))
    return groups


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
    compromises, frauds = simulation.compromises, simulation.fraud_share * len(amount)
    of_terminals = compromises.of_frauds
    of_amounts, of_customers = (1 - of_terminals) * AMOUNT_OF_REST, (1 - of_terminals) * (1 - AMOUNT_OF_REST)
    scenario = np.zeros(len(amount), np.int64)
    if large := round(of_amounts * frauds):
        threshold = np.partition(amount, -large)[-large]
        scenario[amount >= threshold] = 1
    at_terminal = _episodes(
        terminal, day, simulation.terminals, simulation.days, compromises, round(of_terminals * frauds), rng
    )
    scenario[at_terminal] = 2
    at_customer = _episodes(
        customer, day, simulation.customers, simulation.days, LEAK, round(of_customers * frauds), rng
    )
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
    wave = Compromises(left, left, least_share=1.0, most_share=1.0)
    hit = _episodes(terminal[honest], day[honest] - drift.day, simulation.terminals, left, wave, more, rng)
    scenario[honest[hit]] = 2
    return scenario, amount


# What happens to a customer whose details leak.
LEAK = Compromises(CUSTOMER_DAYS, CUSTOMER_DAYS, least_share=CUSTOMER_RATE, most_share=CUSTOMER_RATE)


def _episodes(
    party: Ints, day: Ints, parties: int, days: int, law: Compromises, wanted: int, rng: np.random.Generator
) -> Ints:
    """The first `wanted` frauds of compromises that follow `law`, drawn one party after the other.

    Compromises start at the same rate on all days, also on days before the first, so that fraud is as frequent on the
    first day as on the last. Each transaction of a compromise is a fraud with the probability of that compromise.
    Raises `DataError` where so many frauds do not come about.
    """
    before = law.longest_days
    stride = days + 2 * before  # of a party in `key`: no compromise of one reaches the next
    order = np.lexsort((day, party))
    key = party[order] * stride + day[order] + before
    taken, found, missing = np.zeros(len(party), np.bool_), [np.zeros(0, np.int64)], wanted
    for _ in range(MOST_COMPROMISES):
        if missing == 0:
            return np.concatenate(found)
        victim = rng.permutation(parties)
        start = victim * stride + rng.integers(1, before + days, parties)
        low, high = np.searchsorted(key, start), np.searchsorted(key, start + _durations(law, parties, rng))
        rate = rng.uniform(law.least_share, law.most_share, parties)
        # Not many more parties than it takes: what lies behind them would be thrown away.
        used = int(np.searchsorted(np.cumsum((high - low) * rate), 1.2 * missing + 10)) + 1
        low, lengths, rate = low[:used], (high - low)[:used], rate[:used]
        flat = np.repeat(low - np.concatenate(([0], np.cumsum(lengths)[:-1])), lengths) + np.arange(lengths.sum())
        hits = order[flat[rng.random(len(flat)) < np.repeat(rate, lengths)]]
        hits = hits[~taken[hits]][:missing]
        taken[hits] = True
        found.append(hits)
        missing -= len(hits)
    raise DataError(
        f"simulation: expected {wanted} frauds of compromises among {len(party)} transactions, got {wanted - missing} "
        f"from {MOST_COMPROMISES} compromises each: lower the fraud share, or raise the share of frauds in a compromise"
    )


def _durations(law: Compromises, count: int, rng: np.random.Generator) -> Ints:
    """Whole days from the shortest to the longest duration, with the law's mean.

    Of the interval's beta laws with that mean, the one whose density is monotone and has its peak at the nearer end:
    Beta(1, 1/m - 1) for a mean m below the middle, mirrored above it, uniform in the middle.
    """
    span = law.longest_days - law.shortest_days + 1
    middle = (law.shortest_days + law.longest_days) / 2
    mean = ((middle if law.mean_days is None else law.mean_days) - law.shortest_days + 0.5) / span
    nearer = min(mean, 1 - mean)
    distance = 1 - rng.random(count) ** (1 / (1 / nearer - 1))  # from the nearer end, as a share of the interval
    place = distance if mean <= 0.5 else 1 - distance
    return law.shortest_days + np.minimum(place * span, span - 1).astype(np.int64)


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
    number = np.array([str(i) for i in range(1000, 9999)], object)[rng.integers(8999, size=n)]
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
