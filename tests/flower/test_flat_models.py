"""A model as named arrays and as one vector: exact round trips, hashes that see every difference."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from fl.flower.errors import ModelMismatch
from fl.flower.models import FlatModel

shapes = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)
floats = st.sampled_from([np.float16, np.float32, np.float64])
arrays = shapes.flatmap(lambda shape: floats.flatmap(lambda kind: hnp.arrays(kind, shape, elements=st.integers(-8, 8))))


@given(st.lists(arrays, min_size=1, max_size=4))
def test_a_model_survives_records_and_files(values: list[np.ndarray]) -> None:
    named = {f"layer.{number}": value for number, value in enumerate(values)} | {"counter": np.array([3], np.int64)}
    model = FlatModel.from_record(ArrayRecord({name: Array(value) for name, value in named.items()}))
    for again in (FlatModel.from_record(model.record()), FlatModel.from_bytes(model.to_bytes(2, 7))[0]):
        assert list(again.arrays) == list(named)
        assert all(np.array_equal(again.arrays[name], value) for name, value in named.items())
        assert again.digest == model.digest
    assert FlatModel.from_bytes(model.to_bytes(2, 7))[1:] == (2, 7)


def test_the_vector_leaves_counters_out_and_they_stay() -> None:
    model = FlatModel({"w": np.ones((2, 2), np.float32), "n": np.array([5], np.int64), "b": np.zeros(1, np.float32)})
    assert model.length == 5 and model.vector.dtype == np.float32
    moved = model.moved_by(np.arange(5, dtype=np.float64))
    assert moved.arrays["w"].tolist() == [[1, 2], [3, 4]] and moved.arrays["b"].tolist() == [4]
    assert moved.arrays["n"].tolist() == [5]


def test_moving_rounds_once_from_float64() -> None:
    start, average = np.float32(1e8), 3.0000001
    moved = FlatModel({"w": np.array([start])}).moved_by(np.array([average]))
    assert moved.arrays["w"][0] == np.float32(np.float64(start) + average)


@pytest.mark.parametrize(
    ("dtype", "start", "average"),
    [(np.float16, 1.0, 1e5), (np.float16, 60000.0, 10000.0), (np.float32, 3e38, 3e38), (np.float64, 1e308, 1e308)],
)
def test_a_move_beyond_the_dtype_is_refused_by_name_and_the_model_stays(
    dtype: type[np.floating], start: float, average: float
) -> None:
    model = FlatModel({"first": np.zeros(1, np.float32), "narrow": np.full(2, start, dtype)})
    digest = FlatModel(model.arrays).digest
    with pytest.raises(ModelMismatch, match="1 of 2 values of narrow"):
        model.moved_by(np.array([1.0, 0.0, average]))
    assert FlatModel(model.arrays).digest == digest


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)},
        {"w": np.zeros((3, 2), np.float64), "b": np.zeros(2, np.float32)},
        {"v": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)},
        {"b": np.zeros(2, np.float32), "w": np.zeros((3, 2), np.float32)},
        {"w": np.full((3, 2), 1e-45, np.float32), "b": np.zeros(2, np.float32)},
        {"w": np.zeros((3, 2), np.float32), "b": np.array([0, -0.0], np.float32)},
    ],
)
def test_the_hash_sees_every_difference(other: dict[str, np.ndarray]) -> None:
    model = FlatModel({"w": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)})
    assert model.digest != FlatModel(other).digest


def test_training_that_changes_the_architecture_is_refused_by_name() -> None:
    model = FlatModel({"w": np.zeros(3, np.float32)})
    for changed in ({"w": np.zeros(4, np.float32)}, {"w": np.zeros(3, np.float64)}, {"v": np.zeros(3, np.float32)}):
        with pytest.raises(ModelMismatch, match="architecture"):
            model.update_to(FlatModel(changed))


@pytest.mark.parametrize("values", [np.zeros(3, np.complex64), np.array(["a"])])
def test_arrays_that_cannot_be_averaged_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ModelMismatch, match="expected float16"):
        FlatModel.from_record(ArrayRecord({"w": Array(values)}))
    with pytest.raises(ModelMismatch, match="expected at least one floating-point array"):
        FlatModel.from_record(ArrayRecord({"n": Array(np.zeros(3, np.int64))}))


def npy(header: bytes, values: bytes = bytes(12), version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + values


def described(shape: str, descr: str = "'<f4'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()


MADE_UP = {
    "nothing": b"",
    "no header": b"\x93NUMPY\x01\x00",
    "a pickle": b"\x80\x04K\x01.",
    "a zip": b"PK\x03\x04" + bytes(40),
    "more values than bytes": npy(described("(4,)")),
    "fewer values than bytes": npy(described("(2,)")),
    "terabytes": npy(described("(1000000000000,)")),
    "a shape below zero": npy(described("(-3, -1)")),
    "objects": npy(described("(3,)", "'|O'")),
    "no Python": npy(b"{'descr': (((\n"),
    "an unhashable key": npy(b"{[]: 1}\n"),
    "a deep header": npy(b"(" * 9_000 + b"\n"),
    "another version": npy(described("(3,)"), version=b"\x09\x00"),
    "no values in too many rows": npy(described("(0, 1180591620717411303424)"), b""),
    "no values in many rows": npy(described("(0, 4611686018427387904)"), b""),
    "too many dimensions": npy(described(f"({'1, ' * 65})"), bytes(4)),
    "a truth value for a side": npy(described("(True,)"), bytes(4)),
    "an array in each value": npy(described("(1,)", "('<f4', (3,))")),
}


@pytest.mark.parametrize("data", MADE_UP.values(), ids=MADE_UP)
def test_made_up_bytes_are_no_model_and_take_no_memory(data: bytes) -> None:
    record = ArrayRecord(array_dict={"w": Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=data)})
    with pytest.raises(ModelMismatch, match=r"^w: expected"):
        FlatModel.from_record(record)


def test_the_bytes_that_the_test_before_damages_are_a_model() -> None:
    good = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=npy(described("(3,)")))
    assert FlatModel.from_record(ArrayRecord(array_dict={"w": good})).length == 3
    other = Array(dtype="float32", shape=(3,), stype="secagg.wire", data=npy(described("(3,)")))
    with pytest.raises(ModelMismatch, match="w: expected"):
        FlatModel.from_record(ArrayRecord(array_dict={"w": other}))
