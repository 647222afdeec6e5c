"""The folder a run leaves: what was asked, with what it was done, how it went, and the model.

    config.toml            what was asked; `--resume` reads it
    manifest.json          versions, seeds, data and its SHA-256, git revision; no rows
    metrics.jsonl          one line per finished round
    checkpoint.safetensors the state after the last finished round: global model and the algorithm's memory
    resources.json         what each bank's limits chose, where there are any
    baselines.json         figures of the baselines that are finished
    budget/                the banks' privacy ledgers, unless they live elsewhere
    statistics/            the released totals, and the banks' salt
    model.safetensors      the final model, its features, threshold and schema
    heads/                 one file per bank with its own layers, where the algorithm leaves them there; a deployment
                           has each at its bank and nowhere else
    result.json            what `train --json` prints

Every file but metrics.jsonl is replaced whole. A round's line is appended before its checkpoint; a line
beyond the checkpoint belongs to a round that was interrupted and is dropped when the run goes on. The lock keeps two
processes from continuing one run; reading takes no lock and writes nothing.

What it leaves to others: what a round is (`fl.rounds.play`), what a ledger holds (`fl.privacy.mechanisms`).
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fl import options
from fl.counts.settings import StatisticsSettings
from fl.durable import append_durably, locked, replace_durably
from fl.errors import AggregationError, BudgetError, FederationError, ModelError, OptionError, RunFolderError
from fl.learning.model import DROPOUT, PRIOR
from fl.learning.training import LocalTraining
from fl.privacy.mechanisms import file_name
from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings
from fl.rounds.algorithms.state import State
from fl.rounds.compression import CompressionSettings
from fl.rounds.limits import ResourceSettings

PACKAGES = (
    "secagg",
    "numpy",
    "torch",
    "opacus",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "safetensors",
    "tenseal",
    "cryptography",
)
_MEMORY = "memory: "  # before the name of an array of the algorithm's own in the checkpoint
NO_REVISION = "unknown: not a git checkout"


@dataclass(frozen=True)
class DataSettings:
    """Which transactions, which banks, which days."""

    source: Annotated[str, options.FILE]  # or "simulated"
    schema: Annotated[str | None, options.FILE] = None
    partition: str | None = None
    clients: Annotated[int | None, options.RANDOM_BANKS] = None
    test_windows: Annotated[int | None, options.TEST_WINDOWS] = None  # consecutive; None: the schema's own
    customers: Annotated[int | None, options.CUSTOMERS] = None  # of the embedded generator
    fraud_share: Annotated[float | None, options.FRAUD_SHARE] = None  # of the embedded generator

    def __post_init__(self) -> None:
        options.check(self, OptionError)


@dataclass(frozen=True)
class PrivacySettings:
    """The budget of every bank and the noisy steps it is spent on. All of it is public."""

    epsilon: Annotated[float, options.EPSILON]  # for everything ever recorded in a bank's ledger
    delta: Annotated[float, options.DELTA]
    sample_rate: Annotated[float, options.SAMPLE_RATE]  # probability of a row being in a batch
    steps: Annotated[int, options.STEPS]  # noisy steps per round
    max_grad_norm: Annotated[float, options.MAX_GRAD_NORM]  # L2 bound of one row's gradient
    expected_batch: Annotated[float, options.EXPECTED_BATCH]  # rows: the public divisor
    budget_dir: Annotated[str | None, options.FOLDER] = None  # of the banks' ledgers; None: in the run folder
    noise_multiplier: Annotated[float | None, options.NOISE_MULTIPLIER] = None  # calibrated when the run starts, kept
    unit: Literal["row", "client"] = "row"  # what one epsilon is about
    update_norm: Annotated[float, options.UPDATE_NORM] = 1.0  # L2 bound of a bank's update; unit client only
    noise: Literal["own", "shared"] = "own"  # each bank's own, or shares of one noise inside the encrypted sum
    colluders: Annotated[int, options.BANKS] = 1  # t, the observing one included; unit client and shared noise only
    share_variance: Annotated[float | None, options.SHARE_VARIANCE] = None  # of a share, as noise_multiplier
    share_pieces: Annotated[int | None, options.SHARE_PIECES] = None  # draws that make one share; shared noise only
    # Calibrated to the noise where training asks for that; shared noise only.
    learning_rate: Annotated[float | None, options.LEARNING_RATE] = None

    def __post_init__(self) -> None:
        options.check(self, BudgetError)


@dataclass(frozen=True)
class AggregationSettings:
    """How updates become one."""

    mode: Literal["encrypted", "plain"] = "encrypted"
    clip: Annotated[float, options.CLIP] = 1.0  # of every coordinate of an update
    value_bits: Annotated[int, options.VALUE_BITS] = 16  # of a quantised coordinate, sign included
    engine: Annotated[str, options.ENGINE] = "auto"

    def __post_init__(self) -> None:
        options.check(self, AggregationError)


@dataclass(frozen=True)
class ModelSettings:
    """The network, and the public guess of the fraud share that its first output stands for."""

    dropout: Annotated[float, options.DROPOUT]
    prior: Annotated[float, options.PRIOR]

    def __post_init__(self) -> None:
        options.check(self, ModelError)


@dataclass(frozen=True)
class Style:
    """A model, its training and the precision of its updates that suit each other; the figures behind them
    are in docs/adr/0010-dp-training.md.
    """

    model: ModelSettings
    training: LocalTraining
    value_bits: Annotated[int, options.VALUE_BITS]


# Of the clip: steps in which averages enter a model, encrypted or not. Not a power of two: means of float32 lie on such
# grids themselves, and many of them would be ties.
APPLIED_GRID = 1e-6

# Large batches, many bits and averages applied on a grid that is coarser than these, because training amplifies the
# smallest difference: at 32 bits and without the grid, one test week of an encrypted run ended 0.005 of average
# precision away from the plain one.
OPEN = Style(
    ModelSettings(DROPOUT, PRIOR),
    LocalTraining("sgd", learning_rate=0.1, momentum=0.9, epochs=16, batch_size=512),
    value_bits=40,
)
# Without dropout, since the noise is regularisation enough; with large plain steps, since Adam normalises
# the noise up; with a grid that is coarse beside the noise and hides the lowest bits of its floating-point
# numbers.
PRIVATE = Style(ModelSettings(0.0, PRIOR), LocalTraining("sgd", learning_rate=30.0), value_bits=16)

ROUNDS, SHARED_ROUNDS = 10, 100  # where nobody says otherwise: rounds of local training, steps under shared noise

RESTORE = "put the file of this run back from a copy, or train it anew"

BY_NOISE = 0.0  # a learning rate that is chosen when the noise is calibrated: `PrivacySettings.learning_rate`

# Full batches, one step a round, as large as the noise allows. Figures in docs/adr/0012-utility-under-privacy.md.
SHARED = Style(ModelSettings(0.0, PRIOR), LocalTraining("sgd", BY_NOISE, momentum=0.9, pos_weight=1.0), 16)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run's result, and nothing that is secret."""

    seed: Annotated[int, options.SEED]
    rounds: Annotated[int, options.ROUNDS]
    device: Literal["cpu", "cuda"]
    threads: Annotated[int, options.THREADS]  # of torch; part of the result's reproducibility
    with_baselines: bool
    data: DataSettings
    model: ModelSettings
    training: LocalTraining
    aggregation: AggregationSettings
    privacy: PrivacySettings | None  # None: --no-dp
    baseline_model: ModelSettings
    baseline_training: LocalTraining  # of the baselines that need no privacy
    statistics: StatisticsSettings | None = None  # None: nothing but updates is shared
    algorithm: AlgorithmSettings = field(default_factory=AlgorithmSettings)
    participation: ParticipationSettings | None = None  # None: every bank in every round
    compression: CompressionSettings | None = None  # None: the same bits and all layers in every round
    resources: ResourceSettings | None = None  # None: no bank has limits

    def __post_init__(self) -> None:
        options.check(self, OptionError)
        shared = self.privacy is not None and self.privacy.noise == "shared"
        for name, training in (("training", self.training), ("baseline_training", self.baseline_training)):
            if training.learning_rate == BY_NOISE and not (shared and name == "training"):
                raise OptionError(f"{name}.learning_rate: expected {options.LEARNING_RATE}, got {BY_NOISE}")


