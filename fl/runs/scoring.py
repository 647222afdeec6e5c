"""Score new transactions with the model of a finished run.

What it does: loads `model.safetensors` with its metadata, and scores a file of any length in chunks. The features of a
bank's rows use that bank's own past.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from fl.counts.columns import SharedColumns, input_names, parties_at
from fl.counts.entity_risk import EPISODES, EntityRisk, blocks_of, read_episodes
from fl.counts.release import load_release
from fl.counts.risk_columns import RiskColumns
from fl.data.constants import Constant
from fl.data.partition import Partition, partition_for
from fl.data.reading import Transactions, load_transactions, read_header, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.data.stream import StreamedRows, feature_stream, stream_file
from fl.errors import NoRows, RunFolderError, TreesError
from fl.learning.calibration import Calibration
from fl.learning.kinds import model_of
from fl.learning.model import MODEL_FORMAT, flatten, layer_mask, layout, model_hash, unflatten
from fl.learning.training import predict
from fl.runs.config import RunConfig
from fl.runs.folder import RESTORE, bank_names, head_path, read_config, read_own_constants
from fl.runs.model_file import MODEL_FILE, require_made_with
from fl.runs.operating import read_calibration, read_thresholds
from fl.runs.tree_columns import TreeColumns

FIRST_RULE = {"name": "f1", "rows": "validation"}  # of the threshold in the model file


@dataclass(frozen=True)
class Home:
    """What one bank adds to the federated model when it scores its own customers: its own labels, outside any epsilon.

    `module`: its own model, of `columns`; `columns` know its own labelled rows, and so do the federated model's then.
    """

    bank: str
    module: nn.Module = field(repr=False)
    columns: RiskColumns


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model; `threshold`: the score from which on a row is an alert.

    It is the one that was chosen for the run (`demos threshold`), or else that of best F1 on the run's validation rows.
    `thresholds`: by bank, of banks that have their own. `calibration` gives a score's probability; None where the run
    has none, or where a bank adds its own labels, for which nothing was fitted. `rule`: how the threshold was chosen.
    `own`: by bank, its model where the bank keeps its own layers. Other banks score with `module`, in which these
    layers are those of the first model.
    """

    module: nn.Module = field(repr=False)
    schema: Schema
    features: tuple[str, ...]  # names of its inputs
    partition: Partition
    threshold: float
    shared: SharedColumns | RiskColumns | None = None  # of the run's release; later days use the newest totals
    own: Mapping[str, nn.Module] = field(default_factory=dict, repr=False)
    home: Home | None = None  # of the bank that scores its own customers
    at_banks: Mapping[str, tuple[Constant, ...]] = field(default_factory=dict, repr=False)  # own scaling constants
    calibration: Calibration | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict, repr=False)
    rule: Mapping[str, Any] = field(default_factory=lambda: dict(FIRST_RULE), repr=False)

    @property
    def columns(self) -> list[int]:
        """Where its inputs stand among all columns that are computed: an earlier version computed fewer."""
        computed = input_names(self.schema, None) if self.shared is None else self.shared.names
        return [computed.index(name) for name in self.features]


@dataclass(frozen=True)
class ScoredRows:
    """One chunk of scored rows.

    `index`: int64[n], 0-based row of the file; `score`: float64[n] in [0, 1]; `flagged`: bool[n]; `bank`: object[n];
    `at_home`: float64[n], by the model of the bank that scores its own customers, or None. `calibrated`: float64[n],
    probabilities of fraud, or None where the model has no calibration.
    """

    index: NDArray[np.int64] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    flagged: NDArray[np.bool_] = field(repr=False)
    bank: NDArray[np.object_] = field(repr=False)
    at_home: NDArray[np.float64] | None = field(default=None, repr=False)
    calibrated: NDArray[np.float64] | None = field(default=None, repr=False)


