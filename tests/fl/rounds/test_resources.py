"""Limits of a bank choose batch, chunk and bits, or refuse by name."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small_banks import CPU, make_schedule, rows

import secagg
from demos.train import train
from fl.errors import ResourceError, RunFolderError
from fl.learning.model import flatten
from fl.learning.training import LocalTraining, PrivateSteps, train_private, train_seeded
from fl.rounds.limits import (
    BATCHES,
    BankLimits,
    MachineSpeed,
    ResourceChoice,
    ResourceSettings,
    RoundWork,
    choose,
    limits_of,
    measure_machine,
    memory_bytes,
)
from fl.secure.cost import chunk_sizes, plan_for, sealing_cost
from fl.secure.session import InProcessRounds, Joined
from secagg.session import Parties, Session, Terms

BANKS = ("bank 0", "bank 1", "bank 2")
MACHINE = MachineSpeed({batch: 100.0 * batch for batch in BATCHES}, seconds_per_block=0.01, degree=4096)


def work(length: int = 100_000, *, bits: int = 16, private: bool = False, rows_each: int = 10_000) -> RoundWork:
    return RoundWork(dict.fromkeys(BANKS, rows_each), 20, 96, length, length, 3, 1.0, bits, 1, private)


def limits(**of_bank_2: float) -> dict[str, BankLimits]:
    return {"bank 0": BankLimits(), "bank 1": BankLimits(), "bank 2": BankLimits(**of_bank_2)}  # type: ignore[arg-type]


# --- choosing --------------------------------------------------------------------------------------------------------


def test_without_limits_nothing_changes() -> None:
    found = choose(limits(), work(), MACHINE)
    assert (found.value_bits, found.chunk) == (16, None)
    assert {share.batch for share in found.banks.values()} == {1024}


def test_one_bank_short_of_traffic_lowers_the_bits_of_all() -> None:
    full = sealing_cost(100_000, clients=3, clip=1.0, value_bits=16).bytes_up
    found = choose(limits(bytes_per_round=int(0.8 * full)), work(), MACHINE)
    assert 8 <= found.value_bits < 16
    assert all(share.bytes_per_round <= 0.8 * full for share in found.banks.values())
    finer = sealing_cost(100_000, clients=3, clip=1.0, value_bits=found.value_bits + 1).bytes_up
    assert finer > 0.8 * full  # not one bit fewer than needed


def test_one_bank_short_of_memory_seals_in_chunks_and_trains_in_small_batches() -> None:
    roomy = choose(limits(), work(private=True), MACHINE)
    tight = choose(limits(memory_mb=17.0), work(private=True), MACHINE)
    assert roomy.banks["bank 2"].memory_mb > 100
    assert tight.banks["bank 2"].memory_mb <= 17.0
    assert tight.banks["bank 2"].batch < 1024 == tight.banks["bank 0"].batch  # its own affair
    small = choose(limits(memory_mb=6.0), work(length=100_000), MACHINE)
    assert small.chunk is not None and small.value_bits == 16


def test_a_slow_bank_pays_with_bits_only_when_batches_do_not_help() -> None:
    found = choose(limits(seconds=3.0, speed=0.5), work(), MACHINE)
    assert found.banks["bank 2"].seconds <= 3.0
    assert found.banks["bank 2"].seconds == pytest.approx(2 * found.banks["bank 0"].seconds)


@settings(deadline=None)  # a busy machine is no counterexample
@given(st.floats(1.0, 200.0), st.floats(0.2, 20.0), st.integers(20_000, 2_000_000), st.sampled_from([0.1, 1.0, 3.0]))
def test_whatever_is_chosen_is_within_every_limit(memory: float, seconds: float, sent: int, speed: float) -> None:
    asked = limits(memory_mb=memory, seconds=seconds, bytes_per_round=sent, speed=speed)
    try:
        found = choose(asked, work(), MACHINE)
    except ResourceError as fault:
        assert "bank 2" in str(fault)
        return
    share = found.banks["bank 2"]
    assert share.memory_mb <= memory and share.seconds <= seconds and share.bytes_per_round <= sent
    assert 8 <= found.value_bits <= 16
    assert ResourceChoice.from_json(json.loads(json.dumps(found.as_json()))) == found


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ({"memory_mb": 0.5}, "bank 2: memory_mb 0.5 is too little: a round takes"),
        ({"seconds": 0.001}, "bank 2: seconds 0.001 is too little"),
        ({"bytes_per_round": 1000}, "bank 2: bytes_per_round 1000 is too little"),
    ],
)
def test_what_cannot_fit_is_refused_by_name_with_the_least_that_would_do(limit: dict, message: str) -> None:
    with pytest.raises(ResourceError, match=message) as refusal:
        choose(limits(**limit), work(), MACHINE)
    least = float(str(refusal.value).split("takes ")[1].split(" ")[0])
    (name,) = limit
    enough = math.ceil(least) if name == "bytes_per_round" else least * 1.001
    choose(limits(**{name: enough}), work(), MACHINE)


def test_limits_that_only_fail_together_are_said_to() -> None:
    """Little memory asks for small batches, which are slow; little time asks for large ones."""
    with pytest.raises(ResourceError, match="bank 2: each limit can be met"):
        choose(limits(memory_mb=17.0, seconds=0.45), work(private=True, rows_each=40_000), MACHINE)


# --- estimates and what they are of ----------------------------------------------------------------------------------


def test_the_traffic_of_a_round_is_what_was_estimated_to_the_byte() -> None:
    updates = tuple(np.random.default_rng(i).uniform(-1, 1, 9000).astype(np.float32) for i in range(3))
    for chunk in (None, 5000, 2500):
        rounds = InProcessRounds(BANKS, clip=1.0, quorum=3, chunk=chunk)
        sent = rounds.average(Joined(BANKS, updates, (1, 1, 1), "00" * 32), 12).bytes_up
        assert sent == 3 * sealing_cost(9000, clients=3, clip=1.0, value_bits=12, chunk=chunk).bytes_up


@pytest.mark.parametrize("length", [3000, 200_000])
def test_sealing_takes_no_more_memory_than_estimated_and_not_much_less(length: int) -> None:
    plan = plan_for(length, 3, 1.0, 16)
    update = np.random.default_rng(0).normal(scale=0.1, size=length).astype(np.float32)
    # What is made once per process is not counted; what is made once per offer, and shared in one process, is.
    for counted in (False, True):
        roles = Session(Parties.generate(BANKS)).roles(Terms(plan, threads=1))
        key_holder, clients = roles.key_holder, roles.clients
        offer = roles.sent(key_holder.open(1, bytes(32)))
        for client in clients:
            key_holder.receive_join(client.join(offer, bytes(32)))
        roster = key_holder.close_roster()
        if not counted:
            clients[0].contribute(roster, update)
    tracemalloc.start()
    wire = secagg.encode(clients[1].contribute(roster, 0.5 * update), plan)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(wire) > plan.residue_bytes
    estimate = sealing_cost(length, clients=3, clip=1.0, value_bits=16).payload_bytes(8)
    assert peak <= estimate <= 3 * peak


@settings(deadline=None)  # a busy machine is no counterexample
@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_chunks_are_few_and_nearly_equal(length: int, chunk: int) -> None:
    sizes = chunk_sizes(length, chunk)
    assert sum(sizes) == length
    assert max(sizes) <= chunk and max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-length // chunk)


def test_chunks_change_nothing_about_the_mean() -> None:
    updates = tuple(np.random.default_rng(i).uniform(-1, 1, 5000).astype(np.float32) for i in range(3))
    joined = Joined(BANKS, updates, (1, 1, 1), "00" * 32)
    whole, parts = (
        InProcessRounds(BANKS, clip=0.5, quorum=3, chunk=chunk).average(joined, 16) for chunk in (None, 1700)
    )
    assert parts.average.tolist() == whole.average.tolist()
    assert parts.clipped == whole.clipped
    assert parts.error_bound == whole.error_bound


def test_private_training_asks_for_memory_by_the_row() -> None:
    cost = sealing_cost(3000, clients=3, clip=1.0, value_bits=16)
    small, large = (memory_bytes(work(3000, private=True), cost, batch) for batch in (256, 1024))
    assert (large - small) / (1024 - 256) == pytest.approx(8 * 3000, rel=0.2)  # measured: 22 to 30 kB for 3,713


def test_a_small_batch_changes_the_result_by_rounding_alone() -> None:
    held, local = rows(500, 1), LocalTraining("sgd", 0.1, momentum=0.9, batch_size=128)
    models = []
    for at_once in (1024, 50, 7):
        model = make_schedule().first_model(3)
        train_seeded(model, held, local, seed=3, device=CPU, at_once=at_once)
        models.append(flatten(model))
    assert models[1] == pytest.approx(models[0], abs=2e-6)
    assert models[2] == pytest.approx(models[0], abs=2e-6)


def test_a_small_private_batch_changes_the_result_by_rounding_alone() -> None:
    import random

    held, private = rows(300, 2), PrivateSteps(0.5, 1.0, 3, 1.0, 100.0)
    models = []
    for at_once in (1024, 32):
        model = make_schedule().first_model(3)
        entropy = random.Random(5).randbytes
        train_private(model, held, LocalTraining("sgd", 0.5), private, device=CPU, at_once=at_once, entropy=entropy)
        models.append(flatten(model))
    assert models[1] == pytest.approx(models[0], abs=1e-5)


def test_a_machine_is_measured_on_random_numbers() -> None:
    machine = measure_machine(make_schedule().first_model(3), LocalTraining(), None, 3)
    assert set(machine.rows_per_second) == set(BATCHES)
    assert min(machine.rows_per_second.values()) > 0 < machine.seconds_per_block < 5


# --- limits files ----------------------------------------------------------------------------------------------------


def test_a_limits_file_speaks_of_all_banks_and_of_single_ones(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text('[all]\nseconds = 30\n["bank 2"]\nmemory_mb = 8\nspeed = 0.25\n')
    found = limits_of(ResourceSettings(str(path), memory_mb=64.0), BANKS)
    assert found["bank 0"] == BankLimits(64.0, 30)
    assert found["bank 2"] == BankLimits(8, 30, None, 0.25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[bank 2]", "not valid TOML"),
        ('["bank 9"]\nseconds = 1', "got 'bank 9'"),
        ("[all]\nmemory = 1", "memory_mb"),
        ("[all]\nseconds = 0", "seconds: expected a number above 0"),
        ('[all]\nseconds = "5"', "seconds: expected a number above 0"),
        ("seconds = 5", "got 'seconds'"),
    ],
)
def test_a_limits_file_that_says_nothing_sensible_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "limits.toml"
    path.write_text(content)
    with pytest.raises(ResourceError, match=message):
        limits_of(ResourceSettings(str(path)), BANKS)


# --- a run with one weak bank ----------------------------------------------------------------------------------------

SMALL = ["--customers", "400", "--clients", "3", "--fraud-share", "0.03", "--seed", "5", "--no-dp", "--rounds", "1"]


def test_a_run_with_one_weak_bank_works_and_says_what_it_chose(tmp_path: Path) -> None:
    path, run = tmp_path / "limits.toml", tmp_path / "run"
    path.write_text('["bank-2"]\nmemory_mb = 1.5\nbytes_per_round = 65_000\nspeed = 0.25\nseconds = 600\n')
    options = [*SMALL, "--local-epochs", "1", "--no-baselines", "--limits", str(path), "--run-dir", str(run)]
    done = CliRunner().invoke(train, [*options, "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    chosen = result["resources"]
    assert chosen == json.loads((run / "resources.json").read_text())
    assert chosen["value_bits"] == 40  # one ciphertext is the least that one can send, and it holds them
    assert chosen["banks"]["bank-2"]["batch"] < chosen["banks"]["bank-0"]["batch"] == 1024
    line = json.loads((run / "metrics.jsonl").read_text())
    assert line["value_bits"] == chosen["value_bits"]
    assert line["bytes_up"] == 3 * chosen["banks"]["bank-2"]["bytes_per_round"] <= 3 * 65_000
    assert line["over_limits"] == []
    again = CliRunner().invoke(train, ["--resume", str(run), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["metrics"] == result["metrics"]
    (run / "resources.json").unlink()
    with pytest.raises(RunFolderError, match="no resources"):
        CliRunner().invoke(train, ["--resume", str(run)], catch_exceptions=False)


def test_a_run_that_a_bank_cannot_join_is_refused_before_it_begins(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ResourceError, match="bank-0: bytes_per_round 1000 is too little"):
        CliRunner().invoke(
            train, [*SMALL, "--option", "bank_bytes=1000", "--run-dir", str(run), "--json"], catch_exceptions=False
        )
    assert not run.exists()