def config_to_toml(config: RunConfig) -> str:
    """`config` as TOML; a None is left out."""
    scalars, tables = [], []
    for name, value in asdict(config).items():
        if isinstance(value, dict):
            lines = [f"{key} = {_toml(item)}" for key, item in value.items() if item is not None]
            tables.append("\n".join([f"[{name}]", *lines]))
        elif value is not None:
            scalars.append(f"{name} = {_toml(value)}")
    return "\n\n".join(["\n".join(scalars), *tables]) + "\n"


def config_from_toml(text: str) -> RunConfig:
    """The inverse of `config_to_toml`. Raises `RunFolderError` naming an absent or unknown key."""
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as fault:  # TOML's own error is a ValueError; so is a number that is too long
        raise RunFolderError(f"config.toml is not TOML: {fault}") from fault
    tables = {
        "data": DataSettings,
        "model": ModelSettings,
        "training": LocalTraining,
        "aggregation": AggregationSettings,
        "privacy": PrivacySettings,
        "baseline_model": ModelSettings,
        "baseline_training": LocalTraining,
        "statistics": StatisticsSettings,
        "algorithm": AlgorithmSettings,
        "participation": ParticipationSettings,
        "compression": CompressionSettings,
        "resources": ResourceSettings,
    }
    values: dict[str, Any] = {"privacy": None, "statistics": None}
    for name, value in raw.items():
        values[name] = _build(tables[name], value, f"[{name}]") if name in tables else value
    return _build(RunConfig, values, "config.toml")


