from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fl.errors import ModelError
from fl.learning.model import build_model, flatten, layout, model_hash, unflatten


def mixed_module() -> nn.Module:
    """Every kind of tensor at once: two float types, a tied parameter, float and integer buffers."""
    module = nn.Module()
    module.small = nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float16))
    module.matrix = nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3))
    module.tied = module.matrix
    module.register_buffer("mean", torch.tensor([7.0]))
    module.register_buffer("batches", torch.tensor(3))
    module.register_buffer("scratch", torch.tensor([9.0]), persistent=False)
    return module


def test_the_vector_is_parameters_in_order_then_float_buffers_and_nothing_else() -> None:
    assert flatten(mixed_module()).tolist() == [0.5, -2.0, 0, 1, 2, 3, 4, 5, 7.0]
    assert [slot.name for slot in layout(mixed_module()).slots] == ["small", "matrix", "mean"]
    assert layout(mixed_module()).excluded == ("batches",)


def test_unflatten_restores_shapes_and_dtypes() -> None:
    module = mixed_module()
    unflatten(module, np.arange(9, dtype=np.float64))
    assert module.small.dtype == torch.float16
    assert module.small.tolist() == [0.0, 1.0]
    assert module.matrix.tolist() == [[2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]
    assert module.tied is module.matrix
    assert module.mean.tolist() == [8.0]
    assert module.batches.item() == 3


@given(inputs=st.integers(1, 40), seed=st.integers(0, 2**32), hidden=st.lists(st.integers(1, 9), max_size=3))
@settings(max_examples=30, deadline=None)
def test_flatten_after_unflatten_is_the_identity(inputs: int, seed: int, hidden: list[int]) -> None:
    module = build_model(inputs, seed=seed, hidden=tuple(hidden))
    vector = np.random.default_rng(seed).standard_normal(layout(module).length).astype(np.float32)
    unflatten(module, vector)
    assert np.array_equal(flatten(module), vector)


@pytest.mark.parametrize("length", [0, 8, 10])
def test_a_vector_of_another_length_is_refused_and_changes_nothing(length: int) -> None:
    module = mixed_module()
    before = flatten(module)
    with pytest.raises(ModelError, match=r"shape \(9,\)"):
        unflatten(module, np.zeros(length))
    assert np.array_equal(flatten(module), before)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_a_diverged_vector_is_refused_and_changes_nothing(value: float) -> None:
    module = mixed_module()
    vector = np.zeros(9)
    vector[8] = value
    with pytest.raises(ModelError, match="1 of 9"):
        unflatten(module, vector)
    assert flatten(module)[0] == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", ["parameter", "buffer"])
def test_a_value_beyond_its_tensors_dtype_is_refused_and_changes_nothing(dtype: torch.dtype, place: str) -> None:
    module = nn.Module()
    module.first = nn.Parameter(torch.ones(2))
    if place == "parameter":
        module.narrow = nn.Parameter(torch.ones(2, dtype=dtype))
    else:
        module.register_buffer("narrow", torch.ones(2, dtype=dtype))
    beyond = 1e5 if dtype == torch.float16 else 3.4028e38
    with pytest.raises(ModelError, match="1 of 2 values of narrow are beyond"):
        unflatten(module, np.array([3.0, 3.0, 3.0, beyond]))
    assert flatten(module).tolist() == [1.0, 1.0, 1.0, 1.0]
    unflatten(module, np.array([3.0, 3.0, 3.0, 4.0]))
    assert flatten(module).tolist() == [3.0, 3.0, 3.0, 4.0]


@pytest.mark.parametrize("place", ["parameter", "buffer"])
def test_a_double_beyond_float32_is_refused_by_name_and_not_averaged_as_infinity(place: str) -> None:
    module = nn.Module()
    wide = torch.tensor([1.0, 1e39], dtype=torch.float64)
    if place == "parameter":
        module.wide = nn.Parameter(wide)
    else:
        module.register_buffer("wide", wide)
    with pytest.raises(ModelError, match="wide holds values beyond float32"):
        flatten(module)


def test_complex_parameters_are_refused_by_name() -> None:
    module = nn.Module()
    module.phase = nn.Parameter(torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ModelError, match="phase"):
        layout(module)


def test_the_model_is_the_one_the_contract_names() -> None:
    module = build_model(19, seed=1)
    shapes = [tuple(p.shape) for p in module.parameters()]
    assert shapes == [(64, 19), (64,), (32, 64), (32,), (1, 32), (1,)]
    assert [m.p for m in module.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert not list(module.buffers())


def test_the_seed_alone_decides_the_first_weights_and_torch_is_left_untouched() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_model(5, seed=s) for s in (3, 3, 4))
    assert np.array_equal(flatten(first), flatten(again))
    assert not np.array_equal(flatten(first), flatten(other))
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_untrained_model_assumes_the_public_share_of_frauds() -> None:
    module = build_model(3, seed=0, prior=0.002).eval()
    assert torch.sigmoid(module.logit.bias).item() == pytest.approx(0.002)
    with pytest.raises(ModelError, match="prior"):
        build_model(3, seed=0, prior=0.0)


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(ModelError, match="at least one input"):
        build_model(0, seed=0)


def test_the_model_hash_changes_with_any_value_name_shape_or_dtype() -> None:
    def one(name: str, tensor: torch.Tensor) -> nn.Module:
        module = nn.Module()
        module.register_parameter(name, nn.Parameter(tensor))
        return module

    zeros = torch.zeros(4)
    hashes = {
        model_hash(one("w", zeros)),
        model_hash(one("v", zeros)),
        model_hash(one("w", zeros.reshape(2, 2))),
        model_hash(one("w", torch.zeros(2, dtype=torch.float64))),
        model_hash(one("w", torch.tensor([0.0, 0.0, 0.0, -0.0]))),
    }
    assert len(hashes) == 5
    assert model_hash(one("w", zeros)) in hashes


def test_the_model_hash_covers_the_buffers_that_the_vector_leaves_out() -> None:
    first, second = mixed_module(), mixed_module()
    second.batches += 1
    assert np.array_equal(flatten(first), flatten(second))
    assert model_hash(first) != model_hash(second)
