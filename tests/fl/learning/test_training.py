from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule
from scipy import stats
from torch import nn

from fl.data.federation import Rows
from fl.errors import DeviceError, TrainingError
from fl.learning.model import build_model, flatten, unflatten
from fl.learning.training import (
    LocalTraining,
    PrivateSteps,
    SystemNoiseOptimizer,
    derive_seed,
    pick_device,
    predict,
    train_private,
    train_seeded,
)
from fl.privacy.randomness import normals, poisson_sample, uniforms

CPU = torch.device("cpu")
NOISELESS = 1e-9  # a noise multiplier too small to see in float32


def make_rows(n: int, d: int = 4, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.standard_normal(n) > 1.0).astype(np.float32)
    index = np.arange(n, dtype=np.int64)
    return Rows(x, y, np.zeros(n, np.int32), index, index)


def fixed_bytes(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


def linear_model() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 1))
    unflatten(module, np.array([0.5, -0.25, 0.1, 0.0, 0.2]))
    return module


# --- randomness
# -----------------------------------------------------------------------------------------------------


def test_normals_follow_the_gaussian_distribution_into_its_tails() -> None:
    z = normals(400_000, entropy=fixed_bytes(1))
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert abs(np.mean(np.abs(z) > 3) / 0.0026998 - 1) < 0.1


def test_normals_are_finite_at_both_ends_of_their_words() -> None:
    lowest = normals(1, entropy=lambda n: b"\x00" * n)[0]
    highest = normals(1, entropy=lambda n: b"\xff" * n)[0]
    assert 8.28 < lowest < 8.30  # the smallest quantile
    assert -1e-14 < highest < 0  # the quantile next to 1/2, on the other side


def test_uniforms_lie_in_the_half_open_interval() -> None:
    assert uniforms(1, entropy=lambda n: b"\x00" * n)[0] == 0.0
    assert uniforms(1, entropy=lambda n: b"\xff" * n)[0] == 1 - 2.0**-53


def test_a_poisson_batch_takes_each_row_at_the_public_rate() -> None:
    counts = np.zeros(50)
    entropy = fixed_bytes(2)
    for _ in range(4000):
        counts[poisson_sample(50, 0.3, entropy=entropy)] += 1
    assert np.all(np.abs(counts / 4000 - 0.3) < 4.5 * np.sqrt(0.21 / 4000))
    assert len(poisson_sample(50, 1.0)) == 50


def test_the_operating_system_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    first = normals(8)
    torch.manual_seed(5)
    assert not np.array_equal(first, normals(8))


# --- without privacy
# ------------------------------------------------------------------------------------------------


def test_the_same_seed_trains_the_same_model_whatever_torchs_own_generator_holds() -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        before = torch.random.get_rng_state()
        module = build_model(4, seed=0)
        train_seeded(module, make_rows(300), LocalTraining(), seed=9, device=CPU)
        assert torch.equal(before, torch.random.get_rng_state())
        results.append(flatten(module))
    assert np.array_equal(*results)


def test_training_learns_a_rule_that_is_there() -> None:
    module = build_model(4, seed=0)
    train_seeded(module, make_rows(2000), LocalTraining(epochs=8), seed=1, device=CPU)
    held_out = make_rows(500, seed=1)
    scores = predict(module, held_out.x, device=CPU)
    assert scores[held_out.y == 1].mean() > 0.7 > 0.3 > scores[held_out.y == 0].mean()


def test_the_proximal_term_is_half_mu_times_the_squared_distance() -> None:
    """Two SGD steps over one batch, against the formula differentiated by torch itself."""
    rows, mu, rate = make_rows(16), 0.7, 0.5
    local = LocalTraining("sgd", rate, pos_weight=3.0, epochs=2, batch_size=16)
    module = linear_model()
    train_seeded(module, rows, local, seed=0, device=CPU, proximal=mu)

    w = torch.from_numpy(flatten(linear_model())).requires_grad_()
    start = w.detach().clone()
    for _ in range(2):
        logits = torch.from_numpy(rows.x) @ w[:4] + w[4]
        loss = nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(rows.y), pos_weight=torch.tensor(3.0)
        )
        (gradient,) = torch.autograd.grad(loss + mu / 2 * (w - start).square().sum(), w)
        w = (w - rate * gradient).detach().requires_grad_()
    assert flatten(module) == pytest.approx(w.detach().numpy(), abs=1e-6)


def test_a_bank_without_rows_is_told_so() -> None:
    with pytest.raises(TrainingError, match="no training rows"):
        train_seeded(build_model(4, seed=0), make_rows(0), LocalTraining(), seed=0, device=CPU)


def test_divergence_is_an_error_and_not_a_model() -> None:
    local = LocalTraining("sgd", learning_rate=1e6, pos_weight=1e6, epochs=3)
    with pytest.raises(TrainingError, match="diverged"):
        train_seeded(build_model(4, seed=0), make_rows(300), local, seed=0, device=CPU)


# --- with privacy
# ---------------------------------------------------------------------------------------------------


def steps(**changes: float) -> PrivateSteps:
    values = {
        "sample_rate": 1.0,
        "noise_multiplier": NOISELESS,
        "steps": 1,
        "max_grad_norm": 0.5,
        "expected_batch": 10.0,
    }
    return PrivateSteps(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [3, 2500])  # within one physical batch, and over three
