"""The local step through a user's own Trainer, up to a real encrypted round of three Lightning banks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from small_banks import CPU, FEATURES, first_vector, make_banks, make_schedule, play, rows

from fl.errors import ModelError, TrainingError
from fl.learning.model import flatten, model_hash, unflatten
from fl.learning.training import LocalTraining, derive_seed, predict, train_seeded
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.lightning import FraudData, FraudModule, trained_update
from fl.secure.session import InProcessRounds, Joined

LOCAL = LocalTraining("sgd", learning_rate=0.1, momentum=0.5, batch_size=64, epochs=2)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers and intervals
        yield


def trainer(epochs: int = 2, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )


def make_module(local: LocalTraining = LOCAL, **options: float) -> FraudModule:
    return FraudModule(FEATURES, local, seed=0, dropout=options.pop("dropout", 0.0), prior=0.1, **options)


def test_it_is_the_same_model() -> None:
    assert flatten(make_module().model).tolist() == first_vector().tolist()


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("proximal", [0.0, 0.7])
def test_a_trainer_takes_the_very_steps_of_train_seeded(optimiser: str, proximal: float) -> None:
    local = LocalTraining(optimiser, 0.01, momentum=0.5, batch_size=64, epochs=2)  # type: ignore[arg-type]
    (bank, *_), start = make_banks(3), first_vector()
    module = make_schedule().first_model(FEATURES)
    train_seeded(module, bank.train, local, seed=9, device=CPU, proximal=proximal)
    update = trained_update(
        make_module(local, proximal=proximal), FraudData(bank, local, seed=9), trainer(), start=start
    )
    assert update.dtype == np.float32
    assert update.tolist() == (flatten(module) - start).tolist()


def test_three_lightning_banks_play_an_encrypted_round() -> None:
    """The model after it is the one that `fl.rounds.play` makes of the same banks, in plain sight but for the grid."""
    banks, start = make_banks(3), first_vector()
    updates = []
    for bank in banks:
        data = FraudData(bank, LOCAL, seed=derive_seed(0, "batches", bank.name, 1))
        updates.append(trained_update(make_module(), data, trainer(), start=start))
    module = make_module()
    unflatten(module.model, start)
    names = tuple(bank.name for bank in banks)
    rounds = InProcessRounds(names, clip=1.0, quorum=3)
    result = rounds.average(Joined(names, tuple(updates), (1, 1, 1), model_hash(module.model)), 32)
    after = (start + result.average).astype(np.float32)

    exact = start + np.mean([update.astype(np.float64) for update in updates], axis=0)
    assert np.abs(after - exact).max() <= result.error_bound + 1e-7
    assert result.bytes_up > 0
    unflatten(module.model, after)
    scores = predict(module.model, banks[0].test[0].x, device=CPU)
    assert scores[banks[0].test[0].y == 1].mean() > scores[banks[0].test[0].y == 0].mean()


def test_the_round_of_lightning_banks_is_the_round_of_fl_rounds() -> None:
    schedule = make_schedule()
    banks, start = make_banks(3), first_vector()
    names = tuple(bank.name for bank in banks)
    updates = tuple(
        trained_update(
            make_module(schedule.local),
            FraudData(bank, schedule.local, seed=derive_seed(0, "batches", bank.name, 1)),
            trainer(schedule.local.epochs),
            start=start,
        )
        for bank in banks
    )
    sealed = InProcessRounds(names, clip=1.0, quorum=3).average(Joined(names, updates, (1, 1, 1), "00" * 32), 32)
    ((_, state),) = play(FedAvg(Everyone(3)), banks=banks, rounds=1, encrypted=True)
    assert (start + sealed.average).astype(np.float32).tolist() == state.model.tolist()


def test_callbacks_and_metrics_are_the_users_own() -> None:
    (bank, *_), seen = make_banks(3), list[dict[str, float]]()

    class Watch(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    own = trainer(2, Watch())
    module, data = make_module(), FraudData(bank, LOCAL, seed=1)
    trained_update(module, data, own, start=first_vector())
    assert seen and all(0.0 <= figures["validation_average_precision"] <= 1.0 for figures in seen)
    (tested,) = own.test(module, datamodule=data, verbose=False)
    assert 0.0 < tested["test_average_precision"] <= 1.0
    (scores,) = own.predict(module, data.test_dataloader()[0])  # type: ignore[misc]
    assert scores.numpy() == pytest.approx(predict(module.model, bank.test[0].x, device=CPU))


def test_dropout_masks_are_the_users_generators_and_batches_are_not() -> None:
    (bank, *_), updates = make_banks(3), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        module = make_module(dropout=0.5)
        updates.append(trained_update(module, FraudData(bank, LOCAL, seed=3), trainer(), start=first_vector()))
    assert updates[0].tolist() == updates[1].tolist() != updates[2].tolist()


def test_a_trainer_that_has_finished_is_noticed() -> None:
    (bank, *_), used = make_banks(3), trainer()
    module, data = make_module(), FraudData(bank, LOCAL, seed=1)
    trained_update(module, data, used, start=first_vector())
    with pytest.raises(TrainingError, match="new Trainer"):
        trained_update(module, data, used, start=first_vector())


def test_a_model_of_another_shape_a_bank_without_rows_and_divergence_are_refused() -> None:
    (bank, *_) = make_banks(3)
    with pytest.raises(ModelError, match="vector of shape"):
        trained_update(make_module(), FraudData(bank, LOCAL, seed=1), trainer(), start=np.zeros(5, np.float32))
    held = rows(2, 1)
    nothing = replace(held, x=held.x[:0], y=held.y[:0])
    with pytest.raises(TrainingError, match="no training rows"):
        FraudData(replace(bank, train=nothing), LOCAL, seed=1)
    wild = LocalTraining("sgd", learning_rate=1e6, pos_weight=1e6)
    with pytest.raises(TrainingError, match="diverged"):
        trained_update(make_module(wild), FraudData(bank, wild, seed=1), trainer(), start=first_vector())
