"""What an attack costs under each robust rule: average precision, in rounds of the product's own code.

What it does: `measure` plays federated rounds without privacy and in plain sight, for every seed, attack and rule, and
writes one file per cell into a folder, so that an interrupted measurement goes on. A rule decides the same on exact
distances and on encrypted ones, so the figures are those of `demos train --robust RULE --attack NAME` on these data.

Every cell is compared with the rounds without the attackers (`ABSENT`), since that is the best that leaving out can do.
A local training is a function of model, rows and round, so it is played once and remembered for the other cells of its
seed: most rules lead to the same models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import cell_folder
from fl.data.federation import Federation, Rows, federation_of
from fl.learning.evaluation import evaluate
from fl.learning.model import flatten
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.attackers import Attackers, AttackName, AttackSettings
from fl.rounds.play import Rounds, Summation, play_rounds
from fl.runs.asked import configuration
from fl.runs.config import DataSettings, RunConfig
from fl.runs.plan import RunPlan, read_source
from fl.secure.robust import RobustSettings, plain_sum_without, robust_plain_sum
from fl.secure.session import Update, plain_sum
from secagg.rules import COUNTED, RuleName

NOBODY: Final = "none"  # in place of an attack: all banks are honest
UNDEFENDED: Final = "undefended"  # in place of a rule
ABSENT: Final = "without them"  # in place of a rule: the average of all but the attackers
FORMAT = "fl poisoning 1"
CPU = torch.device("cpu")

Attack = AttackName | Literal["none"]
Average = RuleName | Literal["undefended", "without them"]
Say = Callable[[str], None]
Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """What is measured: one source and partition, `attackers` of its banks, every combination of the others."""

    data: DataSettings
    attackers: int
    attacks: tuple[AttackName, ...]
    rules: tuple[RuleName, ...]
    seeds: tuple[int, ...]  # of split, first model, batches, and of who attacks
    rounds: int

    @property
    def of_folder(self) -> dict[str, Any]:
        """What all cells of one folder have in common."""
        data = cell_folder.without_folders(self.data)
        return {"format": FORMAT, "data": data, "attackers": self.attackers, "rounds": self.rounds}


@dataclass(frozen=True)
class Cell:
    """One file."""

    seed: int
    attack: Attack
    rule: Average

    @property
    def file(self) -> str:
        return f"seed {self.seed}, {self.attack}, {self.rule}.json"


def cells(question: Question) -> Iterator[Cell]:
    """Every cell, seed by seed, the ones to compare with first."""
    attacks: tuple[Attack, ...] = (NOBODY, *question.attacks)
    rules: tuple[Average, ...] = (UNDEFENDED, *question.rules)
    for seed in question.seeds:
        yield Cell(seed, NOBODY, ABSENT)
        for attack in attacks:
            for rule in rules:
                yield Cell(seed, attack, rule)


def measure(question: Question, folder: Path, say: Say) -> None:
    """Measure every cell that `folder` lacks. Raises `ResumeMismatch` for a folder of another question."""
    AttackSettings("ipm", question.attackers)
    cell_folder.require_same(folder, question.of_folder)
    left = [cell for cell in cells(question) if not (folder / cell.file).exists()]
    seat: _Seed | None = None
    for number, cell in enumerate(left, start=1):
        if seat is None or seat.seed != cell.seed:
            say(f"reading {Path(question.data.source).name}")
            seat = _Seed.of(question, cell.seed)
        say(f"{number} of {len(left)}: {cell.file.removesuffix('.json')}")
        cell_folder.write_cell(folder / cell.file, {**asdict(cell), **seat.played(cell)})


@dataclass(frozen=True)
class Remembering(FedAvg):
    """FedAvg that trains once from the same model on the same rows. Batches are seeded by bank and round."""

    trained: dict[bytes, Update] = field(default_factory=dict, repr=False)

    def contribution(self, module: nn.Module, rows: Rows, train: Callable[[], None]) -> Update:
        # Models of two rounds are never equal, so the model also stands for the round.
        key = hashlib.sha256(flatten(module).tobytes() + rows.index.tobytes() + rows.y.tobytes()).digest()
        if key not in self.trained:
            self.trained[key] = super().contribution(module, rows, train)
        return self.trained[key]


@dataclass(frozen=True)
class _Seed:
    """The data of one seed, and the trainings that its cells share."""

    seed: int
    config: RunConfig
    plan: RunPlan = field(repr=False)
    federation: Federation = field(repr=False)
    question: Question
    algorithm: Remembering = field(repr=False)

    @classmethod
    def of(cls, question: Question, seed: int) -> _Seed:
        asked = {"no_dp": True, "no_shared_statistics": True, "rounds": question.rounds, "seed": seed}
        named = {name: value for name, value in asdict(question.data).items() if value is not None}
        config = configuration({**asked, **{"data" if name == "source" else name: named[name] for name in named}})
        source = read_source(config.data, seed)
        plan = RunPlan.new(config, source)
        AttackSettings("ipm", question.attackers).require_honest(len(plan.banks))
        federation = federation_of(source)
        torch.set_num_threads(config.threads)
        return cls(seed, config, plan, federation, question, Remembering(Everyone(len(plan.banks))))

    def played(self, cell: Cell) -> dict[str, Any]:
        """Average precision on the test rows, and in how many rounds each bank was left out."""
        banks, count = self.federation.banks, self.question.attackers
        settings = AttackSettings("ipm" if cell.attack == NOBODY else cell.attack, count)
        who = Attackers.drawn(settings, len(banks), self.seed)
        names = [bank.name for position, bank in enumerate(banks) if position in who.members]
        rounds = Rounds(
            banks,
            self.plan.schedule(self.question.rounds),
            self.algorithm,
            self._average(cell.rule, frozenset(names)),
            clip=self.config.aggregation.clip,
            device=CPU,
            attackers=None if cell.attack == NOBODY else who,
        )
        state, rejected = rounds.begin(), dict[str, int]()
        for record, after in play_rounds(rounds):
            state = after
            for bank in record.rejected:
                rejected[bank] = rejected.get(bank, 0) + 1
        figures = evaluate(banks, rounds.models(state), CPU)
        return {
            "average_precision": figures.mean["average_precision"],
            "attackers": names if cell.attack != NOBODY else [],
            "rejected": rejected,
        }

    def _average(self, rule: Average, attackers: frozenset[str]) -> Summation:
        clip = self.config.aggregation.clip
        if rule == UNDEFENDED:
            return partial(plain_sum, clip=clip)
        if rule == ABSENT:
            return partial(plain_sum_without, banks=attackers, clip=clip)
        settings = RobustSettings(rule, self.question.attackers if rule in COUNTED else None)
        return partial(robust_plain_sum, clip=clip, settings=settings)


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """What every file of `folder` holds. Raises `UnreadableResults`."""
    return cell_folder.read_cells(folder, _require_figures)


def _require_figures(content: dict[str, Any]) -> None:
    float(content["average_precision"])
    _ = content["attack"], content["rule"], content["seed"], content["attackers"], content["rejected"].items()


def summary(found: Cells) -> dict[str, dict[str, Any]]:
    """By attack and rule: average precision of each seed, and how often honest banks and attackers were left out."""
    by_place: dict[str, dict[str, Any]] = {}
    for cell in sorted(found, key=lambda cell: int(cell["seed"])):
        place = by_place.setdefault(cell["attack"], {}).setdefault(
            cell["rule"], {"average_precision": [], "attackers_left_out": 0, "honest_left_out": 0}
        )
        place["average_precision"].append(cell["average_precision"])
        for bank, times in cell["rejected"].items():
            place["attackers_left_out" if bank in cell["attackers"] else "honest_left_out"] += times
    return by_place


def show(found: Cells) -> None:
    """A table on stdout: an attack a row, a rule a column."""
    by_place = summary(found)
    rules = list(dict.fromkeys(cell["rule"] for cell in found))
    rules.sort(key=lambda rule: (rule != ABSENT, rule != UNDEFENDED, rule))
    table = Table(title="average precision: mean over seeds [least, most]; rounds in which attackers + others were out")
    table.add_column("attack")
    for rule in rules:
        table.add_column(rule, justify="right")
    for attack in sorted(by_place, key=lambda attack: attack != NOBODY):
        table.add_row(attack, *(_told(by_place[attack].get(rule)) for rule in rules))
    Console(markup=False, emoji=False).print(table)


def _told(place: Mapping[str, Any] | None) -> str:
    if place is None:
        return "-"
    seeds = [float(value) for value in place["average_precision"]]
    mean, least, most = (f"{value:.3f}".lstrip("0") for value in (sum(seeds) / len(seeds), min(seeds), max(seeds)))
    out = f"{place['attackers_left_out']}+{place['honest_left_out']}"
    return f"{mean} [{least}, {most}] {out}"
