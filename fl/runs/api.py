"""Training and scoring from Python: `fl.train`, `fl.load` and the `Run` that both return.

The commands `demos train` and `demos score` go through this module.

What it leaves to others: the options (`fl.runs.train_options`), a run's steps (`fl.runs.experiment`), scores
(`fl.runs.scoring`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fl.errors import OptionError
from fl.runs.asked import configuration
from fl.runs.config import RunConfig
from fl.runs.experiment import Experiment
from fl.runs.folder import bank_names, read_config, read_object
from fl.runs.scoring import ScoredRows, TrainedModel, load_model, score_file, score_frame
from fl.runs.scoring_at_home import at_home

StringPath = str | os.PathLike[str]
Progress = Callable[[str, int, int], None]  # (activity, finished steps, all steps)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and its model. Made by `train` and `load`."""

    folder: Path
    model: TrainedModel = field(repr=False)

    @property
    def result(self) -> dict[str, Any]:
        """Everything that `demos train --json` prints: metrics, privacy, baselines, costs.

        Raises `RunFolderError` when the baselines are not finished.
        """
        return read_object(self.folder / "result.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """Figures on the test days.

        `average_precision`, `roc_auc`, `precision`, `recall`, `f1` and `card_precision_at_100` are from 0 to 1;
        `windows` has the same for each test week.
        """
        return read_object(self.folder / "metrics.json")

    @property
    def config(self) -> RunConfig:
        """The configuration of the run, with the noise that was calibrated."""
        return read_config(self.folder)

    @property
    def threshold(self) -> float:
        """The score, from 0 to 1, at which the validation rows had the best F1."""
        return self.model.threshold

    def score(self, frame: pd.DataFrame, history: pd.DataFrame | StringPath | None = None) -> pd.Series:
        """The probability of fraud of each transaction in `frame`.

        Args:
            frame: New transactions in time order, with the columns that the schema names; labels are ignored.
            history: Labelled transactions from before `frame`, in memory or in a file. Without it every count of past
                transactions begins at zero.

        Returns:
            float64 from 0 to 1, one per row, with the index of `frame`. NaN in rows that the schema drops and in
            empty rows.

        Raises:
            DataError: A column is missing, or a cell is not what the schema says.
            OrderError: A row is earlier than the row above it, or than the history.
            PartitionError: A row belongs to no bank.
        """
        rows = score_frame(self.model, frame, history)
        scores = np.full(len(frame), np.nan)
        scores[rows.index] = rows.score
        return pd.Series(scores, frame.index, name="score")

    def as_bank(self, bank: str, history: pd.DataFrame | StringPath) -> Run:
        """This run as one of its banks scores its own customers with it: with its own labels as further evidence.

        Args:
            bank: Name of the bank. Rows of other banks are then left out: `score` gives NaN for them.
            history: Labelled transactions from before, in memory or in a file.

        Returns:
            The run, whose scores have no epsilon any more: whoever sees them may learn single labels of the bank.

        Raises:
            OptionError: The bank took no part in the run or has no rows in the history, or the run's model knows no
                risk of shared parties.
            TrainingError: The bank has no frauds in the history whose labels are known.
        """
        banks = bank_names(self.folder)
        if bank not in banks:
            raise OptionError(f"as: expected a bank of this run ({', '.join(banks)}), got {bank!r}")
        evidence = self.metrics.get("own_evidence")
        threshold = self.threshold if evidence is None else float(evidence["threshold"])
        return replace(self, model=replace(at_home(self.model, bank, len(banks), history), threshold=threshold))

    def score_file(self, path: StringPath, history: StringPath | None = None) -> Iterator[ScoredRows]:
        """Scores of the transactions in a file, chunk by chunk: memory does not grow with the file.

        Args:
            path: csv (compressed or not) or parquet, in time order.
            history: A file of labelled transactions from before.

        Returns:
            An iterator of chunks with `index`, `bank`, `score` and `flagged` of each row that is not dropped.

        Raises:
            DataError, OrderError, PartitionError: As `score`.
        """
        return score_file(self.model, Path(path), None if history is None else Path(history))


def train(
    data: StringPath | None = None,
    *,
    config: StringPath | None = None,
    run_dir: StringPath | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Train a fraud model at several banks that show each other nothing but an encrypted sum.

    Args:
        data: Transactions: csv (compressed or not) or parquet. Data of the embedded generator if left out.
        config: The configuration to start from: the config.toml of a run, or its folder. `data` and `options` win.
        run_dir: Folder of this run, which must not hold anything; a new one under runs/ if left out.
        progress: Called with what is being done, how much of it is finished, and of how much.
        **options: Those of the command `demos train` by their Python names, such as `schema`, `partition`, `clients`,
            `rounds`, `epsilon`, `delta`, `no_dp`, `seed` or `mu`; None is an option left out.

    Returns:
        The finished run.

    Raises:
        FederationError: Its subclasses name what is wrong: `OptionError` an option, `DataError` and `SchemaError` the
            data, `BudgetError` a privacy budget that does not allow the run, `RunFolderError` a folder that is in use.

    Examples:
        >>> import fl
        >>> run = fl.train(customers=400, fraud_share=0.03, clients=3, rounds=2, no_dp=True, no_baselines=True)
        >>> 0 < run.metrics["average_precision"] <= 1
        True
        >>> fl.load(run.folder).metrics == run.metrics
        True
    """
    base = None if config is None else read_config(Path(config))
    return start(configuration({"data": data, **options}, base), run_dir, progress)


def start(config: RunConfig, run_dir: StringPath | None = None, progress: Progress | None = None) -> Run:
    """`train` with a complete configuration."""
    return _finish(Experiment.start(config, _fresh_folder(run_dir)), progress)


def resume(folder: StringPath, progress: Progress | None = None) -> Run:
    """Continue the run in `folder` after its last finished round, with its own options.

    Args:
        folder: Folder of a run that was interrupted, or that is finished.
        progress: As in `train`.

    Returns:
        The finished run.

    Raises:
        RunFolderError: `folder` holds no run, or its data or configuration has changed.
        BudgetError: A privacy budget does not allow the rounds that are left.
    """
    return _finish(Experiment.resume(Path(folder)), progress)


def load(folder: StringPath) -> Run:
    """A run that is finished.

    Args:
        folder: The folder that the run left.

    Returns:
        The run with its model.

    Raises:
        RunFolderError: `folder` holds no run, the run is not finished, or its files do not fit together.
    """
    return Run(Path(folder), load_model(Path(folder)))


def _finish(experiment: Experiment, progress: Progress | None) -> Run:
    """Play the remaining rounds and baselines of `experiment`, and write its result."""
    tell: Progress = progress or (lambda what, done, total: None)
    _play_rounds(experiment, tell)
    names = experiment.baseline_names()
    for done, _ in enumerate(experiment.baselines(), start=1):
        tell("baselines", done, len(names))
    experiment.result()
    return load(experiment.folder.path)


def _play_rounds(experiment: Experiment, tell: Progress) -> None:
    planned = experiment.config.rounds
    numbers = range(experiment.finished + 1, planned + 1)
    trainings = sum(len(experiment.plan.algorithm.timetable.seats(number)) for number in numbers)
    what, done = f"training, {planned} rounds at {len(experiment.federation.banks)} banks", 0

    def bank_done(_: str) -> None:
        nonlocal done
        if done < trainings:  # a lost round is trained again
            done += 1
            tell(what, done, trainings)

    if trainings:
        tell(what, 0, trainings)
    for _ in experiment.rounds(bank_done):
        pass


def _fresh_folder(run_dir: StringPath | None) -> Path:
    """The folder asked for, or a new name under runs/."""
    if run_dir is not None:
        return Path(run_dir)
    return Path(f"runs/{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
