"""Read and write the folder of a run: configuration, versions, rounds, metrics and model.

    config.toml            the configuration; `--resume` reads it
    manifest.json          versions, seeds, data and its SHA-256, git revision; no rows
    metrics.jsonl          one line per finished round
    checkpoint.safetensors the state after the last finished round: global model and the algorithm's memory
    resources.json         values chosen by the banks' limits, where there are any
    baselines.json         figures of the baselines that are finished
    budget/                the banks' privacy ledgers, unless --budget-dir names another folder
    statistics/            the released totals, and the banks' salt
    model.safetensors      the final model, its features, threshold and schema
    heads/                 one file per bank with its own layers, where the algorithm has such layers; in a
                           deployment each file is only at its bank
    own_constants/         one file per bank with scaling constants of its own, where the schema asks for them; in a
                           deployment each file is only at its bank
    schema.toml            the schema with the constants that the banks computed together, where it asks for them
    constants.json         these constants and their cost
    calibration.json       how a score becomes a probability: two numbers
    thresholds.json        from which score on a row is an alert, where `demos threshold` chose one
    choice.json            with `--model auto`: what was tried and why this model was chosen (`fl.runs.choice`)
    candidates/            with `--model auto`: the runs of the other models
    trees_training.json    of trees that learn their splits: the state after the last sum, in place of a checkpoint
    pooled_trees.json      the hash of the trees on pooled rows, once that baseline is finished
    tree_draft.json        of trees under privacy: what is about to be sent of the next one (`fl.runs.tree_drafts`)
    result.json            the output of `train --json`

Every file except metrics.jsonl is replaced as a whole. A round's line is appended before its checkpoint is written. A
line beyond the checkpoint belongs to an interrupted round and is removed when the run continues. A lock prevents two
processes from continuing one run. Reading takes no lock and writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fl.data.constants import Constant
from fl.durable import JsonLines, file_name, locked, replace_durably, replace_json
from fl.errors import RunFolderError, SchemaError
from fl.rounds.algorithms.state import State
from fl.runs.config import RunConfig, config_from_toml, config_to_toml

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
_MEMORY = "memory: "  # prefix of the algorithm's own arrays in the checkpoint
NO_REVISION = "unknown: not a git checkout"
RESTORE = "put the file of this run back from a copy, or train it anew"


class RunFolder:
    """One run's folder. Make it with `create` or `open`."""

    def __init__(self, path: Path, config: RunConfig, run_id: str, made_at: str | None = None) -> None:
        self.path = path
        self.config = config
        self.run_id = run_id  # names this run in the banks' ledgers
        self.made_at = made_at  # path where the folder was created; None: by a version that did not record it
        self._metrics = JsonLines(path / "metrics.jsonl")

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, *, run_id: str, description: dict[str, Any], features: Sequence[str]
    ) -> RunFolder:
        """Make the folder and write config.toml and manifest.json.

        `features`: names of the columns that a bank computes from its own rows. Raises `RunFolderError` when the
        folder is not empty.
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
            "features": list(features),
        }
        replace_json(path / "manifest.json", manifest)
        return cls(path, config, run_id, made_at)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of an earlier run.

        Raises `RunFolderError` when it is not a run folder, or when its data or configuration has changed.
        """
        try:
            config = config_from_toml((path / "config.toml").read_text(encoding="utf-8"))
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
            run_id, digest = str(manifest["run_id"]), manifest["source_sha256"]
            made_at, edited = manifest.get("made_at"), _edited(manifest["parameters"], config)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
            raise RunFolderError(
                f"{path}: expected the folder of a run, got another or a damaged one ({type(fault).__name__}: {fault})"
            ) from fault
        if edited:
            raise RunFolderError(
                f"{path}: config.toml has changed since this run began ({edited}), so its rounds would not fit "
                "together. Restore the value, or start a new run"
            )
        if source_digest(config.data.source) != digest:
            raise RunFolderError(
                f"{config.data.source} has changed since this run began: restore it, or start a new run"
            )
        return cls(path, config, run_id, None if made_at is None else str(made_at))

    def require_original(self) -> None:
        """Raise `RunFolderError` when this is a copy of a folder that is still there.

        Each folder would spend from its own copy of the ledgers, without counting the releases of the other one. A
        folder that was moved is not a copy.
        """
        if self.made_at is None:
            return
        here, there = self.path / "manifest.json", Path(self.made_at, "manifest.json")
        try:
            if there.samefile(here) or json.loads(there.read_text(encoding="utf-8"))["run_id"] != self.run_id:
                return
        except (OSError, ValueError, KeyError, TypeError):  # the run is no longer at that path
            return
        raise RunFolderError(
            f"{self.path} is a copy of {there.parent}, which still exists, and each has its own ledgers: continue "
            "one of them and remove the other, or start new runs with a common --budget-dir"
        )

    def features(self) -> tuple[str, ...] | None:
        """Names of the columns that a bank computes from its own rows; None where the manifest names none.

        Raises `RunFolderError` for a manifest that names something else there.
        """
        names = self.read_json("manifest.json").get("features")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise RunFolderError(f"{self.path / 'manifest.json'}: expected names of features, got {names!r}: {RESTORE}")
        return None if names is None else tuple(names)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of this folder. Raises `RunFolderError` while another process holds it."""
        try:
            with locked(self.path / "lock", wait=False):
                yield
        except BlockingIOError as fault:
            raise RunFolderError(f"another process is working on {self.path}: wait until it ends") from fault

    def finish_round(self, number: int, record: dict[str, Any], state: State) -> None:
        """Write round `number` to disk: its metrics line, then the checkpoint, which marks it as finished."""
        self._metrics.append(json.dumps({"round": number, **record}).encode())
        tensors = {"vector": state.model, **{_MEMORY + name: array for name, array in state.memory.items()}}
        replace_durably(self.path / "checkpoint.safetensors", save(tensors, {"round": str(number)}))

    def last_round(self) -> tuple[int, State | None, list[dict[str, Any]]]:
        """(finished rounds, state after them, their metrics lines); (0, None, []) before the first.

        Lines of an interrupted round are left out, but not removed: `drop_interrupted` does that under the lock.
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
        try:
            records = self._metrics.read(number)
        except ValueError:
            records = []
        if [record.get("round") for record in records] != list(range(1, number + 1)):
            where = self._metrics.path
            raise RunFolderError(f"{where}: expected rounds 1 to {number}, as in the checkpoint; start the run anew")
        return number, state, records

    def drop_interrupted(self, finished: int) -> None:
        """Remove the lines of an interrupted round from metrics.jsonl, before round `finished` + 1 is appended.

        The caller holds the lock (`alone`) and has read the folder under it. Raises `RunFolderError` when another
        process has finished rounds since then.
        """
        number, _, _ = self.last_round()
        if number != finished:
            raise RunFolderError(
                f"{self.path}: another process has played rounds: expected {finished} finished rounds, got {number}: "
                "resume the run again"
            )
        self._metrics.keep(finished)

    def write_head(self, bank: str, head: NDArray[np.float32]) -> None:
        """Write the coordinates of the model that only `bank` has, float32[n]."""
        path = head_path(self.path, bank)
        path.parent.mkdir(exist_ok=True)
        replace_durably(path, save({"head": head}))

    def write_own_constants(self, bank: str, constants: Sequence[Constant]) -> None:
        """Write the scaling constants that only `bank` has."""
        path = own_constants_path(self.path, bank)
        path.parent.mkdir(exist_ok=True)
        replace_json(path, {"constants": [{**asdict(each), "means": dict(each.means)} for each in constants]})

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of this folder; empty when the file does not exist yet."""
        path = self.path / name
        return read_object(path) if path.exists() else {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        replace_json(self.path / name, content)


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


def own_constants_path(run: Path, bank: str) -> Path:
    """Where `bank`'s own scaling constants are; in a deployment the file is only at the bank."""
    return run / "own_constants" / f"{file_name(bank)}.json"