class RunFolder:
    """One run's folder. Make it with `create` or `open`."""

    def __init__(self, path: Path, config: RunConfig, run_id: str, made_at: str | None = None) -> None:
        self.path = path
        self.config = config
        self.run_id = run_id  # names this run in the banks' ledgers
        self.made_at = made_at  # where the folder was made; None: by a version that did not say

    @classmethod
    def create(cls, path: Path, config: RunConfig, *, run_id: str, description: dict[str, Any]) -> RunFolder:
        """Make the folder and write config.toml and manifest.json. Raises `RunFolderError` when it holds
        anything already.
        """
        refuse_used(path)
        path.mkdir(parents=True, exist_ok=True)
        replace_durably(path / "config.toml", config_to_toml(config).encode())
        made_at = str(path.resolve())
        manifest = {
            "run_id": run_id,
            "made_at": made_at,
            "parameters": asdict(config),
            "seeds": {
                "data and model": config.seed,
                "keys, encryption, privacy noise": "operating system, never seeded",
            },
            "versions": versions(),
            "platform": {"python": platform.python_version(), "machine": platform.platform()},
            "git_revision": git_revision(),
            "source_sha256": source_digest(config.data.source),
            "data": description,
        }
        replace_durably(path / "manifest.json", _json(manifest))
        return cls(path, config, run_id, made_at)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run. Raises `RunFolderError` when it is none, or when its data or its
        configuration has changed since.
        """
        try:
            config = config_from_toml((path / "config.toml").read_text(encoding="utf-8"))
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            run_id, digest = str(manifest["run_id"]), manifest["source_sha256"]
            made_at, edited = manifest.get("made_at"), _edited(manifest["parameters"], config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise RunFolderError(
                f"{path} is no folder of a run that got under way ({type(fault).__name__}: {fault})"
            ) from fault
        if edited:
            raise RunFolderError(
                f"{path}: config.toml is not the one this run began with ({edited}): what is finished would not fit "
                "what is left. Put the value back, or start a run of its own"
            )
        if source_digest(config.data.source) != digest:
            raise RunFolderError(
                f"{config.data.source} has changed since this run began: the rounds would not fit together"
            )
        return cls(path, config, run_id, None if made_at is None else str(made_at))

    def require_original(self) -> None:
        """Raise `RunFolderError` when this is a copy of a folder that is still there: each would spend from its own
        copy of the ledgers, and neither would count what the other released. A folder that was moved is no copy.
        """
        if self.made_at is None:
            return
        here, there = self.path / "manifest.json", Path(self.made_at, "manifest.json")
        try:
            if there.samefile(here) or json.loads(there.read_text(encoding="utf-8"))["run_id"] != self.run_id:
                return
        except (OSError, ValueError, KeyError, TypeError):  # this run is no longer there
            return
        raise RunFolderError(
            f"{self.path} is a copy of {there.parent}, which is still there, and each has ledgers of its own: go on "
            "with one of them and remove the other, or start runs of their own under one --budget-dir"
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold this folder; raises `RunFolderError` while another process continues the run."""
        try:
            with locked(self.path / "lock", wait=False):
                yield
        except BlockingIOError as fault:
            raise RunFolderError(f"another process is working on {self.path}") from fault

    def finish_round(self, number: int, record: dict[str, Any], state: State) -> None:
        """Make round `number` lasting: its metrics line, then the checkpoint that says it is finished."""
        append_durably(self.path / "metrics.jsonl", json.dumps({"round": number, **record}).encode())
        tensors = {"vector": state.model, **{_MEMORY + name: array for name, array in state.memory.items()}}
        replace_durably(self.path / "checkpoint.safetensors", save(tensors, {"round": str(number)}))

    def last_round(self) -> tuple[int, State | None, list[dict[str, Any]]]:
        """(finished rounds, state after them, their metrics lines); (0, None, []) before the first.

        Lines of an interrupted round are left out, and left where they are: `drop_interrupted` needs the lock.
        """
        checkpoint = self.path / "checkpoint.safetensors"
        number, state = 0, None
        if checkpoint.exists():
            try:
                with safe_open(checkpoint, framework="numpy") as file:
                    held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                    number = int(file.metadata()["round"])
                state = State(held.pop("vector"), {name.removeprefix(_MEMORY): held[name] for name in held})
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as fault:
                raise RunFolderError(f"{checkpoint} is damaged ({fault}): start the run anew") from fault
        metrics = self.path / "metrics.jsonl"
        lines = metrics.read_bytes().split(b"\n") if metrics.exists() else []
        try:
            records = [json.loads(line) for line in lines[:number]]
        except (ValueError, RecursionError):
            records = []
        if [record.get("round") if isinstance(record, dict) else None for record in records] != list(
            range(1, number + 1)
        ):
            raise RunFolderError(f"{metrics}: expected rounds 1 to {number}, as in the checkpoint; start the run anew")
        return number, state, records

    def drop_interrupted(self, finished: int) -> None:
        """Drop from metrics.jsonl what an interrupted round left behind, before round `finished` + 1 is appended. The
        caller holds the folder (`alone`) and has read it since. Raises `RunFolderError` when another process has
        finished other rounds meanwhile.
        """
        number, _, _ = self.last_round()
        if number != finished:
            raise RunFolderError(
                f"{self.path}: another process has played rounds since this one read {finished} of them, and {number} "
                "are finished now: resume it again"
            )
        path = self.path / "metrics.jsonl"
        held = path.read_bytes() if path.exists() else b""
        kept = b"".join(line + b"\n" for line in held.split(b"\n")[:finished])
        if kept != held:
            replace_durably(path, kept)

    def write_head(self, bank: str, head: NDArray[np.float32]) -> None:
        """Keep the coordinates of the model that are `bank`'s own, float32[n]."""
        path = head_path(self.path, bank)
        path.parent.mkdir(exist_ok=True)
        replace_durably(path, save({"head": head}))

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of this folder; empty when it is not there yet."""
        path = self.path / name
        return read_object(path) if path.exists() else {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        replace_durably(self.path / name, _json(content))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run folder. Raises `RunFolderError` when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise RunFolderError(f"{path} is missing: finish the run with train --resume {path.parent}") from fault
    except (OSError, ValueError, RecursionError) as fault:
        raise RunFolderError(f"{path} is damaged ({fault}): {RESTORE}") from fault
    if not isinstance(content, dict):
        raise RunFolderError(f"{path}: expected a JSON object, got {type(content).__name__}: {RESTORE}")
    return content


def bank_names(run: Path) -> list[str]:
    """The banks that manifest.json of `run` names. Raises `RunFolderError` when it names none."""
    path = run / "manifest.json"
    data = read_object(path).get("data")
    banks = data.get("banks") if isinstance(data, dict) else None
    if not isinstance(banks, dict) or not banks:
        raise RunFolderError(f"{path}: expected the banks under data, got none: {RESTORE}")
    return list(banks)


def read_config(run: Path) -> RunConfig:
    """config.toml of the folder `run`. Raises `RunFolderError` and, for a value out of its range, `OptionError`."""
    path = run / "config.toml"
    try:
        return config_from_toml(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise RunFolderError(f"{run} is no run folder: {fault.strerror} (config.toml)") from fault
    except UnicodeDecodeError as fault:
        raise RunFolderError(f"{path} is damaged ({fault}): {RESTORE}") from fault


def head_path(run: Path, bank: str) -> Path:
    """Where a bank's own layers lie in the folder `run`."""
    return run / "heads" / f"{file_name(bank)}.safetensors"