def test_a_private_step_is_the_sum_of_clipped_row_gradients_over_the_public_divisor(n: int) -> None:
    rows, local = make_rows(n), LocalTraining("sgd", learning_rate=1.0, pos_weight=3.0)
    module = linear_model()
    before = flatten(module).astype(np.float64)
    train_private(module, rows, local, steps(), device=CPU)

    x = np.c_[rows.x, np.ones(n)].astype(np.float64)
    p = 1 / (1 + np.exp(-x @ before))
    gradients = np.where(rows.y == 1, 3.0 * (p - 1), p)[:, None] * x
    factor = np.minimum(1.0, 0.5 / np.linalg.norm(gradients, axis=1))
    assert flatten(module) - before == pytest.approx(-(factor @ gradients) / 10.0, rel=1e-4, abs=1e-5)


def test_removing_one_row_moves_the_noiseless_sum_by_at_most_the_clipping_norm() -> None:
    """The sensitivity that the accountant is told, measured on a model without dropout."""
    rows = make_rows(40)
    local = LocalTraining("sgd", learning_rate=1.0, pos_weight=50.0)

    def summed(keep: np.ndarray) -> np.ndarray:
        module = linear_model()
        kept = Rows(rows.x[keep], rows.y[keep], rows.day[keep], rows.customer[keep], rows.index[keep])
        train_private(module, kept, local, steps(expected_batch=1.0), device=CPU)
        return flatten(module)

    whole = summed(np.arange(40))
    moves = [np.linalg.norm(whole - summed(np.delete(np.arange(40), i))) for i in range(40)]
    assert max(moves) <= 0.5 * (1 + 1e-4)
    assert max(moves) > 0.499  # some row is clipped, so the bound is the clipping norm and nothing larger


def test_the_noise_has_the_standard_deviation_that_the_accountant_was_told() -> None:
    """An empty bank yields nothing but noise: noise_multiplier * max_grad_norm / expected_batch per step."""
    moves = []
    entropy = fixed_bytes(3)
    for _ in range(300):
        module = linear_model()
        before = flatten(module)
        local = LocalTraining("sgd", learning_rate=1.0)
        train_private(module, make_rows(0), local, steps(noise_multiplier=4.0, steps=3), device=CPU, entropy=entropy)
        moves.append(flatten(module) - before)
    spread = np.concatenate(moves).std()
    assert spread == pytest.approx(4.0 * 0.5 / 10.0 * np.sqrt(3), rel=0.06)


def test_two_private_trainings_from_one_model_differ() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        module = build_model(4, seed=0)
        train_private(module, make_rows(50), LocalTraining(), steps(noise_multiplier=1.0), device=CPU)
        results.append(flatten(module))
    assert not np.array_equal(*results)


def test_dropout_under_privacy_is_seeded_by_the_operating_system() -> None:
    """A known seed would tie each row's mask to its place in the batch: see the module's docstring."""
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        module = build_model(4, seed=0)
        train_private(module, make_rows(200), LocalTraining(), steps(), device=CPU)  # no noise to speak of
        results.append(flatten(module))
    assert not np.allclose(*results, atol=1e-6)


def test_private_training_leaves_no_hook_and_no_gradient_behind() -> None:
    module = build_model(4, seed=0)
    train_private(module, make_rows(50), LocalTraining(), steps(steps=2), device=CPU)
    assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
    assert not any(hasattr(p, "grad_sample") for p in module.parameters())
    train_private(module, make_rows(50), LocalTraining(), steps(), device=CPU)  # and it can be done again


def test_the_proximal_pull_is_neither_clipped_nor_divided() -> None:
    """A bank without rows moves by its noise and by the pull back to the global model, which is exact."""
    module = linear_model()
    before = flatten(module)
    local = LocalTraining("sgd", learning_rate=1.0)
    private = steps(noise_multiplier=4.0, steps=2)
    train_private(module, make_rows(0), local, private, device=CPU, proximal=1.0, entropy=fixed_bytes(4))
    words = fixed_bytes(4)
    words(8)  # the dropout seed
    for _ in range(2):  # at rate 1 the second step's pull undoes the first step, and the second noise remains
        draws = [normals(4, entropy=words), normals(1, entropy=words)]
    assert flatten(module) - before == pytest.approx(-np.concatenate(draws) * 0.2, abs=1e-6)


def test_a_summed_gradient_cannot_be_used_twice() -> None:
    module = linear_model()
    per_row = GradSampleModule(module, loss_reduction="sum")
    optimiser = SystemNoiseOptimizer(torch.optim.SGD(module.parameters(), lr=1.0), steps())
    per_row(torch.ones(3, 4, requires_grad=True)).sum().backward()
    optimiser.step()
    with pytest.raises(ValueError, match="haven't been cleared"):
        optimiser.step()


# --- around it
# ------------------------------------------------------------------------------------------------------


def test_scores_do_not_tie_at_one_where_float32_would() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    unflatten(module, np.array([1.0, 0.0]))
    scores = predict(module, np.array([[20.0], [25.0], [-30.0]], dtype=np.float32), device=CPU)
    assert scores[2] < scores[0] < scores[1] < 1.0
    assert predict(module, np.empty((0, 1), np.float32), device=CPU).shape == (0,)


def test_seeds_for_different_purposes_differ() -> None:
    seeds = {derive_seed(1, "batches", bank, r) for bank in ("a", "b", "1") for r in (1, 11)}
    assert len(seeds) == 6
    assert derive_seed(1, "a", 11) != derive_seed(11, "a", 1)
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DeviceError, match="got 'tpu'"):
        pick_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="use --device cpu"):
            pick_device("cuda")
