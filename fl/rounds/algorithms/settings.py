"""Build an algorithm from a configuration: the `[algorithm]` and `[participation]` tables of config.toml.

What it does: refuses options that belong to another algorithm, fills in defaults, builds the value that
`fl.rounds.play` plays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from fl import options
from fl.errors import AlgorithmError
from fl.learning.model import Layout
from fl.rounds.algorithms.fedadam import FedAdam
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedbuff import BUFFER, DURATIONS, MAX_WEIGHT, Clock, FedBuff
from fl.rounds.algorithms.fedprox import FedProx
from fl.rounds.algorithms.heads import HEAD, Heads
from fl.rounds.algorithms.participation import Dropouts, Everyone, Sampled
from fl.rounds.algorithms.state import Timetable

AlgorithmName = Literal["fedavg", "fedprox", "fedadam", "heads", "fedbuff"]
OPTIONS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("mu",),
    "fedadam": ("server_lr", "beta1", "beta2", "tau"),
    "heads": ("head",),
    "fedbuff": ("buffer", "max_weight", "durations", "server_lr"),
}


@dataclass(frozen=True)
class AlgorithmSettings:
    """Which algorithm, and its options; None: the algorithm's own default.

    Raises `AlgorithmError` for an option of another algorithm.
    """

    name: AlgorithmName = "fedavg"
    mu: Annotated[float | None, options.MU] = None  # fedprox: weight of the penalty on the distance to the global model
    server_lr: Annotated[float | None, options.SERVER_LR] = None  # fedadam: step of the server; fedbuff: a factor
    beta1: Annotated[float | None, options.BETA] = None  # fedadam: decay of the mean
    beta2: Annotated[float | None, options.BETA] = None  # fedadam: decay of the squares
    tau: Annotated[float | None, options.TAU] = None  # fedadam: what is added to the root of the squares
    head: Annotated[str | None, options.LAYERS] = None  # heads: layers that stay at their bank, as "hidden2,logit"
    buffer: Annotated[int | None, options.BUFFER] = None  # fedbuff: joins at which a round closes
    max_weight: Annotated[int | None, options.MAX_WEIGHT] = None  # fedbuff: weight of an update that is not stale
    durations: str | None = None  # fedbuff: ticks that banks train, as in "1,2,5", repeated over the banks

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "algorithm: ")
        self.ticks()
        for field in fields(self):
            if field.name != "name" and field.name not in OPTIONS[self.name] and getattr(self, field.name) is not None:
                owners = " and ".join(name for name, taken in OPTIONS.items() if field.name in taken)
                raise AlgorithmError(f"{field.name} is an option of {owners}, and the algorithm is {self.name}")

    def ticks(self) -> tuple[int, ...]:
        """`durations` as numbers. Raises `AlgorithmError`."""
        if self.durations is None:
            return DURATIONS
        try:
            ticks: tuple[int, ...] = options.DURATIONS.read(self.durations)
        except options.Refused as fault:
            raise AlgorithmError(f"algorithm: durations: {fault}") from None
        return ticks


@dataclass(frozen=True)
class ParticipationSettings:
    """The banks that take part, and simulated dropouts. None instead of this table: all banks in every round."""

    fraction: Annotated[float, options.FRACTION] = 1.0  # of the banks, drawn anew for every round
    quorum: Annotated[int, options.QUORUM] = options.LEAST_BANKS  # fewest members of a roster
    vanish_before: Annotated[float, options.PROBABILITY] = 0.0  # that a bank vanishes before its roster closes
    vanish_after: Annotated[float, options.PROBABILITY] = 0.0  # that a bank vanishes after it
    retries: Annotated[int, options.RETRIES] = 2  # of a round that was lost
    reuse: bool = False  # send the same update again in a retry; without differential privacy only

    def __post_init__(self) -> None:
        options.check(self, AlgorithmError, "participation: ")


def algorithm_of(
    settings: AlgorithmSettings, participation: ParticipationSettings | None, *, banks: int, model: Layout, seed: int
) -> FedAvg:
    """The algorithm of the settings, with `banks` banks and a model of layout `model`.

    Raises `AlgorithmError` for options out of range or that do not fit each other.
    """
    asked = {name: getattr(settings, name) for name in OPTIONS[settings.name]}
    given = {name: value for name, value in asked.items() if value is not None}
    if settings.name == "fedbuff":
        return _fedbuff(settings, participation, banks)
    timetable = _timetable(participation, banks, seed)
    if settings.name == "heads":
        layers = HEAD if settings.head is None else tuple(layer.strip() for layer in settings.head.split(","))
        return Heads(timetable, model, layers)
    kinds: dict[str, type[FedAvg]] = {"fedavg": FedAvg, "fedprox": FedProx, "fedadam": FedAdam}
    return kinds[settings.name](timetable, **given)


def _fedbuff(settings: AlgorithmSettings, participation: ParticipationSettings | None, banks: int) -> FedBuff:
    if participation is not None and participation.fraction != 1.0:
        raise AlgorithmError("fedbuff: banks join when they finish, so no fraction of them is drawn: leave it out")
    ticks = settings.ticks()
    clock = Clock(
        tuple(ticks[i % len(ticks)] for i in range(banks)),
        BUFFER if settings.buffer is None else settings.buffer,
        MAX_WEIGHT if settings.max_weight is None else settings.max_weight,
    )
    return FedBuff(clock, 1.0 if settings.server_lr is None else settings.server_lr)


def dropouts_of(settings: ParticipationSettings | None, *, seed: int) -> Dropouts:
    """The simulated dropouts of the settings; none without settings."""
    if settings is None:
        return Dropouts()
    return Dropouts(settings.vanish_before, settings.vanish_after, settings.retries, settings.reuse, seed)


def quorum_of(settings: ParticipationSettings | None, timetable: Timetable) -> int:
    """Fewest members of a roster: all seats without settings."""
    return timetable.largest if settings is None else settings.quorum


def _timetable(settings: ParticipationSettings | None, banks: int, seed: int) -> Timetable:
    if settings is None or settings.fraction == 1.0:
        return Everyone(banks)
    return Sampled(banks, settings.fraction, settings.quorum, seed)
