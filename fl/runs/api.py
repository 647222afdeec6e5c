"""Training and scoring from Python: `fl.train`, `fl.load` and the `Run` that both return.

The commands `demos train` and `demos score` go through this module.

What it leaves to others: the options (`fl.runs.train_options`), a run's steps (`fl.runs.experiment`), scores
(`fl.runs.scoring`).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fl.data.salvage import OpenCsv
from fl.durable import replace_durably
from fl.errors import ExportError, OptionError, RunFolderError
from fl.learning.kinds import Boosted
from fl.runs.candidates import Candidates, asked_for
from fl.runs.choosing import begin_choosing, finish_choosing, is_choosing
from fl.runs.config import RunConfig
from fl.runs.folder import bank_names, read_config, read_object
from fl.runs.kinds import begun, resumed
from fl.runs.operating import CALIBRATION
from fl.runs.outline import Outline
from fl.runs.playing import Progress, play_to_the_end
from fl.runs.scored_files import Past, ScoredChunk, history_of, score_rows
from fl.runs.scoring import ScoredRows, TrainedModel, frame_stream, inputs_of, load_model, score_file, score_frame
from fl.runs.scoring_at_home import at_home
from fl.runs.verdict import OWN_EVIDENCE

if TYPE_CHECKING:
    from fl.runs.tree_columns import TreeColumns
    from fl.runs.tree_module import TreeScores
    from fl.runs.tree_outline import RandomTreeOutline, TreeOutline

StringPath = str | os.PathLike[str]
READING = "reading the data and computing features"


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
        """The score from which on a row is an alert: the one chosen for the run, or that of best F1 on validation rows.

        Banks may have their own (`model.thresholds`).
        """
        return self.model.threshold

    def score(self, frame: pd.DataFrame, history: pd.DataFrame | StringPath | None = None) -> pd.Series:
        """The score of each transaction in `frame`: higher is more suspicious. It is no probability of fraud.

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

    def calibrated(self, frame: pd.DataFrame, history: pd.DataFrame | StringPath | None = None) -> pd.Series:
        """The probability of fraud of each transaction in `frame`.

        Args:
            frame: As in `score`.
            history: As in `score`.

        Returns:
            float64 from 0 to 1, in the order and with the index of `score`.

        Raises:
            RunFolderError: The run has no calibration: an earlier version trained it, or it scores as one bank.
            DataError, OrderError, PartitionError: As `score`.
        """
        if self.model.calibration is None:
            raise RunFolderError(
                f"{self.folder}: expected a calibration ({CALIBRATION}), got none: an earlier version trained the run, "
                "or it scores with one bank's own labels; use score, which ranks transactions"
            )
        scores = self.score(frame, history)
        known = scores.notna().to_numpy()
        probabilities = scores.to_numpy(copy=True)
        probabilities[known] = self.model.calibration.of(probabilities[known])
        return pd.Series(probabilities, scores.index, name="calibrated")

    def as_bank(self, bank: str, history: pd.DataFrame | StringPath) -> Run:
        """This run as one of its banks scores its own customers with it: with its own labels as further evidence.

        Args:
            bank: Name of the bank. Rows of other banks are then left out: `score` gives NaN for them.
            history: Labelled transactions from before, in memory or in a file. Where it, or what is scored, has no
                column that names the bank, all its rows are the bank's.

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
        evidence = self.metrics.get(OWN_EVIDENCE)
        threshold = self.threshold if evidence is None else float(evidence["threshold"])
        known = at_home(self.model, bank, len(banks), history)
        # Calibration and chosen thresholds are of scores without the bank's own labels.
        return replace(self, model=replace(known, threshold=threshold, thresholds={}, calibration=None))

    def history(self, given: StringPath | None = None, *, wanted: bool = True) -> Past:
        """The past of new transactions, for `score_rows`: the file `given`, or else the data of this run.

        Args:
            given: A file of labelled transactions from before.
            wanted: False for no history.

        Returns:
            The past, with `words` that say where it comes from, or why there is none.

        Raises:
            DataError: `given` cannot be read.
        """
        return history_of(self.folder, self.model, None if given is None else Path(given), wanted=wanted)

    def score_rows(
        self, path: StringPath | OpenCsv, past: Past, keep: Sequence[str] = (), *, rows: int = 50_000
    ) -> Iterator[ScoredChunk]:
        """Scores of the sound rows of a file, chunk by chunk. A row that is wrong is named and left out.

        Args:
            path: csv, csv.gz or parquet, in time order; or a csv that is open already (`fl.data.salvage.open_csv`).
            past: From `history`.
            keep: Columns of the file to carry along.
            rows: How many rows a chunk has at most. A chunk is scored when the next one was read.

        Returns:
            An iterator of chunks: scores, columns that were kept, rejected rows with reasons, and counts of dropped
            rows.

        Raises:
            DataError: The file cannot be read at all, or lacks a column.
        """
        source = path if isinstance(path, OpenCsv) else Path(path)
        return score_rows(self.model, source, past, keep, rows=rows)

    def inputs(self, frame: pd.DataFrame, history: pd.DataFrame | StringPath | None = None) -> pd.DataFrame:
        """What the model sees of each transaction in `frame`: the input of an exported model.

        Args:
            frame: New transactions, as `score` takes them.
            history: As `score` takes it.

        Returns:
            float32, one row per row of `frame` and with its index, one column per feature, in the model's order. NaN in
            rows that the schema drops and in empty rows.

        Raises:
            DataError, OrderError, PartitionError: As `score`.
        """
        x = np.full((len(frame), len(self.model.features)), np.nan, np.float32)
        if (chunk := frame_stream(self.model, frame, history)) is not None:
            x[chunk.table.index] = inputs_of(self.model, chunk)
        return pd.DataFrame(x, frame.index, pd.Index(self.model.features))

    def export_onnx(self, path: StringPath, bank: str | None = None) -> None:
        """Write the model as an ONNX file, whose input is what `inputs` gives and whose output is what `score` gives.

        Args:
            path: The file. It appears whole or not at all.
            bank: The bank whose own layers the file gets. Only for a run whose banks have layers of their own.

        Raises:
            ExportError: The bank is missing, unknown or of no use.
        """
        from fl.runs.onnx_file import write_onnx  # needs the extra `export`

        write_onnx(self.model, Path(path), bank)

    def tree_inputs(self, frame: pd.DataFrame, history: pd.DataFrame | StringPath | None = None) -> pd.DataFrame:
        """What trees see of each transaction in `frame`: the rows of a model that `export_xgboost` wrote.

        Args:
            frame: New transactions, as `score` takes them.
            history: As `score` takes it.

        Returns:
            float32, one row per row of `frame` and with its index, one column per column of the trees: numbers that are
            scaled as in `inputs`, NaN where missing, and positions of words in vocabularies. NaN throughout in rows
            that the schema drops and in empty rows.

        Raises:
            ExportError: The run trained another model.
            DataError, OrderError, PartitionError: As `score`.
        """
        module = self._trees()
        features = self.inputs(frame, history)
        known = features.notna().all(axis=1).to_numpy()
        x = np.full((len(frame), len(module.columns.names)), np.nan, np.float32)
        x[known] = module.columns.fold(features.to_numpy()[known])
        return pd.DataFrame(x, features.index, pd.Index(module.columns.names))

    def export_xgboost(self, path: StringPath) -> None:
        """Write the trees as a JSON file of XGBoost, whose margins are the trees' log odds to the last bit.

        Args:
            path: The file. It appears whole or not at all.

        Raises:
            ExportError: The run trained another model, or its scores can exceed what XGBoost adds exactly.
        """
        from fl.trees.xgboost_file import xgboost_json

        replace_durably(Path(path), json.dumps(xgboost_json(self._trees().trees)).encode())

    @property
    def tree_columns(self) -> TreeColumns:
        """How the columns of the trees are made of `inputs`. Raises `ExportError` for a run of another model."""
        return self._trees().columns

    def _trees(self) -> TreeScores:
        if not isinstance(self.model.module, Boosted):
            raise ExportError(f"{self.folder}: expected a run of trees, got one of another --model")
        from fl.runs.tree_module import TreeScores

        assert isinstance(self.model.module, TreeScores)
        return self.model.module

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
    return start(asked_for({"data": data, **options}, base), run_dir, progress)


def start(
    asked: RunConfig | Candidates,
    run_dir: StringPath | None = None,
    progress: Progress | None = None,
    announce: Callable[[Outline | TreeOutline | RandomTreeOutline], None] | None = None,
) -> Run:
    """`train` with complete configurations: of one run, or of models to choose from.

    `announce` is called with the outline of each before a bank trains.
    """
    tell, path = progress or _silent, _fresh_folder(run_dir)
    tell(READING, 0, 1)
    if isinstance(asked, Candidates):
        outlines = begin_choosing(asked, path)
        tell(READING, 1, 1)
        if announce is not None:
            for each in outlines:
                announce(each)
        return resume(path, progress)
    experiment = begun(asked, path)
    tell(READING, 1, 1)
    if announce is not None:
        announce(experiment.outline)
    play_to_the_end(experiment, tell)
    return load(path)


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
    tell, path = progress or _silent, Path(folder)
    if is_choosing(path):
        finish_choosing(path, tell)
    play_to_the_end(resumed(path), tell)
    return load(path)


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


def _silent(what: str, done: int, total: int) -> None:
    """Nobody asked how far it is."""


def _fresh_folder(run_dir: StringPath | None) -> Path:
    """The folder asked for, or a new name under runs/."""
    if run_dir is not None:
        return Path(run_dir)
    return Path(f"runs/{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
