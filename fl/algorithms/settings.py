"""From a configuration to an algorithm: the `[algorithm]` and `[participation]` tables of config.toml.

What it does: refuses options that belong to another algorithm, fills in defaults, builds the value that `fl.rounds`
plays. What it leaves to others: what the options mean (each algorithm's own file).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from fl.algorithms.fedadam import FedAdam
from fl.algorithms.fedavg import FedAvg
from fl.algorithms.fedbuff import BUFFER, DURATIONS, MAX_WEIGHT, Clock, FedBuff
from fl.algorithms.fedprox import FedProx
from fl.algorithms.heads import HEAD, Heads
from fl.algorithms.participation import QUORUM, Dropouts, Everyone, Sampled
from fl.algorithms.state import Timetable
from fl.errors import AlgorithmError
from fl.model import Layout

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
    """Which algorithm, and its options; None: the algorithm's own default. Raises `AlgorithmError` for an option of
    another algorithm.
    """

    name: AlgorithmName = "fedavg"
    mu: float | None = None  # fedprox: weight of the pull back to the global model
    server_lr: float | None = None  # fedadam: step of the server, in the unit of the weights; fedbuff: a factor
    beta1: float | None = None  # fedadam: decay of the mean
    beta2: float | None = None  # fedadam: decay of the squares
    tau: float | None = None  # fedadam: what is added to the root of the squares
    head: str | None = None  # heads: layers that stay at their bank, as "hidden2,logit"
    buffer: int | None = None  # fedbuff: joins at which a round closes
    max_weight: int | None = None  # fedbuff: weight of an update that is not stale
    durations: str | None = None  # fedbuff: ticks that banks train, as "1,2,5", over and over

    def __post_init__(self) -> None:
        if self.name not in OPTIONS:
            raise AlgorithmError(f"algorithm: expected one of {', '.join(OPTIONS)}, got {self.name!r}")
        for field in fields(self):
            if field.name != "name" and field.name not in OPTIONS[self.name] and getattr(self, field.name) is not None:
                owners = " and ".join(name for name, options in OPTIONS.items() if field.name in options)
                raise AlgorithmError(f"{field.name} is an option of {owners}, and the algorithm is {self.name}")


@dataclass(frozen=True)
class ParticipationSettings:
    """Who takes part, and which accidents are simulated. None as a table: everybody, always."""

    fraction: float = 1.0  # of the banks, drawn anew for every round
    quorum: int = QUORUM  # fewest members of a roster
    vanish_before: float = 0.0  # probability of a bank vanishing before its roster closes
    vanish_after: float = 0.0  # and after it
    retries: int = 2  # of a round that was lost
    reuse: bool = False  # send the same update again in a retry; without differential privacy only


def algorithm_of(
    settings: AlgorithmSettings, participation: ParticipationSettings | None, *, banks: int, model: Layout, seed: int
) -> FedAvg:
    """The algorithm that the settings ask for, with `banks` banks and a model of layout `model`.

    Raises `AlgorithmError` for options out of range or that do not fit each other.
    """
    options = {name: getattr(settings, name) for name in OPTIONS[settings.name]}
    given = {name: value for name, value in options.items() if value is not None}
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
        raise AlgorithmError("fedbuff: banks join when they have finished; no fraction of them is drawn")
    try:
        ticks = [int(part) for part in settings.durations.split(",")] if settings.durations else DURATIONS
    except ValueError as fault:
        raise AlgorithmError(f"fedbuff: durations are ticks as in 1,2,5, got {settings.durations!r}") from fault
    clock = Clock(
        tuple(ticks[i % len(ticks)] for i in range(banks)),
        BUFFER if settings.buffer is None else settings.buffer,
        MAX_WEIGHT if settings.max_weight is None else settings.max_weight,
    )
    return FedBuff(clock, 1.0 if settings.server_lr is None else settings.server_lr)


def dropouts_of(settings: ParticipationSettings | None, *, seed: int) -> Dropouts:
    """The simulated accidents that the settings ask for; none where there are no settings."""
    if settings is None:
        return Dropouts()
    return Dropouts(settings.vanish_before, settings.vanish_after, settings.retries, settings.reuse, seed)


def quorum_of(settings: ParticipationSettings | None, timetable: Timetable) -> int:
    """Fewest members of a roster: all seats where nothing else was asked for."""
    return timetable.largest if settings is None else settings.quorum


def _timetable(settings: ParticipationSettings | None, banks: int, seed: int) -> Timetable:
    if settings is None or settings.fraction == 1.0:
        return Everyone(banks)
    return Sampled(banks, settings.fraction, settings.quorum, seed)
