"""The type, range and unit of every option, declared once for the command line, for TOML and for Python.

What it does: the constants below are the declarations. A settings dataclass names one beside each field
(`clip: Annotated[float, options.CLIP]`) and calls `check` when it is made, which covers Python and every TOML file that
fills such a class; the commands make their click types of the same constants (`demos.options`). Nothing else in the
repository says which numbers an option takes.

A refusal names the option, what was expected with its unit, and the value. NaN and infinities are not accepted as
numbers, True is not accepted as 1, and None is accepted only where a field says so.

What it leaves to others: options that contradict each other (`fl.runs.refusals`), and the content of files.
It imports neither torch nor click, so that `--help` answers quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral
from numbers import Real as AnyReal
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

from fl.errors import FederationError


class Refused(ValueError):
    """A value is not allowed for its option. The message says expected and got; the caller adds the name."""


class Option(Protocol):
    """Its `str` completes a message that begins with "expected "."""

    def of(self, value: object) -> Any:
        """`value` as a built-in Python type. Raises `Refused`."""

    def read(self, text: str) -> Any:
        """The value that a person writes as `text`. Raises `Refused`."""


@dataclass(frozen=True)
class Real:
    """A finite number from `low` to `high`. `above` excludes `low` itself, `below` excludes `high` itself."""

    low: float
    high: float
    unit: str = ""
    above: bool = False
    below: bool = False

    def __str__(self) -> str:
        first = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        last = f" and below {self.high:g}" if self.below else f" and up to {self.high:g}" if self.above else None
        unit = f" ({self.unit})" if self.unit else ""
        return f"a number {first}{last or f' to {self.high:g}'}{unit}"

    def of(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, AnyReal):
            raise refused(self, value)
        try:
            number = float(value)
        except OverflowError:
            raise refused(self, value) from None
        fits = (self.low < number if self.above else self.low <= number) and (
            number < self.high if self.below else number <= self.high
        )
        if not (math.isfinite(number) and fits):
            raise refused(self, value)
        return number

    def read(self, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise refused(self, text) from None
        try:
            return self.of(number)
        except Refused:
            raise refused(self, text) from None  # as it was written


@dataclass(frozen=True)
class Whole:
    """An integer from `low` to `high`, both included. numpy integers are accepted, 3.0 is not."""

    low: int
    high: int
    unit: str = ""

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (f" ({self.unit})" if self.unit else "")

    def of(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise refused(self, value)
        number = int(value)
        if not self.low <= number <= self.high:
            raise refused(self, value)
        return number

    def read(self, text: str) -> int:
        """Also accepts text such as 1e6."""
        try:
            if "e" not in text.lower():
                return self.of(int(text))
            number = float(text)
            if number.is_integer() and abs(number) < 2**53:
                return self.of(int(number))
        except (ValueError, OverflowError):  # `Refused` is one; so is a number of more digits than Python reads
            pass
        raise refused(self, text)


@dataclass(frozen=True)
class Text:
    """A text without NUL characters. `what`: what it names, for messages. `empty`: whether "" is accepted."""

    what: str = "a text"
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.what}, {'' if self.empty else 'not empty and '}without NUL"

    def of(self, value: object) -> str:
        if not isinstance(value, str) or not (value or self.empty) or "\0" in value:
            raise refused(self, value)
        return value

    def read(self, text: str) -> str:
        return self.of(text)


@dataclass(frozen=True)
class Choice:
    """One of several fixed words."""

    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"

    def of(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise refused(self, value)
        return value

    def read(self, text: str) -> str:
        return self.of(text)


@dataclass(frozen=True)
class Switch:
    """True or false; written as "true" or "false"."""

    def __str__(self) -> str:
        return "true or false"

    def of(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise refused(self, value)
        return value

    def read(self, text: str) -> bool:
        if text not in ("true", "false"):
            raise refused(self, text)
        return text == "true"


@dataclass(frozen=True)
class Listed:
    """Several values of one option: a tuple, or a text with commas between them. `least`: fewest values."""

    each: Option
    least: int = 0

    def __str__(self) -> str:
        return f"a list of {f'{self.least} or more ' if self.least else ''}values, each {self.each}"

    def of(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, tuple) or len(value) < self.least:
            raise refused(self, value)
        return tuple(self.each.of(one) for one in value)

    def read(self, text: str) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",")] if text.strip() else []
        if len(parts) < self.least:
            raise refused(self, text)
        try:
            return tuple(self.each.read(part) for part in parts)
        except Refused:
            raise refused(self, text) from None


@dataclass(frozen=True)
class _Instance:
    """An object of one class, such as a path or nested settings, or of one of several."""

    kinds: tuple[type, ...]

    def __str__(self) -> str:
        return f"a {' or a '.join(kind.__name__ for kind in self.kinds)}"

    def of(self, value: object) -> Any:
        if not isinstance(value, self.kinds):
            raise refused(self, value)
        return value

    def read(self, text: str) -> Any:
        raise refused(self, text)


def refused(option: object, value: object) -> Refused:
    return Refused(f"expected {option}, got {shown(value)}")


def shown(value: object) -> str:
    """`value` in one short line."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def check(settings: object, error: type[FederationError], where: str = "") -> None:
    """Check every field of a frozen dataclass against its declaration; store its value as a built-in Python type.

    Call it in `__post_init__`. `where`: text before a field's name in a message, as in "[label] ". Raises `error`
    naming the field.
    """
    for name, (option, optional) in declared(type(settings)).items():  # type: ignore[arg-type]  # classes can be hashed (mypy 11470)
        value = getattr(settings, name)
        if value is None and optional:
            continue
        try:
            object.__setattr__(settings, name, option.of(value))
        except Refused as fault:
            raise error(f"{where}{name}: {fault}") from None


