"""From a configuration to an algorithm: the `[algorithm]` and `[participation]` tables of config.toml.

What it does: refuses options that belong to another algorithm, fills in defaults, builds the value that `fl.rounds`
plays. What it leaves to others: what the options mean (each algorithm's own file).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from fl.algorithms.fedadam import FedAdam
from fl.algorithms.fedavg import FedAvg
from fl.algorithms.fedprox import FedProx
from fl.algorithms.participation import QUORUM, Dropouts, Everyone, Sampled
from fl.algorithms.state import Timetable
from fl.errors import AlgorithmError

AlgorithmName = Literal["fedavg", "fedprox", "fedadam"]
OPTIONS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("mu",),
    "fedadam": ("server_lr", "beta1", "beta2", "tau"),
}


@dataclass(frozen=True)
class AlgorithmSettings:
    """Which algorithm, and its options; None: the algorithm's own default. Raises `AlgorithmError` for an option of
    another algorithm.
    """

    name: AlgorithmName = "fedavg"
    mu: float | None = None  # fedprox: weight of the pull back to the global model
    server_lr: float | None = None  # fedadam: step of the server, in the unit of the weights
    beta1: float | None = None  # fedadam: decay of the mean
    beta2: float | None = None  # fedadam: decay of the squares
    tau: float | None = None  # fedadam: what is added to the root of the squares

    def __post_init__(self) -> None:
        if self.name not in OPTIONS:
            raise AlgorithmError(f"algorithm: expected one of {', '.join(OPTIONS)}, got {self.name!r}")
        for field in fields(self):
            if field.name != "name" and field.name not in OPTIONS[self.name] and getattr(self, field.name) is not None:
                owner = next(name for name, options in OPTIONS.items() if field.name in options)
                raise AlgorithmError(f"{field.name} is an option of {owner}, and the algorithm is {self.name}")


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
    settings: AlgorithmSettings, participation: ParticipationSettings | None, *, banks: int, seed: int
) -> FedAvg:
    """The algorithm that the settings ask for, with `banks` banks. Raises `AlgorithmError`."""
    options = {name: getattr(settings, name) for name in OPTIONS[settings.name]}
    given = {name: value for name, value in options.items() if value is not None}
    timetable = _timetable(participation, banks, seed)
    kinds: dict[str, type[FedAvg]] = {"fedavg": FedAvg, "fedprox": FedProx, "fedadam": FedAdam}
    return kinds[settings.name](timetable, **given)


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
