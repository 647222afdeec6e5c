"""An ablation takes out what is there, compares pairs, and survives being killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from finished_runs import open_config, train
from planted import killed_after_write

from fl.counts.settings import StatisticsSettings
from fl.errors import AblationError, RunFolderError
from fl.learning.private_schedule import private_schedule
from fl.reports.ablation import WHOLE, cell, paired, play, prepare, summarise, variants
from fl.rounds.algorithms.settings import AlgorithmSettings
from fl.rounds.compression import CompressionSettings
from fl.rounds.limits import ResourceSettings
from fl.runs.asked import configuration
from fl.runs.config import (
    BY_NOISE,
    AggregationSettings,
    DataSettings,
    PrivacySettings,
    RunConfig,
    config_from_toml,
    config_to_toml,
)
from fl.runs.folder import read_config
from fl.runs.refusals import require_possible
from fl.runs.styles import OPEN, PRIVATE, SHARED
from fl.secure.rule_settings import RobustSettings

TINY = DataSettings("simulated", clients=3, customers=200, fraud_share=0.05)
QUICK = replace(open_config(TINY, rounds=2), training=replace(OPEN.training, epochs=1))


def private_config() -> RunConfig:
    """A run that has everything, calibrated and with ledgers elsewhere."""
    privacy = PrivacySettings(3.0, 1e-5, 0.25, 2, 1.0, 2048.0, budget_dir="/ledgers", noise_multiplier=2.5)
    return replace(
        QUICK,
        model=PRIVATE.model,
        training=PRIVATE.training,
        aggregation=AggregationSettings("encrypted", value_bits=16),
        privacy=privacy,
        statistics=StatisticsSettings(1, sigma=4.0, epsilon=1.5),
        algorithm=AlgorithmSettings("fedprox", mu=0.01),
    )


# --- what is taken out -----------------------------------------------------------------------------------------------


def test_every_component_that_the_run_has_is_taken_out_and_no_other() -> None:
    found = {variant.name: variant.config for variant in variants(private_config())}
    assert list(found) == [
        WHOLE,
        "without encryption",
        "without privacy",
        "without filter",
        "without statistics",
        "without algorithm",
        "without compression",
        "without fraud weight",
    ]
    assert found["without encryption"].aggregation.mode == "plain"
    assert found["without statistics"].statistics is None
    assert found["without algorithm"].algorithm == AlgorithmSettings("fedavg")
    assert found["without compression"].aggregation.value_bits == OPEN.value_bits
    whole = found.pop(WHOLE)
    assert all(config != whole for config in found.values())


def test_a_rule_is_a_component_where_the_run_has_one() -> None:
    found = {variant.name: variant.config for variant in variants(replace(QUICK, robust=RobustSettings()))}
    assert found["without robust rule"] == QUICK
    assert "without robust rule" not in {variant.name for variant in variants(QUICK)}


def test_chosen_layers_and_limits_are_components_too() -> None:
    config = replace(QUICK, compression=CompressionSettings(layers="logit"), resources=ResourceSettings(seconds=60.0))
    found = {variant.name: variant.config for variant in variants(config)}
    assert found["without compression"].compression is None and found["without compression"].resources is not None
    assert found["without limits"].resources is None and found["without limits"].compression is not None


def test_noise_inside_the_encrypted_sum_goes_before_the_encryption_does() -> None:
    config = private_config()
    assert config.privacy is not None
    shared = replace(config, privacy=replace(config.privacy, noise="shared"))
    found = {variant.name: variant.config.privacy for variant in variants(shared)}
    assert "without encryption" not in found
    own = found["without shared noise"]
    assert own is not None and own.noise == "own"


def shared_config(**training: float) -> RunConfig:
    """A run of steps under shared noise as its folder keeps it: calibrated, its learning rate chosen by that noise."""
    config = private_config()
    assert config.privacy is not None
    privacy = replace(config.privacy, noise="shared", noise_multiplier=None, share_variance=900.0, share_pieces=2)
    return replace(
        config,
        rounds=SHARED.rounds,
        privacy=replace(privacy, learning_rate=1.25),
        training=replace(SHARED.training, **training),  # type: ignore[arg-type]
        algorithm=AlgorithmSettings(),
    )


def test_every_arm_of_a_run_under_shared_noise_trains_as_suits_it(tmp_path: Path) -> None:
    """Not with the step calibrated to the whole run's noise, and not for as many rounds as there were steps."""
    (tmp_path / "config.toml").write_text(config_to_toml(shared_config()))
    arms = {v.name: v.config for v in variants(read_config(tmp_path), epsilons=[1.0])}
    whole, own, bare = arms[WHOLE], arms["without shared noise"], arms["without privacy"]
    for calibrated in (whole, arms["epsilon 1"], arms["without statistics"], arms["without momentum"]):
        assert calibrated.privacy is not None and calibrated.privacy.noise == "shared"
        assert (calibrated.privacy.learning_rate, calibrated.privacy.share_pieces) == (None, None)
        assert calibrated.training.learning_rate == BY_NOISE and calibrated.rounds == SHARED.rounds
    assert own.privacy is not None and own.privacy.noise == "own" and own.privacy.learning_rate is None
    assert own.training == PRIVATE.training and own.model == PRIVATE.model and own.rounds == OPEN.rounds
    assert bare.privacy is None and bare.rounds == OPEN.rounds
    assert bare.training == QUICK.baseline_training and bare.model == QUICK.baseline_model


