"""A run folder that was edited, cut or emptied: an error of this project's own that names the file, and no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import open_config, train
from safetensors import safe_open
from safetensors.torch import save_file

from fl.data.schema_file import parse_schema
from fl.errors import FederationError, RunFolderError
from fl.reports.cards import read_run
from fl.runs.config import DataSettings
from fl.runs.folder import RunFolder
from fl.runs.model_file import made_with
from fl.runs.scoring import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = DataSettings("simulated", clients=3, customers=200, fraud_share=0.05)
    return train(open_config(data, rounds=1), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def last_round(run: Path) -> object:
    return RunFolder.open(run).last_round()


READERS: dict[str, Callable[[Path], object]] = {"model": load_model, "cards": read_run, "last round": last_round}
READ_BY = {
    "config.toml": ("model", "cards", "last round"),
    "manifest.json": ("cards", "last round"),
    "metrics.jsonl": ("last round",),
    "checkpoint.safetensors": ("last round",),
    "model.safetensors": ("model", "cards"),
    "result.json": ("cards",),
}
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda held: b"",
    "cut to a byte": lambda held: held[:1],
    "cut to eight bytes": lambda held: held[:8],
    "cut in half": lambda held: held[: len(held) // 2],
    "without its last bytes": lambda held: held[:-3],
    "not UTF-8": lambda held: b"\xff\xfe" + held,
    "a list": lambda held: b"[]",
    "a number": lambda held: b"7",
    "nothing": lambda held: b"null",
    "brackets without end": lambda held: b"[" * 200_000,
    "a header beyond the file": lambda held: b"\xff" * 8 + held[8:],
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", READ_BY)
def test_a_damaged_file_is_refused_by_its_name(run: Path, name: str, damage: str) -> None:
    path = run / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    for reader in READ_BY[name]:
        with pytest.raises(FederationError) as caught:
            READERS[reader](run)
        assert name.partition(".")[0] in str(caught.value) or str(run) in str(caught.value)


def edited(run: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Write the model file again, changed."""
    path = run / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(about, tensors)
    path.unlink()
    save_file(tensors, path, {"about": json.dumps(about)})


@pytest.mark.parametrize("value", [None, 7, "x", [], [1], {}, [None], "gone"])
@pytest.mark.parametrize("field", ["schema", "features", "model_hash", "threshold", "format", "personal", "made_with"])
def test_a_model_file_with_another_field_is_refused_or_is_the_same(run: Path, field: str, value: object) -> None:
    edited(run, lambda about, _: about.pop(field, None) if value == "gone" else about.update({field: value}))
    if (field == "personal" and value in ([], "gone")) or (field == "made_with" and value == "gone"):
        load_model(run)
        return
    with pytest.raises(FederationError, match=r"model\.safetensors|no layers"):
        load_model(run)


def test_a_schema_that_is_not_the_models_is_refused(run: Path) -> None:
    edited(run, lambda about, _: about.update({"schema": about["schema"].replace("delay_days = 7", "delay_days = 6")}))
    with pytest.raises(RunFolderError, match=r"model\.safetensors, schema: not what the model was made with"):
        load_model(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5])
def test_a_threshold_that_no_score_can_have_is_refused(run: Path, value: float) -> None:
    edited(run, lambda about, _: about.update({"threshold": value}))
    with pytest.raises(RunFolderError, match="expected a threshold from 0 to 1"):
        load_model(run)


@pytest.mark.parametrize(
    "change",
    [
        lambda _, tensors: tensors.popitem(),
        lambda _, tensors: tensors.update({"more": torch.zeros(1)}),
        lambda _, tensors: tensors.update({"logit.bias": torch.zeros(2)}),
        lambda _, tensors: tensors.update({"logit.bias": torch.zeros(1)}),
        lambda _, tensors: tensors.update({"logit.bias": torch.full((1,), torch.nan)}),
    ],
)
def test_a_model_file_with_other_tensors_is_refused(run: Path, change: Callable[..., object]) -> None:
    edited(run, change)
    with pytest.raises(RunFolderError, match=r"model\.safetensors"):
        load_model(run)


def test_a_model_that_is_a_folder_is_refused(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").mkdir()
    with pytest.raises(RunFolderError, match=r"model\.safetensors"):
        load_model(run)


def test_a_checkpoint_that_names_no_round_is_refused(run: Path) -> None:
    (run / "checkpoint.safetensors").unlink()
    save_file({"vector": torch.zeros(3)}, run / "checkpoint.safetensors")
    with pytest.raises(RunFolderError, match=r"checkpoint\.safetensors is damaged"):
        last_round(run)


def test_a_schema_without_a_name_is_the_same_in_the_model_file_as_in_its_own(tmp_path: Path) -> None:
    """A schema without `name` is called as its file, and the text in a model file stands in another one."""
    text = '[label]\ncolumn = "FRAUD"\n[[categorical]]\ncolumn = "KIND"\nhash_width = 8\n'
    own, kept = parse_schema(text, "mine.toml"), parse_schema(text, "run/model.safetensors, schema")
    assert own.name != kept.name
    assert made_with(tmp_path, own) == made_with(tmp_path, kept)
