"""Read a finished run and score its rows again with its model, for all parts of an examination.

What it does: reads config.toml, manifest.json and model.safetensors, reads the data from its source through the
loader that trained on it, refuses data that are no longer the same, and scores training, validation and test rows.

It writes nothing and spends no budget: this is evaluation by a person who may see all rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl.counts.columns import with_shared_columns
from fl.data.federation import SIMULATED, BankData, Federation, Rows, description_of, federation_of
from fl.data.reading import Transactions
from fl.data.schema import Schema
from fl.errors import ExaminationError
from fl.learning.calibration import Calibration
from fl.learning.training import predict
from fl.runs.config import RunConfig
from fl.runs.folder import RunFolder, read_config, read_object
from fl.runs.plan import read_source
from fl.runs.scoring import load_model


@dataclass(frozen=True)
class ScoredPart:
    """`n` rows of all banks of one period with the federated model's scores, in the order of their days.

    `x`: float32[n, d]; `label`: uint8[n]; `score`: float64[n] in [0, 1]; `day`: int32[n]; `customer`: int64[n] codes;
    `terminal`: int64[n] codes or None; `bank`: int64[n], position in `Evidence.bank_names`; `window`: int64[n], test
    window, 0 elsewhere; `index`: int64[n], 0-based row of the source.
    """

    x: NDArray[np.float32] = field(repr=False)
    label: NDArray[np.uint8] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    day: NDArray[np.int32] = field(repr=False)
    customer: NDArray[np.int64] = field(repr=False)
    terminal: NDArray[np.int64] | None = field(repr=False)
    bank: NDArray[np.int64] = field(repr=False)
    window: NDArray[np.int64] = field(repr=False)
    index: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: NDArray[Any]) -> ScoredPart:
        """The rows at these positions, or where this mask is true."""
        return ScoredPart(
            self.x[rows],
            self.label[rows],
            self.score[rows],
            self.day[rows],
            self.customer[rows],
            None if self.terminal is None else self.terminal[rows],
            self.bank[rows],
            self.window[rows],
            self.index[rows],
        )


@dataclass(frozen=True)
class Evidence:
    """The data of an examination."""

    run: Path
    config: RunConfig
    manifest: dict[str, Any] = field(repr=False)
    table: Transactions
    federation: Federation = field(repr=False)
    models: tuple[nn.Module, ...] = field(repr=False)  # one per bank; the same one unless heads are personal
    threshold: float  # of all banks; `flagged` knows those of single banks
    own_thresholds: Mapping[str, float]  # of the banks that have one
    rule: Mapping[str, Any]  # how they were chosen
    calibration: Calibration | None
    train: ScoredPart = field(repr=False)
    validation: ScoredPart = field(repr=False)
    test: ScoredPart = field(repr=False)
    by_bank: Mapping[str, Transactions] = field(default_factory=dict, repr=False)  # all rows of each bank

    @property
    def schema(self) -> Schema:
        return self.federation.schema

    @property
    def bank_names(self) -> tuple[str, ...]:
        return tuple(bank.name for bank in self.federation.banks)

    @property
    def limits(self) -> NDArray[np.float64]:
        """float64[banks]: from which score on each bank's rows are alerts."""
        return np.array([self.own_thresholds.get(name, self.threshold) for name in self.bank_names], np.float64)

    def flagged(self, part: ScoredPart) -> NDArray[np.bool_]:
        """bool[n]: the alerts among the rows of a period."""
        return np.asarray(part.score >= self.limits[part.bank])

    @property
    def windows(self) -> int:
        """Number of test windows."""
        return len(self.federation.banks[0].test)

    @property
    def has_days(self) -> bool:
        """Whether rows have days, so that anything can be said about before and after."""
        return self.schema.words.days

    @property
    def why_no_days(self) -> str:
        """Why nothing is said about days, as the end of a sentence; for an examination without `has_days`."""
        time = self.schema.time
        if time is None:
            return "the schema names no time"
        if not time.measures_days:
            return f"the time, {time.column!r}, is an order of rows and measures no days"
        return "the windows or periods of the schema are hours or minutes long, so that days are not compared"

    def stored(self, name: str) -> dict[str, Any]:
        """A JSON file of the run's folder; empty where the run did not write it."""
        path = self.run / name
        return read_object(path) if path.exists() else {}


