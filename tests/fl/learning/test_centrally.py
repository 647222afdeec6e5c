"""Training on rows in one place: torch's own gradients, the same weights again, and everything else as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fl.data.federation import Rows
from fl.errors import TrainingError
from fl.learning import centrally
from fl.learning.centrally import chain_of, masks, mean_gradient, train_centrally
from fl.learning.model import build_model, flatten
from fl.learning.noisy_or import NoisyOr
from fl.learning.training import LocalTraining, train_seeded, weighted_loss

CPU = torch.device("cpu")
LOCAL = LocalTraining("sgd", learning_rate=0.1, momentum=0.9, epochs=3, batch_size=64)


def rows(number: int = 300, width: int = 5) -> Rows:
    drawn = np.random.default_rng(4)
    x = drawn.normal(size=(number, width)).astype(np.float32)
    y = (x[:, 0] + drawn.normal(size=number) > 1).astype(np.float32)
    none = np.zeros(number, np.int64)
    return Rows(x, y, none.astype(np.int32), none, none)


def by_torch(values: torch.Tensor, dropped: float) -> torch.Tensor:
    return torch.empty_like(values).bernoulli_(1 - dropped).div_(1 - dropped)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("pos_weight", [1.0, 4.0])
@pytest.mark.parametrize("number", [1, 2, 65, 512])
def test_gradients_are_those_of_torch_to_the_last_bit(number: int, pos_weight: float, dropout: float) -> None:
    model, batch = build_model(5, seed=3, dropout=dropout), rows(number)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        weighted_loss(model.train(), x, y, pos_weight, "mean").backward()
        expected = [parameter.grad for parameter in model.parameters()]
        torch.manual_seed(9)
        layers = chain_of(model)
        assert layers is not None
        mean_gradient(layers, x, y, pos_weight, by_torch)
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not grad and torch.equal(parameter.grad, grad)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    weights = []
    for seed in (1, 1, 2):
        model = build_model(5, seed=3)
        train_centrally(model, rows(), LOCAL, seed=seed, device=CPU)
        weights.append(flatten(model))
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_without_dropout_and_with_whole_batches_it_is_the_training_of_a_round(momentum: float) -> None:
    whole = LocalTraining("sgd", learning_rate=0.1, momentum=momentum, epochs=5, batch_size=300)
    ours, theirs = (build_model(5, seed=3, dropout=0.0) for _ in range(2))
    train_centrally(ours, rows(), whole, seed=1, device=CPU)
    train_seeded(theirs, rows(), whole, seed=1, device=CPU)
    np.testing.assert_allclose(flatten(ours), flatten(theirs), atol=1e-5)  # rows are added up in another order


def test_adam_learns_too() -> None:
    batch, model = rows(), build_model(5, seed=3)
    x, y = torch.from_numpy(batch.x), torch.from_numpy(batch.y)
    before = float(weighted_loss(model.eval(), x, y, 4.0, "mean").detach())
    train_centrally(
        model, batch, LocalTraining("adam", learning_rate=0.01, epochs=10, batch_size=64), seed=1, device=CPU
    )
    assert float(weighted_loss(model.eval(), x, y, 4.0, "mean").detach()) < 0.7 * before


@pytest.mark.parametrize("dropped", [0.1, 0.3, 0.5])
def test_masks_drop_the_share_asked_for_and_keep_the_mean(dropped: float) -> None:
    factors = masks(np.random.default_rng(8))(torch.empty(400, 251), dropped)
    # A fixed draw of 100,400 units, of which the share kept has a standard deviation of at most .0016.
    assert factors.shape == (400, 251)
    assert float((factors == 0).float().mean()) == pytest.approx(dropped, abs=0.012)
    assert sorted(factors.unique().tolist()) == pytest.approx([0.0, 1 / (1 - dropped)], rel=1e-4)


@pytest.mark.parametrize(
    "module",
    [
        NoisyOr(5),
        nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(5, 1, bias=False)),
        nn.Sequential(nn.Linear(5, 1).double()),
        nn.Sequential(nn.Linear(5, 2)),
        nn.Linear(5, 1),
    ],
    ids=["noisy-or", "tanh", "no bias", "float64", "two outputs", "no chain"],
)
def test_any_other_module_trains_as_in_a_round(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(centrally, "train_seeded", lambda *_, seed, **__: asked.append(seed))
    assert chain_of(module) is None
    train_centrally(module, rows(), LOCAL, seed=11, device=CPU)
    assert asked == [11]


def test_no_rows_and_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(TrainingError, match="no training rows"):
        train_centrally(build_model(5, seed=3), rows(0), LOCAL, seed=1, device=CPU)
    endless = rows()
    endless.x[:] = np.inf
    with pytest.raises(TrainingError, match="diverged"):
        train_centrally(build_model(5, seed=3), endless, LOCAL, seed=1, device=CPU)
