"""What a private federation is worth: average precision over fresh draws of all noise, with one part changed at a time.

What it does: `measure` plays the counts and the steps of a private run with the product's own code, only that shares
are summed in the clear (the encrypted sum is exact, so the figures are those of `demos train`), and writes one file per
cell into a folder, so that an interrupted measurement goes on. A cell is one draw at one epsilon, noise law and kind of
noise, or the baselines without any noise; each on training and test days that may be shifted.

All of it looks at private labels and no ledger records it: it is for data whose labels are public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks import cell_folder
from benchmarks.errors import BenchmarkSettingsError
from benchmarks.worth_rows import WorthRows
from fl.counts.plan import Totals
from fl.counts.risk_columns import risk_column
from fl.counts.settings import plan_sharing
from fl.data.features import CustomerHistory
from fl.data.federation import SIMULATED, BankData, Rows, pooled_local, resolve_schema
from fl.data.reading import read_header
from fl.learning.evaluation import evaluate
from fl.learning.model import unflatten
from fl.learning.noisy_or import fit_noisy_or
from fl.privacy.protection import protection
from fl.rounds.algorithms.state import State
from fl.rounds.joint_noise import JointNoise, row_sensitivity
from fl.rounds.joint_steps import ITERATE
from fl.rounds.play import Rounds, play_rounds
from fl.runs.asked import configuration
from fl.runs.baselines import alone
from fl.runs.config import DataSettings
from fl.runs.noise import with_noise
from fl.runs.plan import RunPlan

Law = Literal["laplace", "gaussian"]
Noise = Literal["shared", "own"]
Figures = dict[str, list[float]]  # by name: average precision of each test week
Say = Callable[[str], None]

CPU = torch.device("cpu")
FORMAT = "fl worth 1"
WINDOW_DAYS = 28  # of the z-score that stands in for the filter
MOST_Z = 5.0  # to which it is clipped

# Figures of one draw, with what each of them means.
RELEASED = "federated, released parts only"
EVIDENCE = "federated, own evidence when scoring"
HOME = "at home, the run's own release"
LAST_ITERATE = "released parts only, last iterate"
NO_HISTORY = "released parts only, without the customer's own past amounts"
LOGISTIC = "released parts only, logistic model with the risk as a feature"
Z_SCORES = "released parts only, z-scores of the counts instead of the filter"
NO_COUNTS = "released parts only, without counts"

# Figures without any noise.
OPEN = "federated without privacy, own evidence when scoring"
OPEN_RELEASED = "federated without privacy, released parts only"
OPEN_HOME = "at home, exact counts"
ALONE_FILTER = "alone with the filter, eight weeks of rows"
ALONE_FILTER_SHORT = "alone with the filter, training rows only"
ALONE_PLAIN = "alone without the filter, eight weeks of rows"
ALONE_PLAIN_SHORT = "alone without the filter, training rows only"
ALONE_NETWORK = "alone without the filter, the network"


@dataclass(frozen=True)
class Question:
    """What is measured: one source and partition, every combination of the others."""

    data: DataSettings
    epsilons: tuple[float, ...]
    draws: int
    laws: tuple[Law, ...] = ("laplace", "gaussian")
    part_draws: int = 5  # of them, with one part changed at a time
    noises: tuple[Noise, ...] = ("shared", "own")
    shifts: tuple[int, ...] = (0,)  # days
    baselines: bool = True
    seed: int = 0  # of the split; noise is never seeded
    changes: tuple[tuple[str, Any], ...] = ()  # further options of `demos train`

    @property
    def of_folder(self) -> dict[str, Any]:
        """What all cells of one folder have in common."""
        data = cell_folder.without_folders(self.data)
        return {"format": FORMAT, "data": data, "seed": self.seed, "changes": dict(self.changes)}


@dataclass(frozen=True)
class Cell:
    """One file: `epsilon` None for the baselines."""

    shift: int
    epsilon: float | None = None
    law: Law = "laplace"
    noise: Noise = "shared"
    draw: int = 0

    @property
    def file(self) -> str:
        if self.epsilon is None:
            return f"baselines, shift {self.shift}.json"
        return f"shift {self.shift}, epsilon {self.epsilon:g}, {self.law}, {self.noise}, draw {self.draw}.json"


def cells(question: Question) -> Iterator[Cell]:
    """Every cell, draw by draw, so that an interrupted measurement has some of each."""
    for shift in question.shifts:
        for draw in range(question.draws):
            for epsilon in question.epsilons:
                for noise in question.noises:
                    for law in question.laws if noise == "shared" else question.laws[:1]:
                        yield Cell(shift, epsilon, law, noise, draw)
        if question.baselines:
            yield Cell(shift)


def measure(question: Question, folder: Path, say: Say) -> None:
    """Measure every cell that `folder` lacks. Raises `ResumeMismatch` for a folder of another question."""
    # What cannot be read is refused before anything is said or written.
    schema = resolve_schema(question.data.source, question.data.schema)
    if question.data.source != SIMULATED:
        read_header(question.data.source, schema.delimiter, schema.encoding)
    cell_folder.require_same(folder, question.of_folder)
    left = [cell for cell in cells(question) if not (folder / cell.file).exists()]
    rows: tuple[int, WorthRows] | None = None
    plans: dict[tuple[float, Law, Noise], Draws] = {}
    for number, cell in enumerate(left, start=1):
        if rows is None or rows[0] != cell.shift:
            say(f"reading {Path(question.data.source).name}")
            days = configuration(dict(question.changes)).model.history_days
            rows, plans = (cell.shift, WorthRows.of(question.data, question.seed, cell.shift, days)), {}
        say(f"{number} of {len(left)}: {cell.file.removesuffix('.json')}")
        if cell.epsilon is None:
            found: dict[str, Any] = {"figures": baseline_figures(question, rows[1])}
        else:
            key = (cell.epsilon, cell.law, cell.noise)
            if key not in plans:
                plans[key] = Draws.of(question, rows[1], *key)
            found = plans[key].draw(with_parts=cell.draw < question.part_draws)
        cell_folder.write_cell(folder / cell.file, {**asdict(cell), **found})


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """What every file of `folder` holds. Raises `UnreadableResults`."""
    return cell_folder.read_cells(folder, _require_figures)


def _require_figures(content: dict[str, Any]) -> None:
    if not isinstance(content["figures"], dict):
        raise ValueError("figures are no object")


@dataclass(frozen=True)
class Release:
    """What one release says, in views of the banks' rows."""

    seen: tuple[BankData, ...] = field(repr=False)  # by the release alone
    evidence: tuple[BankData, ...] = field(repr=False)  # with a bank's own labels as well
    home: tuple[BankData, ...] = field(repr=False)  # the same with eight weeks to learn from
    z_scores: Mapping[str, NDArray[np.float64]] = field(repr=False)
    episodes: Mapping[str, Any]

    @staticmethod
    def of(rows: WorthRows, totals: Totals) -> Release:
        risk = rows.risk(totals)
        known = rows.known_to_each(risk)
        return Release(
            rows.seen_by_all(risk),
            rows.at_home(known, history=False),
            rows.at_home(known),
            z_scores(totals, rows),
            {kind: asdict(each) for kind, each in risk.episodes.items()},
        )


