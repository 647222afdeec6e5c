"""The log and the budget: nothing above it is sent, nothing in it can be rewritten, crashes count in full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.assist.account import OVERHEAD_TOKENS, Account, Prices, SpendingLimits, Usage, read_log
from fl.assist.errors import LogError, PriceMissing, SpendLimitReached

BODY = b'{"secret": "4111111111111111"}'
BOUND = len(BODY) + OVERHEAD_TOKENS + 100


def account(path: Path, tokens: int = 10**6, **money: object) -> Account:
    return Account(path, SpendingLimits(tokens, **money))  # type: ignore[arg-type]


def test_the_log_holds_hashes_and_sizes_and_never_contents(tmp_path: Path) -> None:
    log = account(tmp_path / "log")
    log.settle(log.send(BODY, 100, model="m"), Usage(10, 5))
    raw = (tmp_path / "log").read_bytes()
    assert b"4111" not in raw and b"secret" not in raw
    sent, settled = read_log(tmp_path / "log")
    assert sent["bytes"] == len(BODY) and sent["model"] == "m" and len(sent["sha256"]) == 64
    assert settled["input_tokens"] == 10


def test_an_attempt_counts_at_its_bound_until_it_is_settled(tmp_path: Path) -> None:
    log = account(tmp_path / "log")
    attempt = log.send(BODY, 100)
    assert log.spent.tokens == BOUND and log.spent.pending == 1
    log.settle(attempt, Usage(10, 5))
    assert log.spent.tokens == 15 and log.spent.pending == 0


def test_the_budget_stops_before_it_is_exceeded(tmp_path: Path) -> None:
    log = account(tmp_path / "log", BOUND - 1)
    with pytest.raises(SpendLimitReached, match="Nothing was sent"):
        log.send(BODY, 100)
    assert not (tmp_path / "log").exists()
    account(tmp_path / "log", BOUND).send(BODY, 100)


def test_a_budget_in_money_needs_prices_and_stops_too(tmp_path: Path) -> None:
    with pytest.raises(PriceMissing):
        SpendingLimits(10, cost=1.0)
    prices = Prices(input=2.0, output=10.0)
    bound = ((BOUND - 100) * 2.0 + 100 * 10.0) / 1e6
    with pytest.raises(SpendLimitReached):
        account(tmp_path / "log", cost=bound * 0.999, prices=prices).send(BODY, 100)
    account(tmp_path / "log", cost=bound * 1.001, prices=prices).send(BODY, 100)


@given(st.lists(st.tuples(st.integers(0, 50), st.one_of(st.none(), st.integers(0, 40))), max_size=12))
def test_whatever_is_sent_the_budget_is_never_exceeded(steps: list[tuple[int, int | None]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = account(Path(folder) / "log", 500)
        for size, used in steps:
            try:
                attempt = log.send(b"x" * size, 20)
            except SpendLimitReached:
                continue
            if used is not None:
                log.settle(attempt, Usage(min(used, size), min(used, 20)))
        assert log.spent.tokens <= 500


def test_after_a_crash_an_open_attempt_still_counts(tmp_path: Path) -> None:
    account(tmp_path / "log").send(BODY, 100)
    again = account(tmp_path / "log", BOUND + 10)
    assert again.spent.pending == 1
    with pytest.raises(SpendLimitReached):
        again.send(BODY, 100)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_left_behind_and_the_log_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log"
    first = account(path)
    first.settle(first.send(BODY, 100), Usage(10, 5))
    path.write_bytes(path.read_bytes()[:-cut])  # the settlement did not make it
    again = account(path)
    assert again.spent.tokens == (15 if cut == 1 else BOUND)
    again.settle(again.send(BODY, 100), Usage(1, 1))
    assert account(path).spent.tokens == again.spent.tokens


def test_a_changed_line_and_a_missing_one_are_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = account(path)
    for _ in range(3):
        log.settle(log.send(BODY, 100), Usage(10, 5))
    lines = path.read_bytes().split(b"\n")[:-1]
    for forged in (
        [*lines[:1], lines[1].replace(b'"input_tokens":10', b'"input_tokens":01'), *lines[2:]],
        [*lines[:1], lines[1].replace(b'"input_tokens":10', b'"input_tokens":11'), *lines[2:]],
        [*lines[:2], *lines[3:]],
        lines[1:],
        [lines[0], b"[]", *lines[1:]],
    ):
        path.write_bytes(b"\n".join(forged) + b"\n")
        with pytest.raises(LogError):
            read_log(path)


def test_two_processes_cannot_write_one_log(tmp_path: Path) -> None:
    one, other = account(tmp_path / "log"), account(tmp_path / "log")
    one.send(BODY, 100)
    with pytest.raises(LogError, match="another process"):
        other.send(BODY, 100)


def test_every_line_is_json_and_follows_the_one_before(tmp_path: Path) -> None:
    log = account(tmp_path / "log")
    log.settle(log.send(BODY, 100), Usage(10, 5))
    previous = [json.loads(line)["previous"] for line in (tmp_path / "log").read_bytes().splitlines()]
    assert previous[0] == "0" * 64 and previous[1] != previous[0]