def load_model(run: Path) -> TrainedModel:
    """The model in run folder `run`.

    Raises `RunFolderError` when the run is not finished or its files do not fit together.
    """
    config = read_config(run)
    path = run / MODEL_FILE
    about, tensors = _stored(run, path)
    schema = parse_schema(about["schema"], f"{path}, schema")
    names = about["features"]
    if "made_with" in about:  # an earlier version named nothing
        require_made_with(run, about["made_with"], schema)
    shared = _shared(run, config, schema)
    computed = input_names(schema, None) if shared is None else shared.names
    if unknown := [name for name in names if name not in computed]:
        raise RunFolderError(
            f"{path}: this version computes no feature {', '.join(unknown)} from its schema; train it anew"
        )
    if isinstance(shared, RiskColumns) and tuple(names) != computed:
        raise RunFolderError(
            f"{path}: expected the features {', '.join(computed)} in this order, got {', '.join(names)}: {RESTORE}"
        )
    if len(set(names)) != len(names):
        raise RunFolderError(f"{path}: expected each of its {len(names)} features once: {RESTORE}")
    module = _module_of(config, schema, names, tensors, path)
    if model_hash(module) != about["model_hash"]:
        raise RunFolderError(f"{path}: the weights have changed (their hash differs): {RESTORE}")
    data = config.data
    partition = partition_for(schema, data.partition, data.random_banks, config.seed)
    own = _own_models(run, module, about.get("personal", []))
    at_banks = {bank: read_own_constants(run, bank) for bank in bank_names(run)} if schema.lacking("bank") else {}
    threshold = float(about["threshold"])
    model = TrainedModel(
        module,
        schema,
        features=tuple(names),
        partition=partition,
        threshold=threshold,
        shared=shared,
        own=own,
        at_banks=at_banks,
        calibration=read_calibration(run),
    )
    if (chosen := read_thresholds(run)) is not None:
        model = replace(model, threshold=chosen.shared, thresholds=dict(chosen.banks), rule=dict(chosen.rule))
    return model


def _module_of(
    config: RunConfig, schema: Schema, names: Sequence[str], tensors: dict[str, torch.Tensor], path: Path
) -> nn.Module:
    """The model of these tensors, whose inputs are the features `names`."""
    try:
        if config.model.kind == "trees":
            from fl.runs.tree_module import module_from  # needs the extra `trees`

            return module_from(tensors, TreeColumns.of(schema, names, linked=config.model.inputs == "risk"))
        module = model_of(config.model.kind, len(names), seed=0, prior=config.model.prior)
        module.load_state_dict(tensors)
    except (RuntimeError, TreesError) as fault:
        raise RunFolderError(f"{path}: its tensors do not fit a model of {len(names)} features: {RESTORE}") from fault
    return module


def _shared(run: Path, config: RunConfig, schema: Schema) -> SharedColumns | RiskColumns | None:
    """The columns that the run's release gives, and those of a model that knows the risk of parties."""
    folder, by_risk = run / "statistics", config.model.inputs == "risk"
    if config.statistics is None:
        return RiskColumns(schema, config.scale, None, windows=config.windows_beside_risk) if by_risk else None
    totals, keys = load_release(folder)
    if not by_risk:
        return SharedColumns(schema, keys, totals)
    if (episodes := read_episodes(folder)) is None:
        raise RunFolderError(f"{folder}: the constants of episodes ({EPISODES}) are missing: {RESTORE}")
    risk = EntityRisk(keys, schema.label.delay_days, blocks_of(totals), episodes)
    return RiskColumns(schema, config.scale, risk, windows=config.windows_beside_risk)


ABOUT = {"schema": str, "features": list, "model_hash": str, "threshold": float}  # metadata of a model file