@dataclass(frozen=True)
class Draws:
    """Everything of one epsilon that is alike in all draws."""

    rows: WorthRows
    plan: RunPlan
    counts: Sequence[NDArray[np.int64]]

    @staticmethod
    def of(question: Question, rows: WorthRows, epsilon: float, law: Law, noise: Noise) -> Draws:
        asked = {"epsilon": epsilon, "count_noise": law, "noise": noise, **dict(question.changes)}
        config = replace(configuration(asked), data=question.data, seed=question.seed)
        plan = with_noise(RunPlan.new(config, rows.source))
        if plan.sharing is None or plan.joint_noise is None or config.model.kind != "noisy-or":
            raise BenchmarkSettingsError("expected options of a private run of the noisy-or model that shares counts")
        return Draws(rows, plan, rows.counts(plan.sharing))

    def draw(self, *, with_parts: bool = True) -> dict[str, Any]:
        """The figures of one release and of noisy steps after it. `with_parts`: one part changed at a time, too."""
        rows, plan = self.rows, self.plan
        assert plan.sharing is not None and plan.config.privacy is not None
        release = Release.of(rows, rows.released(self.counts, plan.sharing))
        figures: Figures = {HOME: weekly(release.home, [fit_noisy_or(bank.train) for bank in release.home])}
        # Where all others may collude, the release is for whoever trains at home.
        if plan.config.privacy.noise == "shared":
            figures |= self.federated(release, with_parts=with_parts)
        return {"figures": figures, "episodes": release.episodes, "privacy": self.privacy}

    @property
    def privacy(self) -> dict[str, Any]:
        """What the release and all steps cost, as the ledger of a new bank reckons it."""
        plan, privacy = self.plan, self.plan.config.privacy
        assert plan.sharing is not None and plan.sharing.entry is not None and plan.round_cost is not None
        assert privacy is not None
        entries = [plan.sharing.entry, *[plan.round_cost] * plan.config.rounds]
        return {
            "counts": asdict(plan.sharing.entry),
            "block_days": len(plan.sharing.periods[0]),
            "steps": plan.config.rounds,
            "learning_rate": plan.local.learning_rate,
            "protection": asdict(protection(entries, privacy.delta)),
        }

    def federated(self, release: Release, *, with_parts: bool) -> Figures:
        """The model of noisy steps, scored with the release alone and with own evidence, and what each part adds."""
        state = self._steps(release.seen)
        found = {
            RELEASED: self._weekly(release.seen, state),
            EVIDENCE: self._weekly(release.evidence, state),
            LAST_ITERATE: self._weekly(release.seen, replace(state, model=state.memory[ITERATE].astype(np.float32))),
        }
        if not with_parts:
            return found
        for name, banks in (
            (NO_HISTORY, _each(release.seen, self._without_history)),
            (LOGISTIC, _each(release.seen, _risk_as_feature)),
            (Z_SCORES, _each(self.rows.with_column(release.z_scores), _as_feature)),
            (NO_COUNTS, [bank.with_risk(None, None) for bank in self.rows.banks]),
        ):
            found[name] = self._weekly(banks, self._steps(banks))
        return found

    def _steps(self, banks: Sequence[BankData]) -> State:
        """The state after all noisy steps on the banks' training rows."""
        plan, inputs = self.plan, banks[0].train.x.shape[1]
        assert plan.joint_noise is not None
        rounds = Rounds(
            banks,
            plan.schedule(plan.config.rounds),
            plan.own_algorithm,
            partial(_for(plan.joint_noise, inputs).average, engine=None),
            clip=plan.config.aggregation.clip,
            device=CPU,
        )
        state = rounds.begin()
        for _, after in play_rounds(rounds, state=state):
            state = after
        return state

    def _weekly(self, banks: Sequence[BankData], state: State) -> list[float]:
        model = self.plan.schedule(1).first_model(banks[0].train.x.shape[1])
        unflatten(model, state.model)
        return weekly(banks, [model] * len(banks))

    def _without_history(self, rows: Rows) -> Rows:
        """The columns stay, so that the noise does: they say nothing."""
        x = rows.x.copy()
        past = {feature.name for feature in CustomerHistory.features}
        x[:, [name in past for name in self.plan.feature_names]] = 0.0
        return replace(rows, x=x)