def gather(run: Path) -> Evidence:
    """Read the finished run in folder `run` and score its rows.

    Raises `RunFolderError` when the folder is not a finished run, or when its data file has changed; `ExaminationError`
    when the source is missing or its rows are no longer those of the manifest.
    """
    source_file = _source_of(run)
    if source_file is not None and not source_file.is_file():
        raise ExaminationError(
            f"{run}: expected its transactions at {source_file}, found no file there: restore the file, "
            "because a report measures the model on these rows"
        )
    folder = RunFolder.open(run)
    manifest = folder.read_json("manifest.json")
    model = load_model(run)
    source = read_source(folder.config.data, folder.config.seed)
    if json.loads(json.dumps(description_of(source))) != manifest["data"]:
        raise ExaminationError(
            f"{run}: expected the rows, schema and partition of manifest.json, got others; evaluate with the files "
            "that the run was trained on"
        )
    if source.table.schema.lacking("shared"):
        source = source.with_shared_constants(model.schema.constants)
    federation = federation_of(source)
    if model.shared is not None:
        federation = with_shared_columns(federation, source.table, model.shared)
    federation = federation.only(model.features)
    models = tuple(model.own.get(bank.name, model.module) for bank in federation.banks)
    return Evidence(
        run=run,
        config=folder.config,
        manifest=manifest,
        table=source.table,
        federation=federation,
        models=models,
        threshold=model.threshold,
        own_thresholds=model.thresholds,
        rule=model.rule,
        calibration=model.calibration,
        train=_scored(federation, models, source.table, lambda bank: (bank.train,)),
        validation=_scored(federation, models, source.table, lambda bank: (bank.validation,)),
        test=_scored(federation, models, source.table, lambda bank: bank.test),
        by_bank={name: source.table.take(rows) for name, rows, _ in source.banks},
    )


def _source_of(run: Path) -> Path | None:
    """The run's data file; None for generated data."""
    folder_config = run / "config.toml"
    if not folder_config.is_file():
        raise ExaminationError(f"{run}: expected the folder of a finished run, found no config.toml in it")
    source = read_config(run).data.source
    return None if source == SIMULATED else Path(source)


def _scored(
    federation: Federation,
    models: Sequence[nn.Module],
    table: Transactions,
    part: Callable[[BankData], Sequence[Rows]],
) -> ScoredPart:
    """A period's rows of all banks in time order, each scored by its bank's model."""
    cpu = torch.device("cpu")
    pieces = [
        (bank, window, rows, predict(models[bank], rows.x, device=cpu))
        for bank, data in enumerate(federation.banks)
        for window, rows in enumerate(part(data))
    ]
    index = np.concatenate([rows.index for _, _, rows, _ in pieces])
    place = np.empty(int(table.index.max()) + 1, np.int64)
    place[table.index] = np.arange(len(table))
    at = place[index]
    whole = ScoredPart(
        x=np.concatenate([rows.x for _, _, rows, _ in pieces]),
        label=np.concatenate([rows.y for _, _, rows, _ in pieces]).astype(np.uint8),
        score=np.concatenate([score for _, _, _, score in pieces]),
        day=np.concatenate([rows.day for _, _, rows, _ in pieces]),
        customer=np.concatenate([rows.customer for _, _, rows, _ in pieces]),
        terminal=None if table.terminal is None else table.terminal.code[at],
        bank=np.concatenate([np.full(len(rows), bank, np.int64) for bank, _, rows, _ in pieces]),
        window=np.concatenate([np.full(len(rows), window, np.int64) for _, window, rows, _ in pieces]),
        index=index,
    )
    return whole.take(np.argsort(at, kind="stable"))  # a loaded table is in time order