def read_own_constants(run: Path, bank: str) -> tuple[Constant, ...]:
    """The scaling constants that only `bank` has. Raises `RunFolderError` when they are missing or damaged."""
    path = own_constants_path(run, bank)
    try:
        return tuple(Constant(**each) for each in read_object(path)["constants"])
    except (KeyError, TypeError, AttributeError, SchemaError) as fault:
        raise RunFolderError(f"{path}: expected the scaling constants of {bank} ({fault}): {RESTORE}") from fault


def bank_names(run: Path) -> list[str]:
    """The banks that manifest.json of `run` names. Raises `RunFolderError` when it names none."""
    path = run / "manifest.json"
    data = read_object(path).get("data")
    banks = data.get("banks") if isinstance(data, dict) else None
    if not isinstance(banks, dict) or not banks:
        raise RunFolderError(f"{path}: expected the banks in data.banks, got none: {RESTORE}")
    return list(banks)


def read_config(path: Path) -> RunConfig:
    """The configuration in the run folder or config.toml at `path`.

    Raises `RunFolderError` and, for a value out of its range, `OptionError`.
    """
    path = path / "config.toml" if path.is_dir() else path
    try:
        return config_from_toml(path.read_text(encoding="utf-8"))
    except OSError as fault:
        raise RunFolderError(f"{path}: expected a run folder or a config.toml, got {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise RunFolderError(f"{path} is damaged ({fault}): {RESTORE}") from fault


def head_path(run: Path, bank: str) -> Path:
    """Path of a bank's own layers in the folder `run`."""
    return run / "heads" / f"{file_name(bank)}.safetensors"


def refuse_used(path: Path) -> None:
    """Raise `RunFolderError` when there is anything at `path` that a new run would overwrite."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunFolderError(f"{path} exists already: continue it with --resume {path}, or choose another --run-dir")


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a run's metrics."""
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
    """The difference between `config` and the parameters in a manifest, `began`; empty when there is none.

    A setting that the manifest does not have is of a later version, which has a default for it.
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
