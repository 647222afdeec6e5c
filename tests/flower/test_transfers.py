"""Parts of long byte strings at a party: what they may hold together, and when they are dropped. Time is injected."""

from __future__ import annotations

import numpy as np
import pytest

from fl.flower import transport
from fl.flower.errors import TransferError
from fl.flower.transfers import EXPIRES_S, MAX_OPEN, Transfers

PART = 10
LIMIT = 100


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(transport, "PART_BYTES", PART)
    return Clock()


@pytest.fixture
def transfers(clock: Clock) -> Transfers:
    return Transfers(LIMIT, clock)


def part(index: int, total: int, fill: int = 0) -> bytes:
    return bytes([index + fill]) * min(PART, total - index * PART)


def put(transfers: Transfers, name: str, total: int, *indices: int, fill: int = 0) -> None:
    for index in indices:
        transfers.put(name, index, total, part(index, total, fill))


def test_a_promise_of_many_bytes_holds_only_those_that_came(transfers: Transfers) -> None:
    for number in range(MAX_OPEN):
        put(transfers, f"name {number}", LIMIT, 0)
    assert transfers.held == MAX_OPEN * PART
    with pytest.raises(TransferError, match="unfinished byte strings"):
        put(transfers, "one more", LIMIT, 0)


def test_all_byte_strings_together_hold_at_most_one_largest_message(transfers: Transfers) -> None:
    put(transfers, "a", LIMIT, *range(6))
    put(transfers, "b", LIMIT, *range(4))
    with pytest.raises(TransferError, match="at most 100 are allowed"):
        put(transfers, "b", LIMIT, 4)
    assert transfers.held == LIMIT
    put(transfers, "a", LIMIT, 2)  # a part that is here needs no room
    with pytest.raises(TransferError, match="length"):
        put(transfers, "c", LIMIT + 1, 0)


def test_a_byte_string_for_which_nothing_new_comes_is_dropped_in_time(transfers: Transfers, clock: Clock) -> None:
    put(transfers, "stuck", LIMIT, 0, 1)
    clock.now = EXPIRES_S / 2
    put(transfers, "moving", LIMIT, 0)
    put(transfers, "stuck", LIMIT, 1)  # the same part again is nothing new
    clock.now = EXPIRES_S + 1
    put(transfers, "moving", LIMIT, 1)
    assert transfers.held == 2 * PART and len(transfers) == 1
    with pytest.raises(TransferError, match="bytes before the call"):
        transfers.take("stuck", LIMIT)
    clock.now += EXPIRES_S + 1
    transfers.expire()
    assert transfers.held == 0


def test_a_byte_string_is_taken_once_and_only_whole(transfers: Transfers) -> None:
    put(transfers, "sum", 35, 0, 2, 3)
    with pytest.raises(TransferError, match="1 parts are missing"):
        transfers.take("sum", 35)
    put(transfers, "sum", 35, 1)
    with pytest.raises(TransferError, match="expected all 34 bytes"):
        transfers.take("sum", 34)
    assert bytes(transfers.take("sum", 35)) == b"".join(part(index, 35) for index in range(4))
    with pytest.raises(TransferError, match="bytes before the call"):
        transfers.take("sum", 35)


def test_part_0_opens_a_byte_string_and_another_part_0_begins_it_anew(transfers: Transfers) -> None:
    with pytest.raises(TransferError, match="part 0 first"):
        put(transfers, "sum", 35, 1)
    put(transfers, "sum", 35, 0, 1)
    put(transfers, "sum", 35, 0)  # the same again: a repeated message loses nothing
    assert transfers.held == 2 * PART
    put(transfers, "sum", 35, 0, fill=7)
    assert transfers.held == PART
    put(transfers, "sum", 35, 1, 2, 3, fill=7)
    assert bytes(transfers.take("sum", 35)) == b"".join(part(index, 35, 7) for index in range(4))
    put(transfers, "sum", 35, 0)
    with pytest.raises(TransferError, match="expected the length it began with"):
        put(transfers, "sum", 45, 1)
    put(transfers, "sum", 45, 0)
    assert transfers.held == PART


@pytest.mark.parametrize(("index", "size"), [(0, 9), (0, 11), (0, 0), (1, 10), (4, 5), (2**31, 10)])
def test_a_part_that_does_not_fit_changes_nothing(transfers: Transfers, index: int, size: int) -> None:
    put(transfers, "sum", 35, 0)
    with pytest.raises(TransferError):
        transfers.put("sum", index, 40 if index == 1 else 35, bytes(size))
    with pytest.raises(TransferError):
        transfers.put("other", index, 35, bytes(size) if size != 10 else bytes(9))
    assert transfers.held == PART and len(transfers) == 1


@pytest.mark.parametrize("seed", range(5))
def test_parts_in_any_order_hold_what_came_and_give_the_bytes(transfers: Transfers, seed: int) -> None:
    order = [0, *(int(index) + 1 for index in np.random.default_rng(seed).permutation(9))]
    for count, index in enumerate(order, start=1):
        put(transfers, "sum", LIMIT, index)
        assert transfers.held == count * PART
    assert bytes(transfers.take("sum", LIMIT)) == b"".join(part(index, LIMIT) for index in range(10))