def baseline_figures(question: Question, rows: WorthRows) -> Figures:
    """What needs no draw: banks alone, and everything without privacy. The constants are fitted here, too."""
    alone_known, nothing = rows.known_alone(), [None] * len(rows.banks)
    week = replace(rows, learns_from=0)  # the rows of the training period alone
    found: Figures = {}
    for name, banks in (
        (ALONE_FILTER, rows.at_home(alone_known)),
        (ALONE_FILTER_SHORT, week.at_home(alone_known, history=False)),
        (ALONE_PLAIN, rows.at_home(nothing)),
        (ALONE_PLAIN_SHORT, week.at_home(nothing, history=False)),
    ):
        found[name] = weekly(banks, [fit_noisy_or(bank.train) for bank in banks])
    config = replace(configuration({"no_dp": True, "model": "noisy-or"}), data=question.data, seed=question.seed)
    plan = RunPlan.new(config, rows.source)
    network = plan.without_privacy(plan.schedule(plan.config.rounds))
    found[ALONE_NETWORK] = _weeks(alone(rows.local.banks, network, CPU))
    assert config.statistics is not None
    exact = plan_sharing(rows.source, config.statistics.undecided(), None, fraud_blocks=True)
    release = Release.of(rows, rows.released(rows.counts(exact), exact))
    together = fit_noisy_or(pooled_local(replace(rows.local, banks=release.seen)).train)
    for name, banks in ((OPEN_RELEASED, release.seen), (OPEN, release.evidence)):
        found[name] = weekly(banks, [together] * len(banks))
    found[OPEN_HOME] = weekly(release.home, [fit_noisy_or(bank.train) for bank in release.home])
    return found