def test_a_noisy_or_run_keeps_its_model_where_another_component_is_taken_out() -> None:
    arms = {v.name: v.config for v in variants(configuration({"epsilon": 3.0}), epsilons=[8.0])}
    names = ["privacy", "shared noise", "noisy-or model", "history", "statistics", "compression", "momentum"]
    assert list(arms) == [WHOLE, *(f"without {name}" for name in names), "epsilon 8"]
    for config in arms.values():
        require_possible(config, 10)
        assert config_from_toml(config_to_toml(config)) == config
    kinds = {name: config.model.kind for name, config in arms.items()}
    assert kinds.pop("without noisy-or model") == "mlp" and set(kinds.values()) == {"noisy-or"}
    own, network = arms["without shared noise"], arms["without noisy-or model"]
    assert own.privacy is not None and own.privacy.noise == "own" and own.training == arms[WHOLE].training
    assert network.privacy is not None and network.privacy.noise == "shared"
    assert (network.rounds, network.training.momentum) == (SHARED.rounds, SHARED.training.momentum)
    assert arms["without privacy"].privacy is None and arms["without privacy"].training.learning_rate != BY_NOISE
    week = arms["without history"]
    assert week.model.history_days == 0 and week.privacy is not None and week.privacy.expected_batch == 6_000
    # Steps and the share of counts are public functions of epsilon.
    assert arms["epsilon 8"].rounds == private_schedule(8.0).steps and arms[WHOLE].rounds == private_schedule(3.0).steps
    shares = [config.statistics.budget_share for config in (arms[WHOLE], arms["epsilon 8"]) if config.statistics]
    assert shares == pytest.approx([2.6 / 3, 7.2 / 8], abs=1e-4)


def test_a_learning_rate_that_was_asked_for_stays_with_the_arms_that_it_was_asked_for() -> None:
    config = replace(shared_config(learning_rate=0.5), rounds=4)
    arms = {v.name: v.config for v in variants(config, epsilons=[1.0])}
    assert arms[WHOLE].training.learning_rate == arms["epsilon 1"].training.learning_rate == 0.5
    assert arms["without shared noise"].training.learning_rate == PRIVATE.training.learning_rate
    assert {arm.rounds for arm in arms.values()} == {4}  # fewer than a run of rounds would have


def test_without_privacy_the_training_is_the_one_that_suits_that() -> None:
    found = {variant.name: variant.config for variant in variants(private_config())}["without privacy"]
    assert found.privacy is None
    assert found.training == QUICK.baseline_training and found.model == QUICK.baseline_model
    assert found.statistics is not None and found.statistics.sigma is found.statistics.epsilon is None


def test_a_cell_has_its_own_ledgers_and_calibrates_its_own_noise() -> None:
    for variant in variants(private_config(), epsilons=[1.0]):
        privacy = variant.config.privacy
        assert privacy is None or (privacy.budget_dir, privacy.noise_multiplier) == (None, None)
        assert not variant.config.with_baselines


@pytest.mark.parametrize(
    ("components", "epsilons", "message"),
    [(["colour"], [], "expected components among"), (["privacy"], [], "no privacy to"), (None, [1.0], "no epsilon")],
)
def test_what_cannot_be_taken_out_is_refused_by_name(
    components: list[str] | None, epsilons: list[float], message: str
) -> None:
    with pytest.raises(AblationError, match=message):
        variants(QUICK, components, epsilons)


def test_a_configuration_is_read_from_a_run_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(config_to_toml(QUICK))
    assert read_config(tmp_path) == read_config(tmp_path / "config.toml") == QUICK
    with pytest.raises(RunFolderError, match=r"nowhere: expected a run folder or a config\.toml"):
        read_config(tmp_path / "nowhere")


