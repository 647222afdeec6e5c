from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import RunFolderError
from fl.rounds.algorithms.state import State
from fl.runs.config import (
    AggregationSettings,
    DataSettings,
    PrivacySettings,
    RunConfig,
    config_from_toml,
    config_to_toml,
)
from fl.runs.folder import RunFolder
from fl.runs.styles import OPEN, PRIVATE

VECTOR = np.array([1.5, -2.0], np.float32)
STATE = State(VECTOR)


def make_config(source: str = "simulated", *, private: bool = True, seed: int = 3) -> RunConfig:
    privacy = PrivacySettings(3.0, 1e-5, 0.25, 10, 1.0, 2048.0)
    return RunConfig(
        seed=seed,
        rounds=10,
        device="cpu",
        threads=1,
        with_baselines=True,
        data=DataSettings(source),
        model=PRIVATE.model,
        training=PRIVATE.training,
        aggregation=AggregationSettings(),
        privacy=privacy if private else None,
        baseline_model=OPEN.model,
        baseline_training=OPEN.training,
    )


def make_folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", make_config(), run_id="run-1", description={"banks": 3}, features=())


@pytest.mark.parametrize("private", [True, False])
def test_a_configuration_survives_toml(private: bool) -> None:
    config = make_config(private=private)
    assert config_from_toml(config_to_toml(config)) == config


@given(
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
    rate=st.floats(1e-12, 1e6),
    flag=st.booleans(),
)
def test_any_name_and_any_number_survive_toml(name: str, rate: float, flag: bool) -> None:
    config = dataclasses.replace(
        make_config(name),
        training=dataclasses.replace(PRIVATE.training, learning_rate=rate),
        with_baselines=flag,
    )
    assert config_from_toml(config_to_toml(config)) == config


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text + "\n[model]\n", "not valid TOML"),
        (lambda text: "colour = 1\n" + text, "colour"),
        (lambda text: text.replace("clip = 1.0", "clap = 1.0"), "clap"),
        (lambda text: text.replace("rounds = 10", ""), "rounds"),
    ],
)
def test_a_configuration_that_was_edited_badly_is_refused(damage: Callable[[str], str], message: str) -> None:
    with pytest.raises(RunFolderError, match=message):
        config_from_toml(damage(config_to_toml(make_config())))