@cache
def declared(kind: type) -> Mapping[str, tuple[Option, bool]]:
    """The option of each field of the dataclass `kind` that can be checked, and whether the field may be None."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind, include_extras=True)
    found = {field.name: _declared(hints[field.name]) for field in fields(kind) if field.init}
    return {name: each for name, each in found.items() if each is not None}


def _declared(hint: Any) -> tuple[Option, bool] | None:
    option: Option | None = None
    if get_origin(hint) is Annotated:
        hint, option, *_ = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    optional, kinds = NoneType in kinds, tuple(kind for kind in kinds if kind is not NoneType)
    if option is None and len(kinds) == 1:
        option = _of_type(kinds[0])
    elif option is None and all(isinstance(kind, type) and is_dataclass(kind) for kind in kinds):
        option = _Instance(kinds)
    return None if option is None else (option, optional)


def _of_type(kind: Any) -> Option | None:
    """The option that a bare type stands for; None where the type is not checked here.

    A bare number raises `TypeError`, because it has no range: that is a fault of the class.
    """
    if kind in (int, float):
        raise TypeError("a number among settings needs a range: Annotated[..., options.X]")
    if get_origin(kind) is Literal:
        return Choice(get_args(kind))
    if get_origin(kind) is tuple and get_args(kind)[1:] == (Ellipsis,):
        each = _declared(get_args(kind)[0])
        return None if each is None else Listed(each[0])
    if kind is str:
        return Text()
    if kind is bool:
        return SWITCH
    kind = get_origin(kind) or kind
    concrete = isinstance(kind, type) and not getattr(kind, "_is_protocol", False)
    return _Instance((kind,)) if concrete else None


SWITCH = Switch()

# --- privacy --------------------------------------------------------------------------------------------------------

# Above 1000 the accountant's grid would not fit in memory, and such an epsilon promises nothing
# (`fl.privacy.accounting.HOPELESS_EPSILON`).
EPSILON = Real(0, 1000, "for the life of a bank's data", above=True)
# A mechanism may publish each row unprotected with probability delta, so delta belongs well below 1 / rows. 0.01 is
# above that for every bank with enough rows to train.
DELTA = Real(0, 0.01, "probability; well below 1 / rows", above=True)
EPSILONS = Listed(EPSILON)
SAMPLE_RATE = Real(0, 1, "probability of a row being in a batch", above=True)
STEPS = Whole(1, 10**6, "noisy steps per round")
MAX_GRAD_NORM = Real(0, 1e9, "L2 norm of a row's gradient", above=True)
EXPECTED_BATCH = Real(1, 1e9, "rows")
ROWS_PER_BANK = Real(100, 1e9, "training rows of a bank, declared in public")
LONGEST_STEP = Real(0, 1e9, "L2 norm of a step, in the unit of the weights", above=True)
UPDATE_NORM = Real(0, 1e9, "L2 norm of a bank's update", above=True)
NOISE_MULTIPLIER = Real(0, 1e12, "of the clipping norm", above=True)
SHARE_VARIANCE = Real(0, 1e30, "grid units squared", above=True)
SHARE_PIECES = Whole(1, 2**31, "draws")

# --- banks, and counts that they share ------------------------------------------------------------------------------

MOST_BANKS = 65_536  # banks in a round (`secagg.plan.MAX_CLIENTS`)
BANKS = Whole(1, MOST_BANKS, "banks")
RANDOM_BANKS = Whole(2, MOST_BANKS, "banks")
LEAST_BANKS = 3  # of two banks, each learns the other's update from the average
QUORUM = Whole(LEAST_BANKS, MOST_BANKS, "banks; of two, each learns the other's update from the average")
ROUND_QUORUM = Whole(2, MOST_BANKS, "contributions")
BUDGET_SHARE = Real(0, 1, "of what is left of epsilon", above=True, below=True)
INCREMENT_DAYS = Whole(1, 3660, "days")
HISTORY_DAYS = Whole(0, 3660, "days; 0 is the training period")
BUCKETS = Whole(1, 2**24, "slots")
SIGMA = Real(0, 1e12, "events", above=True)
EPISODE_DAYS = Real(1, 3660, "days, the mean of an episode")
EPISODE_SHAPE = Real(0.1, 1e6, "of the gamma law of an episode's days; large: a fixed duration")
NATS = Real(-1e300, 1e300, "nats")

# --- data -----------------------------------------------------------------------------------------------------------

SEED = Whole(0, 2**63 - 1, "seed; TOML's largest integer, and less than torch's and numpy's")
SEEDS = Listed(SEED, least=1)
ROUNDS = Whole(0, 10**6, "rounds")
SOME_ROUNDS = Whole(1, 10**6, "rounds")
TEST_WINDOWS = Whole(1, 520, "weeks")
CUSTOMERS = Whole(10, 10**6, "customers")
TERMINALS = Whole(10, 2 * 10**6, "terminals")
SIMULATED_DAYS = Whole(1, 3660, "days")
FRAUD_SHARE = Real(0.001, 0.2, "of all transactions")
REGIONS = Whole(1, 1000, "regions")
COMPROMISE_DAYS = Whole(1, 3660, "days that a terminal is compromised")
MEAN_DAYS = Real(1, 3660, "days that a terminal is compromised, on average")
COMPROMISE_SHARE = Real(0, 1, "of the transactions at a terminal while it is compromised", above=True)
TERMINAL_FRAUDS = Real(0, 1, "of all frauds")
DRIFT_DAY = Whole(0, 3660, "day of the data, 0 is the first")
AMOUNT_FACTOR = Real(0.01, 100, "of every amount")
FRAUD_FACTOR = Real(1, 10, "of the frauds a day")
FILE = Text("a file's name")
FOLDER = Text("a folder's name")

# --- training -------------------------------------------------------------------------------------------------------

LEARNING_RATE = Real(0, 1e6, "step per unit of gradient", above=True)
RATE_OR_BY_NOISE = Real(0, 1e6, "step per unit of gradient; 0: chosen by the noise")
MOMENTUM = Real(0, 1, "of the step before", below=True)
POS_WEIGHT = Real(0, 1e6, "weight of a fraud in the loss", above=True)
EPOCHS = Whole(1, 10**6, "passes over a bank's rows")
BATCH_SIZE = Whole(1, 10**9, "rows")
DROPOUT = Real(0, 1, "probability", below=True)
PRIOR = Real(0, 1, "public guess of the fraud share", above=True, below=True)
THREADS = Whole(1, 1024, "threads")

# --- trees ---------------------------------------------------------------------------------------------------------

INPUTS = Choice(("own", "risk"))  # `fl.runs.config.ModelSettings`
TREES = Whole(1, 2000, "trees")
TREE_DEPTH = Whole(1, 8, "splits between the root and a leaf")
TREE_RATE = Real(0, 1, "share of a leaf's step", above=True)
TREE_PENALTY = Real(1e-3, 1e6, "rows' worth of curvature, added to a leaf's")
BINS = Whole(2, 1024, "bins of a column of numbers")
CLASS_WEIGHT = Whole(1, 64, "weight of a fraud; a power of two")
LEAST_HESSIAN = Real(0, 1e9, "sum of p (1 - p) on either side of a split")
LEAST_ROWS = Whole(1, 10**9, "rows on either side of a split")
LEAST_GAIN = Real(0, 1e9, "gain of a split")
DRAWN_SHARE = Real(0, 1, "share drawn for each tree", above=True)
PATIENCE = Whole(0, 2000, "trees without a lower validation loss; 0: never stop early")

# --- algorithms and participation -----------------------------------------------------------------------------------

MU = Real(0, 1e6, "weight of the pull to the global model")
SERVER_LR = Real(0, 1e6, "fedadam: in the unit of the weights; fedbuff: a factor", above=True)
BETA = Real(0, 1, "decay per round", below=True)
TAU = Real(0, 1e6, "in the unit of the weights", above=True)
BUFFER = Whole(1, MOST_BANKS, "joins")
SEALED_BUFFER = Whole(3, MOST_BANKS, "joins; an encrypted round needs three")
MAX_WEIGHT = Whole(1, 2**20, "weight of one update")
TICKS = Whole(1, 10**6, "ticks")
DURATIONS = Listed(TICKS, least=1)
LAYERS = Text("layers' names with commas")
FRACTION = Real(0, 1, "of the banks", above=True)
PROBABILITY = Real(0, 1, "probability")
RETRIES = Whole(0, 1000, "of a round that was lost")

# --- attackers, and rules that leave them out -----------------------------------------------------------------------

RULE = Choice(("outliers", "nnm", "multikrum", "krum", "norm"))  # `secagg.rules`
ATTACK = Choice(("sign-flip", "scale", "label-flip", "noise", "alie", "ipm"))  # `fl.rounds.attackers`
NONE = "none"  # beside a configuration that has a rule, or attackers
RULE_OR_NONE = Choice((*RULE.words, NONE))
ATTACK_OR_NONE = Choice((*ATTACK.words, NONE))
ATTACKERS = Whole(1, MOST_BANKS, "banks")

# --- aggregation ----------------------------------------------------------------------------------------------------

RELEASES_KEPT = Whole(10, 10**9, "releases")  # `secagg.ledger.LEAST_KEPT` or more
ENGINE = Choice(("auto", "fast", "seal"))  # `secagg.engines`
CLIP = Real(1e-30, 1e30, "in the unit of the update")
VALUE_BITS = Whole(2, 40, "bits of a value, sign included")
LENGTH = Whole(1, 2**33, "values")

# --- scoring --------------------------------------------------------------------------------------------------------

AHEAD = Real(0, 1e6, "hours", above=True)
ALERTS_A_DAY = Real(0, 1e9, "alerts a day; alerts in all where rows have no days", above=True)
COST_OF_ONE = Real(0, 1e12, "money, in any one currency", above=True)
REVIEWED = Whole(1, 10**6, "transactions that a team can review")
HELD_OUT_DAYS = Whole(1, 3660, "days before training")
COUNT = Whole(0, 2**63 - 1, "rows")
SLOPE = Real(0, 1e6, "of the log odds", above=True)
INTERCEPT = Real(-1e6, 1e6, "nats")
THRESHOLD = Real(0, 2, "score; above 1 nothing is flagged")

# --- limits of single banks ----------------------------------------------------------------------------------------

MEMORY_MB = Real(0, 1e9, "MiB", above=True)
SECONDS = Real(0, 1e9, "seconds a round", above=True)
BYTES = Whole(1, 2**63 - 1, "bytes a round")
SPEED = Real(0, 1e6, "of the bank's machine; 1 is this one", above=True)

# --- schemas --------------------------------------------------------------------------------------------------------

COLUMN = Text("a column's name")
CELL = Text("what stands in a cell", empty=True)
WORDS = Listed(CELL, least=1)
DELAY_DAYS = Whole(0, 36_500, "days")
TYPICAL = Real(0, 1e15, "in the column's currency")
SPREAD = Real(0, 1e9, "natural-log units", above=True)
PER_DAY = Real(0, 1e9, "transactions a day", above=True)
CENTER = Real(-1e30, 1e30, "in the column's unit")
SCALE = Real(0, 1e30, "in the column's unit", above=True)
HASH_WIDTH = Whole(0, 65_536, "columns")
TEXT_WIDTH = Whole(1, 65_536, "columns")
NGRAMS = Listed(Whole(1, 64, "characters"))
DAY = Whole(-4_000_000, 4_000_000, "days since 1970-01-01, or since 0 without a calendar")
TRAIN_FRACTION = Real(0, 1, "of the rows", above=True, below=True)
VALIDATION_SHARE = Real(0, 1, "of the customers", below=True)
WINDOWS_DAYS = Listed(Whole(1, 36_500, "days"))
WINDOWS_MINUTES = Listed(Whole(1, 52_560_000, "minutes"))
DELIMITER = Text("one character")
DECIMAL = Choice((".", ","))
ENCODING = Choice(  # by Python's names; each writes the digits and Latin letters as text, and none runs anything
    (
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "iso8859-15", "cp1250", "iso8859-2"),
        *("cp1251", "koi8-r", "cp1253", "cp1254", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr", "mac_roman"),
    )
)
INSTANT_US = Whole(-(10**18), 10**18, "microseconds since 1970-01-01, or since 0 without a calendar")
TOML = Text("TOML", empty=True)
BOUND = Real(0, 1e6, "scaled features are clipped to it", above=True)

# --- language models ------------------------------------------------------------------------------------------------

SCENARIO_ROWS = Whole(2, 10_000, "transactions")
EXAMPLE_ROWS = Whole(10, 10**6, "examples per bank")
ALERTS = Whole(1, 1000, "alerts")
REPEATS = Whole(1, 1000, "trainings")
REPLICATES = Whole(100, 10**6, "of the bootstrap")
MIN_CUSTOMERS = Whole(1, 10**9, "customers")
TOKENS = Whole(0, 10**15, "tokens")
COST = Real(0, 1e12, "money, in the currency of the prices")
PRICE = Real(0, 1e9, "money per million tokens")
TIMEOUT = Real(0, 86_400, "seconds", above=True)
SDK_RETRIES = Whole(0, 100, "of one request")
TUNING_EPOCHS = Whole(1, 50, "passes over the examples")

# --- parties of a network -------------------------------------------------------------------------------------------

ROLE = Choice(("bank", "key_holder", "aggregator"))
PARTY_QUORUM = Whole(2, MOST_BANKS, "banks")
MODEL_REPEATS = Whole(0, 2**31 - 1, "rosters from one base model beyond the first")
WAIT = Real(0, 86_400, "seconds", above=True)
ATTEMPTS = Whole(1, 1000, "of one round")

# --- networks and measurements --------------------------------------------------------------------------------------

NETWORK_BANKS = Whole(3, 12, "banks")
NETWORK_CUSTOMERS = Whole(30, 10**6, "customers")
NAMES = Listed(Text("a name"), least=1)
ABLATION_SEEDS = Whole(1, 1000, "runs of every variant")
DRAFTED_ROWS = Whole(2000, 10**7, "rows")
CYCLES = Whole(1, 10**6, "visits of every case")
DRAWS = Whole(1, 10_000, "draws of all noise")
PART_DRAWS = Whole(0, 10_000, "draws of all noise")
SHIFTS = Listed(Whole(-36_500, 36_500, "days"), least=1)
MEASURED_CLIENTS = Whole(2, MOST_BANKS, "clients")
MEASURED_BITS = Whole(2, 32, "bits of a value, sign included")
SIZES, MEASURED_COUNTS, BITS = Listed(LENGTH), Listed(BANKS), Listed(VALUE_BITS)
TOLERANCE = Real(0, 1e6, "share of the time")