# --- comparing -------------------------------------------------------------------------------------------------------


def test_an_interval_of_three_differences_by_hand() -> None:
    """Mean 2, standard deviation 1, t with two degrees of freedom 4.3027: 2 +- 4.3027 / sqrt 3."""
    told = paired([1.0, 2.0, 3.0])
    assert (told["mean"], told["n"], told["certain"]) == (2.0, 3, False)
    assert (told["low"], told["high"]) == (pytest.approx(-0.48414, abs=1e-4), pytest.approx(4.48414, abs=1e-4))


def test_one_pair_has_no_interval_and_is_never_certain() -> None:
    told = paired([5.0])
    assert (told["low"], told["high"], told["certain"]) == (None, None, False)


def test_many_comparisons_ask_for_more_than_one() -> None:
    differences = [1.0, 1.3, 0.7]
    assert paired(differences)["certain"] and not paired(differences, comparisons=50)["certain"]


def test_pairs_are_of_equal_seed(tmp_path: Path) -> None:
    whole, other = variants(QUICK, ["dropout"])

    def result(figure: float) -> dict:
        metrics = dict.fromkeys(("average_precision", "roc_auc", "card_precision_at_100"), figure)
        overhead = {"bytes_up": 0, "max_abs_error": 0.0, "seconds": {"training": 1.0, "aggregation": 0.0}}
        return {"metrics": metrics, "banks": 3, "privacy": {"epsilon": None}, "overhead": overhead}

    cells = [(whole, 0, result(0.5)), (other, 0, result(0.4)), (whole, 1, result(0.9)), (other, 1, result(0.7))]
    told = summarise(cells)
    assert told["variants"][1]["average_precision"]["worth"]["per_seed"] == pytest.approx([0.1, 0.2])
    assert told["curve"] == [] and told["seeds"] == [0, 1]


# --- continuing ------------------------------------------------------------------------------------------------------


def test_a_finished_cell_is_read_and_an_interrupted_one_continues(tmp_path: Path) -> None:
    path = tmp_path / "cell"
    first = cell(QUICK, path)
    (path / "result.json").write_text(json.dumps({**first, "marked": True}))
    assert cell(QUICK, path)["marked"]
    (path / "result.json").unlink()
    (path / "model.safetensors").unlink()
    assert cell(QUICK, path)["metrics"] == first["metrics"]


def test_another_ablation_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    plan = variants(QUICK, ["dropout"])
    prepare(tmp_path / "out", QUICK, plan, 2, resume=False)
    prepare(tmp_path / "out", QUICK, plan, 2, resume=True)
    with pytest.raises(AblationError, match="--resume"):
        prepare(tmp_path / "out", QUICK, plan, 2, resume=False)
    with pytest.raises(AblationError, match="other options or seeds"):
        prepare(tmp_path / "out", QUICK, plan, 3, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(AblationError, match="something else"):
        prepare(tmp_path / "mine", QUICK, plan, 2, resume=True)


@pytest.mark.long
@pytest.mark.parametrize("private", [False, True])
def test_an_ablation_that_was_killed_ends_as_if_it_had_not_been(private: bool, tmp_path: Path) -> None:
    config = private_config() if private else QUICK
    base = tmp_path / "base" / "config.toml"
    base.parent.mkdir()
    base.write_text(config_to_toml(config))
    folder, names = tmp_path / "out", "encryption,algorithm" if private else "dropout,momentum"
    command = ["-m", "demos", "ablate", str(base), "--seeds", "2", "--components", names]
    command += ["--out", str(folder), "--json"]
    killed_after_write(tmp_path / "planted", r"/cells/[^/]+/manifest\.json$", 3, command)  # in the third cell
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/result.json")}
    assert len(kept) >= 2
    done = subprocess.run([sys.executable, *command, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [row["n"] for row in told["variants"]] == [2, 2, 2]
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    lost = [json.loads(path.read_text())["rounds_lost"] for path in folder.glob("cells/*/result.json")]
    assert lost == [0] * 6
    if not private:
        plan = variants(config, names.split(","))
        fresh = [result["metrics"] for _, _, result in play(tmp_path / "again", plan, 2)]
        again = [result["metrics"] for _, _, result in play(folder, plan, 2)]
        assert fresh == again


def test_a_run_is_its_own_configuration_for_an_ablation(tmp_path: Path) -> None:
    run = train(QUICK, tmp_path / "run")
    assert variants(read_config(run), ["dropout"])[0].config == QUICK
