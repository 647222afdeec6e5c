"""Fewer bits, fewer layers, differences instead of weights: what each saves and costs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_banks import FEATURES, first_vector, make_algorithm, make_schedule, play

from fl.errors import CompressionError
from fl.learning.model import flatten, layer_mask, layout
from fl.learning.training import PrivateSteps
from fl.rounds.compression import Compression, CompressionSettings, compression_of, frozen
from fl.secure.cost import plan_for

SHAPE = layout(make_schedule().first_model(FEATURES))
HIDDEN1, HIDDEN2, LOGIT = (int(layer_mask(SHAPE, [name]).sum()) for name in ("hidden1", "hidden2", "logit"))


def grid_error(values: NDArray[np.floating], *, clip: float, bits: int) -> float:
    """Root mean square error of the grid, in the unit of the values.

    It is the error of clipping `values` to [-clip, clip] and rounding them to `bits` bits.
    """
    step = clip / (2 ** (bits - 1) - 1)
    rounded = np.rint(np.clip(values.astype(np.float64), -clip, clip) / step) * step
    return float(np.sqrt(np.mean((rounded - values) ** 2)))


def compressed(**settings: str) -> Compression:
    return compression_of(CompressionSettings(**settings), SHAPE, 16)


# --- bits ------------------------------------------------------------------------------------------------------------


def test_a_schedule_says_how_many_bits_each_round_has() -> None:
    schedule = compressed(bits="1:8,4:12,6:32")
    assert [schedule.bits_of(number) for number in range(1, 8)] == [8, 8, 8, 12, 12, 32, 32]
    assert compression_of(None, SHAPE, 20).bits_of(99) == 20


def test_every_round_reports_its_bits_its_bytes_and_its_error() -> None:
    schedule = compressed(bits="1:4,2:8,3:16")
    records = [record for record, _ in play(make_algorithm("fedavg"), encrypted=True, compression=schedule)]
    assert [record.aggregate.value_bits for record in records] == [4, 8, 16]
    sent = [record.aggregate.bytes_up for record in records]
    assert sent == sorted(sent)
    for record in records:
        step = 1.0 / (2 ** (record.aggregate.value_bits - 1) - 1)
        assert record.max_abs_error <= record.aggregate.error_bound <= 0.5 * step * 1.001
        line = record.as_json()
        assert {"value_bits", "values", "relative_error", "max_abs_error", "bytes_up"} <= set(line)
    errors = [record.relative_error for record in records]
    assert errors[0] > 5 * errors[1] > 50 * errors[2] > 0


def test_fewer_bits_are_fewer_bytes_where_an_update_fills_its_ciphertexts() -> None:
    sizes = [plan_for(1_000_000, 8, 1.0, bits).residue_bytes for bits in (8, 12, 16, 24, 32)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.65 * sizes[2]


@settings(deadline=None)  # a busy machine is no counterexample
@given(st.integers(4, 24), st.integers(0, 2**32 - 1))
def test_an_update_takes_a_finer_grid_than_weights_at_equal_bits(bits: int, seed: int) -> None:
    """Weights up to 1 need a clip of 1, updates of a hundredth of them a hundredth of it."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(-1, 1, 2000)
    update = 0.01 * rng.uniform(-1, 1, 2000)
    ratio = grid_error(weights, clip=1.0, bits=bits) / grid_error(update, clip=0.01, bits=bits)
    assert 50 < ratio < 200


def test_the_grids_error_is_the_uniform_ones() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    assert grid_error(values, clip=1.0, bits=8) == pytest.approx(1 / 127 / 12**0.5, rel=0.01)
    assert grid_error(np.array([2.0]), clip=1.0, bits=8) == 1.0  # clipped


# --- layers ----------------------------------------------------------------------------------------------------------


def test_layers_take_turns_and_only_they_travel() -> None:
    turns = compressed(layers="hidden1/hidden2,logit")
    played = play(make_algorithm("fedavg"), rounds=3, encrypted=True, compression=turns)
    assert [record.values for record, _ in played] == [HIDDEN1, HIDDEN2 + LOGIT, HIDDEN1]
    models = [first_vector(), *(state.model for _, state in played)]
    first_turn = layer_mask(SHAPE, ["hidden1"])
    for number, (before, after) in enumerate(pairwise(models), start=1):
        moved = before != after
        turn = first_turn if number % 2 else ~first_turn
        assert moved[turn].mean() > 0.5
        assert not moved[~turn].any()


def test_a_layer_that_does_not_travel_is_not_trained() -> None:
    module = make_schedule().first_model(FEATURES)
    with frozen(module, SHAPE, layer_mask(SHAPE, ["logit"])):
        assert [name for name, p in module.named_parameters() if p.requires_grad] == ["logit.weight", "logit.bias"]
    assert all(p.requires_grad for p in module.parameters())


def test_private_training_of_some_layers_clips_and_noises_those_alone() -> None:
    private = PrivateSteps(0.5, 1.0, 2, 1.0, 50.0)
    ((record, state),) = play(
        make_algorithm("fedavg"), rounds=1, encrypted=True, private=private, compression=compressed(layers="logit")
    )
    moved = state.model != first_vector()
    assert record.values == LOGIT
    # Noise from the operating system may leave a coordinate where it was: the sum of four banks rounds to zero.
    assert 2 * moved[layer_mask(SHAPE, ["logit"])].sum() > LOGIT
    assert not moved[~layer_mask(SHAPE, ["logit"])].any()


def test_personal_heads_and_chosen_layers_go_together() -> None:
    heads = make_algorithm("heads")  # hidden2 and logit stay
    ((record, state),) = play(heads, rounds=1, encrypted=True, compression=compressed(layers="hidden1,hidden2"))
    assert record.values == HIDDEN1
    assert len(state.memory) == 4
    with pytest.raises(CompressionError, match="logit stay at their banks"):
        play(heads, rounds=1, compression=compressed(layers="logit"))


def test_the_mean_of_banks_does_not_depend_on_what_was_left_out() -> None:
    """All layers in one group is no compression."""
    one, other = (
        play(make_algorithm("fedavg"), rounds=2, compression=chosen)[-1][1].model
        for chosen in (None, compressed(layers="hidden1,hidden2,logit"))
    )
    assert one.tolist() == other.tolist()
    assert flatten(make_schedule().first_model(FEATURES)).tolist() != one.tolist()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": "8"}, "FROM:BITS pairs"),
        ({"bits": "1:eight"}, "FROM:BITS pairs"),
        ({"bits": "2:8"}, "begin at 1"),
        ({"bits": "1:8,5:12,5:16"}, "ascending"),
        ({"bits": "1:1"}, "from 2 to 40 .*, got 1"),
        ({"bits": "1:41"}, "from 2 to 40 .*, got 41"),
        ({"layers": "hidden1/hidden3"}, "no layers hidden3: the model has hidden1, hidden2, logit"),
        ({"layers": "hidden1/"}, "no layers"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        compressed(**settings)


def test_layers_by_turns_and_banks_of_different_rounds_do_not_go_together() -> None:
    with pytest.raises(CompressionError, match="give one group"):
        play(make_algorithm("fedbuff"), rounds=1, compression=compressed(layers="hidden1/logit"))
    ((record, _),) = play(make_algorithm("fedbuff"), rounds=1, compression=compressed(layers="logit"))
    assert record.values == LOGIT