def test_the_manifest_says_with_what_the_run_was_made(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    manifest = json.loads((folder.path / "manifest.json").read_text())
    assert {"torch", "opacus", "secagg", "numpy"} <= set(manifest["versions"])
    assert manifest["parameters"]["privacy"]["epsilon"] == 3.0
    assert manifest["data"] == {"banks": 3}
    assert manifest["git_revision"]


def test_a_folder_that_holds_anything_is_never_overwritten(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with pytest.raises(RunFolderError, match="--resume"):
        make_folder(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(RunFolderError, match="another --run-dir"):
        RunFolder.create(tmp_path / "notes", make_config(), run_id="r", description={}, features=())


def test_opening_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epsilon = 3.0", "epsilon = 50.0", "privacy.epsilon was 3.0 and is 50.0"),
        ("delta = 1e-05", "delta = 0.001", "privacy.delta"),
        ("steps = 10", "steps = 1", "privacy.steps"),
        ('noise = "own"', 'noise = "own"\nnoise_multiplier = 0.5', "privacy.noise_multiplier"),
        ('noise = "own"', 'noise = "own"\nbudget_dir = "/fresh"', "privacy.budget_dir"),
        ("rounds = 10", "rounds = 100", "rounds was 10 and is 100"),
        ("clip = 1.0", "clip = 100.0", "aggregation.clip"),
    ],
)
def test_a_run_does_not_go_on_under_another_configuration(tmp_path: Path, old: str, new: str, words: str) -> None:
    folder = make_folder(tmp_path)
    path = folder.path / "config.toml"
    assert path.read_text().count(old + "\n") == 1
    path.write_text(path.read_text().replace(old + "\n", new + "\n"))
    with pytest.raises(RunFolderError, match=words):
        RunFolder.open(folder.path)


@pytest.mark.parametrize("private", [True, False])
def test_a_run_neither_loses_its_privacy_between_two_sittings_nor_gains_it(tmp_path: Path, private: bool) -> None:
    folder = RunFolder.create(tmp_path / "run", make_config(private=private), run_id="r", description={}, features=())
    (folder.path / "config.toml").write_text(config_to_toml(make_config(private=not private)))
    with pytest.raises(RunFolderError, match=r"privacy.* is gone"):
        RunFolder.open(folder.path)


def test_a_manifest_of_an_earlier_version_knows_fewer_settings(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = folder.path / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["made_at"], manifest["parameters"]["threads"], manifest["parameters"]["privacy"]["colluders"]
    path.write_text(json.dumps(manifest))
    opened = RunFolder.open(folder.path)
    assert opened.config == folder.config
    opened.require_original()  # nobody knows


def test_a_copy_is_told_from_a_folder_that_was_moved(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.require_original()
    shutil.copytree(folder.path, tmp_path / "copy")
    with pytest.raises(RunFolderError, match="is a copy of"):
        RunFolder.open(tmp_path / "copy").require_original()
    (tmp_path / "link").symlink_to(folder.path)
    RunFolder.open(tmp_path / "link").require_original()
    folder.path.rename(tmp_path / "moved")
    RunFolder.open(tmp_path / "moved").require_original()
    RunFolder.create(folder.path, make_config(), run_id="run-2", description={}, features=())  # another one there
    RunFolder.open(tmp_path / "moved").require_original()


def test_data_that_changed_under_a_run_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_text("a\n1\n")
    path = tmp_path / "run"
    RunFolder.create(path, make_config(str(source)), run_id="r", description={}, features=())
    assert RunFolder.open(path).run_id == "r"
    source.write_text("a\n2\n")
    with pytest.raises(RunFolderError, match="has changed"):
        RunFolder.open(path)


def test_a_finished_round_is_found_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert folder.last_round() == (0, None, [])
    folder.finish_round(1, {"figure": 0.1}, STATE)
    folder.finish_round(2, {"figure": 0.2}, State(2 * VECTOR, {"m": np.array([1.0, 3.0]), "head of bank 1": VECTOR}))
    number, state, records = RunFolder.open(folder.path).last_round()
    assert number == 2
    assert state is not None and state.model.tolist() == [3.0, -4.0]
    assert {name: array.tolist() for name, array in state.memory.items()} == {
        "m": [1.0, 3.0],
        "head of bank 1": [1.5, -2.0],
    }
    assert state.memory["m"].dtype == np.float64
    assert [record["figure"] for record in records] == [0.1, 0.2]


@pytest.mark.parametrize("torn", [b'{"round": 2, "figure"', b'{"round": 2, "figure": 0.2}\n'])
def test_a_round_killed_between_its_line_and_its_checkpoint_is_played_again(tmp_path: Path, torn: bytes) -> None:
    folder = make_folder(tmp_path)
    folder.finish_round(1, {"figure": 0.1}, STATE)
    with open(folder.path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    number, _, records = folder.last_round()
    assert (number, len(records)) == (1, 1)
    folder.drop_interrupted(1)
    folder.finish_round(2, {"figure": 0.3}, STATE)
    assert [record["figure"] for record in folder.last_round()[2]] == [0.1, 0.3]


def test_opening_a_run_writes_nothing_while_another_process_may_be_appending(tmp_path: Path) -> None:
    """The other's line is there and its checkpoint is not yet: who only looks must not take the line away."""
    folder = make_folder(tmp_path)
    folder.finish_round(1, {"figure": 0.1}, STATE)
    with open(folder.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"round": 2, "figure": 0.2}\n')
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir()}
    assert RunFolder.open(folder.path).last_round()[0] == 1
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.path.iterdir()} == before


def test_who_read_a_run_before_another_process_went_on_with_it_does_not_go_on(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.finish_round(1, {"figure": 0.1}, STATE)
    read, _, _ = RunFolder.open(folder.path).last_round()
    folder.finish_round(2, {"figure": 0.2}, STATE)
    before = (folder.path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="another process has played rounds"):
        folder.drop_interrupted(read)
    assert (folder.path / "metrics.jsonl").read_bytes() == before


def test_metrics_that_lost_a_round_are_not_continued(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.finish_round(1, {}, STATE)
    folder.finish_round(2, {}, STATE)
    lines = (folder.path / "metrics.jsonl").read_bytes().split(b"\n")
    (folder.path / "metrics.jsonl").write_bytes(lines[1] + b"\n")
    with pytest.raises(RunFolderError, match="expected rounds 1 to 2"):
        folder.last_round()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    folder.finish_round(1, {}, STATE)
    checkpoint = folder.path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    with pytest.raises(RunFolderError, match="damaged"):
        folder.last_round()


def test_two_processes_cannot_continue_one_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with folder.alone(), pytest.raises(RunFolderError, match="another process"), folder.alone():
        pass
    with folder.alone():
        pass
