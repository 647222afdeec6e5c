"""Floors: work counted by hand for a small plan, and a command that sets it beside what a round takes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import secagg
from benchmarks.__main__ import cli
from benchmarks.floor import CLOSES, Speeds, Work, works


def test_a_floor_is_the_slower_of_memory_and_arithmetic_plus_keystream_and_hash() -> None:
    speeds = Speeds(copied=100.0, multiplied=10.0, keystream=50.0, hashed=20.0)
    assert Work(200.0).seconds(speeds) == 2.0
    assert Work(200.0, products=30.0).seconds(speeds) == 3.0
    assert Work(200.0, products=30.0, keystream=100.0, hashed=10.0).seconds(speeds) == 5.5


def test_the_work_of_a_round_is_that_counted_by_hand() -> None:
    plan = secagg.plan_round(length=1_000_000, max_clients=8, value_bits=16)
    degree, primes, blocks = plan.params.degree, len(plan.params.primes), plan.blocks
    needed = works(plan, 8)
    transforms = 3 * primes * blocks
    assert needed["client", "encrypt"].products == transforms * degree * 7 + 2 * primes * blocks * degree  # 2^14 values
    assert needed["client", "mask"].keystream == 8 * primes * blocks * degree * 4
    assert needed["server", "check"].hashed == plan.residue_bytes
    assert set(needed) == set(CLOSES)


def test_the_command_shows_every_stage_beside_its_floor() -> None:
    done = CliRunner().invoke(cli, ["floor", "--length", "60000", "--clients", "3", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [(each["phase"], each["stage"]) for each in found["stages"]] == list(CLOSES)
    for each in found["stages"]:
        assert each["floor_seconds"] > 0 and each["seconds"] > 0
    assert all(speed > 1e6 for speed in found["speeds"].values())
    shown = CliRunner().invoke(cli, ["floor", "--length", "20000", "--clients", "3"], catch_exceptions=False)
    assert "client: encrypt" in shown.stdout and "GB/s" in shown.stdout


@pytest.mark.parametrize("options", [["--clients", "1"], ["--length", "0"]])
def test_impossible_rounds_are_wrong_usage(options: list[str]) -> None:
    assert CliRunner().invoke(cli, ["floor", *options]).exit_code == 2