def refuse_used(path: Path) -> None:
    """Raise `RunFolderError` when there is anything at `path` that a new run would overwrite."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(f"{path} is there already: continue it with --resume {path}, or choose another --run-dir")


def random_banks(data: DataSettings) -> int | None:
    """How many random banks a partition is to make; None for generated data, which comes with banks of its
    own.
    """
    return None if data.source == "simulated" else data.clients


def versions() -> dict[str, str]:
    """Installed versions of what decides a run's figures."""
    return {name: metadata.version(name) for name in PACKAGES}


def git_revision() -> str:
    """The commit of this source tree, with "+changes" when files differ from it."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here)]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        status = [*command, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return NO_REVISION
    return commit.strip() + ("+changes" if changed.strip() else "")


def source_digest(source: str) -> str | None:
    """SHA-256 of the data file; None for generated data, which its seed decides."""
    if source == "simulated":
        return None
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _edited(began: dict[str, Any], config: RunConfig) -> str:
    """How `config` differs from the parameters a manifest says a run `began` with; empty when it does not. A setting
    that the manifest does not know is of a later version, which has a default for it.
    """
    now = json.loads(json.dumps(asdict(config)))
    for name, value in _flat(now).items():
        before = _flat(began).get(name, value)
        if before != value:
            return f"{name} was {before!r} and is {value!r}"
    return next((f"{name} is gone" for name in _flat(began) if name not in _flat(now)), "")


def _flat(settings: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Settings by dotted name. A section that is left out is None, as every setting in it would be."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{within}{name}.") if isinstance(value, dict) else {within + name: value})
    return flat


T = TypeVar("T")


def _build(kind: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise RunFolderError(f"{where}: expected a table, got {options.shown(values)}")
    # Every kind here is a dataclass, which a TypeVar cannot say.
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise RunFolderError(f"{where} has unknown keys {unknown}: was it written by another version?")
    try:
        return kind(**values)
    except TypeError as fault:
        raise RunFolderError(f"{where}: {fault}") from fault
    except FederationError as fault:
        raise RunFolderError(f"{where} {fault}") from fault


def _toml(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # A JSON string is a TOML basic string but for surrogate pairs and DEL; repr of a float is exact in both.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