def z_scores(totals: Totals, rows: WorthRows) -> Mapping[str, NDArray[np.float64]]:
    """By kind, float64[days, slots]: frauds of the last known `WINDOW_DAYS`, in standard deviations about their mean.

    Mean and deviation are those over all slots of the same release: public, as it is.
    """
    sums = totals.frauds()
    ends = np.array([period.last for period in totals.plan.periods])
    found = {}
    for kind, section in totals.plan.sections.items():
        by_day = np.zeros((len(rows.days), section.stop - section.start))
        for i, day in enumerate(rows.days):
            last = day - rows.delay - 1
            recent = (ends <= last) & (ends > last - WINDOW_DAYS)
            window = sums[recent, section].sum(axis=0)
            by_day[i] = np.clip((window - window.mean()) / max(float(window.std()), 1e-9), -MOST_Z, MOST_Z)
        found[kind] = by_day
    return found


def weekly(banks: Sequence[BankData], models: Sequence[nn.Module]) -> list[float]:
    """Average precision of each test window, all banks together."""
    return _weeks(evaluate(banks, models, CPU))


def _weeks(evaluation: Any) -> list[float]:
    return [window.average_precision for window in evaluation.windows]


def _each(banks: Sequence[BankData], change: Callable[[Rows], Rows]) -> list[BankData]:
    return [
        replace(
            bank,
            train=change(bank.train),
            validation=change(bank.validation),
            test=tuple(change(test) for test in bank.test),
        )
        for bank in banks
    ]


def _risk_as_feature(rows: Rows) -> Rows:
    """A logistic model that has the log odds of the risk as a feature like others: the probability itself is 0."""
    odds = risk_column(rows.x[:, -1].astype(np.float64), "log odds")
    return replace(rows, x=np.concatenate([rows.x[:, :-1], odds, np.zeros_like(odds)], axis=1))


def _as_feature(rows: Rows) -> Rows:
    """The last column as a feature like others, and no probability."""
    return replace(rows, x=np.concatenate([rows.x, np.zeros_like(rows.x[:, :1])], axis=1))


def _for(noise: JointNoise, weights: int) -> JointNoise:
    """The same noise in each coordinate, for a model with another number of weights: a column more costs next to
    nothing.
    """
    once = replace(noise.once, dimension=weights, sensitivity=max(noise.once.sensitivity, row_sensitivity(weights)))
    return replace(noise, once=once)