def _stored(run: Path, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """(metadata of the model file, its tensors). Raises `RunFolderError` for a file that no run wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as fault:
        raise RunFolderError(f"{run} has no model yet: finish it with train --resume {run}") from fault
    except (OSError, SafetensorError, ValueError, RecursionError) as fault:
        raise RunFolderError(f"{path} is damaged ({fault}): {RESTORE}") from fault
    if not isinstance(about, dict) or about.get("format") != MODEL_FORMAT:
        format_given = about.get("format") if isinstance(about, dict) else about
        raise RunFolderError(f"{path}: expected format {MODEL_FORMAT!r}, got {format_given!r}: {RESTORE}")
    for name, kind in ABOUT.items():
        if not isinstance(about.get(name), kind):
            raise RunFolderError(f"{path}: expected {name} of type {kind.__name__}, got {about.get(name)!r}: {RESTORE}")
    if not isinstance(about.get("made_with", {}), dict):
        raise RunFolderError(f"{path}: expected made_with as a table, got {about['made_with']!r}: {RESTORE}")
    personal = about.get("personal", [])
    words = isinstance(personal, list) and all(isinstance(each, str) for each in [*personal, *about["features"]])
    if not words or not about["features"]:
        raise RunFolderError(f"{path}: expected names of features and of personal layers: {RESTORE}")
    if not 0.0 <= about["threshold"] <= 1.0:
        raise RunFolderError(f"{path}: expected a threshold from 0 to 1, got {about['threshold']!r}: {RESTORE}")
    return about, tensors


def _own_models(run: Path, module: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """By bank of the run, `module` with the bank's own `layers`."""
    if not layers:
        return {}
    mine = layer_mask(layout(module), layers)
    models = {}
    for bank in bank_names(run):
        path = head_path(run, bank)
        try:
            with safe_open(path, framework="numpy") as file:
                head = file.get_tensor("head")
        except (OSError, SafetensorError) as fault:
            raise RunFolderError(
                f"{path}: {bank}'s own layers {', '.join(layers)} are not there ({fault}): {RESTORE}"
            ) from fault
        vector = flatten(module)
        if head.shape != (int(mine.sum()),):
            raise RunFolderError(f"{path}: expected {int(mine.sum())} values, got {head.shape}")
        vector[mine] = head
        models[bank] = copy.deepcopy(module)
        unflatten(models[bank], vector)
    return models


def score_file(model: TrainedModel, path: str | Path, history: str | Path | None = None) -> Iterator[ScoredRows]:
    """Scores of the transactions in `path`, in its order, chunk by chunk; labels in it, if any, are ignored.

    `history`: a labelled file of earlier transactions; without it every count begins at 0. Raises
    `DataError`, `PartitionError` and `OrderError` as `fl.data.stream.stream_file` does.
    """
    for chunk in stream_file(path, model.schema, model.partition, history, at_banks=model.at_banks):
        yield scored(model, chunk)


def score_frame(
    model: TrainedModel, frame: pd.DataFrame, history: pd.DataFrame | str | os.PathLike[str] | None
) -> ScoredRows:
    """Scores of the transactions in `frame`, without the rows that the schema drops.

    `history`: as in `score_file`, or in memory as well. Raises as `score_file` does.
    """
    chunk = frame_stream(model, frame, history)
    if chunk is None:
        return no_rows(model)
    return scored(model, chunk)


def frame_stream(
    model: TrainedModel, frame: pd.DataFrame, history: pd.DataFrame | str | os.PathLike[str] | None
) -> StreamedRows | None:
    """Features of the transactions in `frame` without the rows that the schema drops; None where it drops all.

    `history`: as in `score_file`, or in memory as well. Raises as `score_file` does.
    """
    schema, past = model.schema, None
    if history is not None:
        past = past_rows(history, schema, model.partition, needs_fraud=False)
    column = model.partition.column_of(list(frame.columns))
    try:
        rows = transactions_from_frame(frame, schema, "frame", labelled=False, bank_column=column)
    except NoRows:
        return None
    (chunk,) = feature_stream(schema, model.partition, past, [rows], model.at_banks)
    return chunk


def past_rows(
    history: pd.DataFrame | str | os.PathLike[str], schema: Schema, partition: Partition, *, needs_fraud: bool = True
) -> Transactions:
    """Labelled rows of a file or frame. Raises `DataError` as `fl.data.reading.load_transactions` does."""
    if isinstance(history, pd.DataFrame):
        column = partition.column_of(list(history.columns))
        return transactions_from_frame(history, schema, "history", bank_column=column, needs_fraud=needs_fraud)
    column = partition.column_of(read_header(Path(history), schema.delimiter, schema.encoding))
    return load_transactions(Path(history), schema, bank_column=column, needs_fraud=needs_fraud)


def scored(model: TrainedModel, chunk: StreamedRows) -> ScoredRows:
    """Scores of one chunk whose features are computed; of its own rows alone, where one bank scores."""
    cpu = torch.device("cpu")
    if model.home is not None:
        chunk = _of_bank(chunk, model.home.bank)
    x = inputs_of(model, chunk)
    score = predict(model.module, x, device=cpu)
    for bank, module in model.own.items():
        held = chunk.bank == bank
        score[held] = predict(module, x[held], device=cpu)
    at_home = None
    if model.home is not None:
        at_home = predict(model.home.module, _with_shared(chunk, model.home.columns), device=cpu)
    limit = np.array([model.thresholds.get(bank, model.threshold) for bank in chunk.bank], np.float64)
    calibrated = None if model.calibration is None else model.calibration.of(score)
    return ScoredRows(chunk.table.index, score, score >= limit, chunk.bank, at_home, calibrated)


def no_rows(model: TrainedModel) -> ScoredRows:
    """What `scored` gives for a chunk without rows."""
    none = np.empty(0)
    return ScoredRows(
        np.empty(0, np.int64),
        none,
        np.empty(0, bool),
        np.empty(0, object),
        at_home=None if model.home is None else none,
        calibrated=None if model.calibration is None else none,
    )


def inputs_of(model: TrainedModel, chunk: StreamedRows) -> NDArray[np.float32]:
    """float32[n, len(model.features)]: what the model sees of a chunk, in the order of `model.features`."""
    return _with_shared(chunk, model.shared)[:, model.columns]


def _of_bank(chunk: StreamedRows, bank: str) -> StreamedRows:
    held = chunk.bank == bank
    return StreamedRows(chunk.x[held], chunk.bank[held], chunk.table.take(held))


def _with_shared(chunk: StreamedRows, shared: SharedColumns | RiskColumns | None) -> NDArray[np.float32]:
    """The chunk's features, with columns from the run's released totals where the model was trained on them."""
    if shared is None:
        return chunk.x
    return shared.extend(chunk.x, chunk.table.day, parties_at(chunk.table, shared.kinds))
