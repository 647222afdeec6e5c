"""The noisy-or model: what it computes, its gradient written out, and how far one row or one label moves it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from fl.data.features import features, scaled_features
from fl.data.federation import Rows
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import load_schema
from fl.errors import ModelError, TrainingError
from fl.learning.model import flatten, layout, unflatten
from fl.learning.noisy_or import (
    BOUND,
    STRETCH,
    NoisyOr,
    fit_noisy_or,
    gradient_sum,
    negative_log_likelihood,
    noisy_or_columns,
)
from fl.learning.training import predict

INPUTS = 6
CPU = torch.device("cpu")


def rows_of(x: np.ndarray, y: np.ndarray) -> Rows:
    places = np.arange(len(y))
    return Rows(x.astype(np.float32), y.astype(np.float32), places.astype(np.int32), places, places)


def some_rows(count: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (count, INPUTS))
    x[:, -1] = rng.choice([0.0, 1.0, 1e-4, 0.5, 0.95], count)
    return rows_of(x, rng.random(count) < 0.4)


def model_of(seed: int, size: float = 1.0) -> NoisyOr:
    model = NoisyOr(INPUTS)
    unflatten(model, np.random.default_rng(seed).normal(scale=size, size=INPUTS))
    return model


def test_the_probability_is_that_of_either_cause() -> None:
    model = NoisyOr(3)
    unflatten(model, np.array([-1.0, 2.0, 0.5]))
    rows = rows_of(np.array([[0.5, -0.25, 0.3]]), np.array([1]))
    customer = 1 / (1 + math.exp(-(-1.0 + STRETCH * (2.0 * 0.5 - 0.5 * 0.25))))
    assert predict(model, rows.x, device=CPU) == pytest.approx([1 - (1 - customer) * (1 - 0.3)], rel=1e-6)


def test_the_first_model_says_the_prior_or_what_the_entity_says() -> None:
    x = np.array([[1.0, -1.0, 0.0], [1.0, -1.0, 0.5]], np.float32)
    assert predict(NoisyOr(3, prior=0.01), x, device=CPU) == pytest.approx([0.01, 0.505], rel=1e-5)


def test_a_row_is_shortened_to_the_bound_and_never_stretched() -> None:
    x = torch.tensor([[3.0, 3.0, 3.0, 3.0, 3.0, 1.0], [0.1, 0.0, 0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    long, short = NoisyOr(INPUTS).vectors(x)
    assert float(long.norm()) == pytest.approx(BOUND) and float(long[1] / long[0]) == pytest.approx(3 * STRETCH)
    assert short.tolist() == [1.0, STRETCH * 0.1, 0.0, 0.0, 0.0, 0.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0]))
def test_the_gradient_is_that_of_the_loss(count: int, seed: int, size: float) -> None:
    rows, model = some_rows(count, seed), model_of(seed, size).double()
    logits = model(torch.from_numpy(rows.x).double()).reshape(-1)
    binary_cross_entropy_with_logits(logits, torch.from_numpy(rows.y).double(), reduction="sum").backward()
    expected = model.logistic.weight.grad.reshape(-1).numpy()
    np.testing.assert_allclose(gradient_sum(model, rows, BOUND), expected, rtol=1e-9, atol=1e-9 * count)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 1e6]))
def test_one_row_moves_the_sum_by_at_most_the_bound_and_so_does_another_label(
    count: int, seed: int, size: float
) -> None:
    rows, model = some_rows(count, seed), model_of(seed, size)
    whole = gradient_sum(model, rows, BOUND)
    without = rows_of(rows.x[1:], rows.y[1:])
    relabelled = rows_of(rows.x, np.concatenate([1 - rows.y[:1], rows.y[1:]]))
    for other in (without, relabelled):
        assert np.linalg.norm(gradient_sum(model, other, BOUND) - whole) <= BOUND * (1 + 1e-9)


def test_another_label_can_move_the_sum_by_all_of_the_bound() -> None:
    x = np.array([[3.0, 3.0, 3.0, 3.0, 3.0, 0.0]])
    fraud, genuine = (gradient_sum(model_of(1), rows_of(x, np.array([y])), BOUND) for y in (1, 0))
    assert np.linalg.norm(fraud - genuine) == pytest.approx(BOUND)


def test_extreme_probabilities_and_weights_stay_finite() -> None:
    rows = some_rows(200, 5)
    for size in (1e-6, 1e3, 1e30):
        model = model_of(2, size)
        assert np.isfinite(gradient_sum(model, rows, BOUND)).all()
        assert ((scores := predict(model, rows.x, device=CPU)) >= 0).all() and (scores <= 1).all()


def test_noise_for_shorter_gradients_than_the_models_is_refused() -> None:
    with pytest.raises(ModelError, match=r"set max_grad_norm to 2\.5"):
        gradient_sum(NoisyOr(INPUTS), some_rows(3, 0), 1.0)


def test_a_model_is_one_vector_of_as_many_values_as_inputs_and_uses_no_generator() -> None:
    state = torch.get_rng_state()
    model = NoisyOr(INPUTS)
    assert torch.equal(state, torch.get_rng_state())
    assert layout(model).length == INPUTS and flatten(model)[1:].tolist() == [0.0] * (INPUTS - 1)


@pytest.mark.parametrize("wrong", [{"inputs": 0}, {"inputs": 3, "prior": 0.0}, {"inputs": 3, "bound": math.inf}])
def test_what_is_no_model_is_refused(wrong: dict) -> None:
    with pytest.raises(ModelError, match="got"):
        NoisyOr(**wrong)


def drawn_rows(count: int, seed: int, weights: np.ndarray) -> Rows:
    """Rows whose labels are drawn from the model with these weights."""
    rows, model = some_rows(count, seed), NoisyOr(INPUTS)
    unflatten(model, weights)
    y = np.random.default_rng(seed + 1).random(count) < predict(model, rows.x, device=CPU)
    return rows_of(rows.x, y)


def test_a_fit_finds_the_weights_that_the_labels_were_drawn_from() -> None:
    weights = np.array([-2.0, 2.0, 0.0, -1.0, 0.5, 1.0])
    fitted = fit_noisy_or(drawn_rows(60_000, 1, weights))
    np.testing.assert_allclose(flatten(fitted), weights, atol=0.15)  # six standard errors; the draw is fixed


def test_a_fit_stops_where_the_likelihood_and_the_pull_balance() -> None:
    rows = some_rows(500, 3)
    fitted = fit_noisy_or(rows, ridge=2.0)
    weights = flatten(fitted).astype(np.float64)
    slope = gradient_sum(fitted, rows, BOUND) + 2.0 * np.concatenate([[0.0], weights[1:]])
    assert np.abs(slope).max() < 0.02
    other = NoisyOr(INPUTS)
    unflatten(other, weights + 0.05)
    assert negative_log_likelihood(fitted, rows) < negative_log_likelihood(other, rows)


def test_a_strong_pull_keeps_a_personal_model_at_the_federated_one() -> None:
    federated = model_of(4)
    near = fit_noisy_or(some_rows(50, 3), start=federated, ridge=1e9)
    np.testing.assert_allclose(flatten(near)[1:], flatten(federated)[1:], atol=1e-4)
    assert (flatten(federated) == flatten(model_of(4))).all()


def test_the_likelihood_is_that_of_the_probabilities() -> None:
    rows, model = some_rows(300, 8), model_of(8)
    rows.x[:, -1] *= 0.95  # of q near 1, float32 keeps only a few digits of 1 - q
    p = predict(model, rows.x, device=CPU)
    expected = -np.log(np.where(rows.y == 1, p, 1 - p)).sum()
    assert negative_log_likelihood(model, rows) == pytest.approx(expected, rel=1e-5)


def test_no_column_with_a_banks_own_labels_is_among_the_inputs() -> None:
    schema = load_schema("fdh")
    names = noisy_or_columns(schema)
    assert [name for name in names if "terminal" in name] == [] and len(names) == 11
    flipped = small_table(schema, labels=1)
    at = [[feature.name for feature in features(schema)].index(name) for name in names]
    assert np.array_equal(scaled_features(small_table(schema, labels=0))[:, at], scaled_features(flipped)[:, at])


def small_table(schema: Schema, labels: int) -> Transactions:
    frame = pd.DataFrame(
        {
            "TX_DATETIME": [f"2018-06-{day:02} 10:00:00" for day in range(1, 29)],
            "CUSTOMER_ID": [day % 2 for day in range(28)],
            "TERMINAL_ID": [day % 3 for day in range(28)],
            "TX_AMOUNT": [10.0 + day for day in range(28)],
            "TX_FRAUD": [labels] * 28,
        }
    )
    return transactions_from_frame(frame, schema, "made", needs_fraud=False)


def test_no_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="no rows"):
        fit_noisy_or(some_rows(0, 0))
