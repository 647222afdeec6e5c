"""The cases themselves, small: each computes the mean, tells its time by phase, and cannot be wrong unnoticed."""

from __future__ import annotations

import importlib
import io
import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import worker
from benchmarks.cases import CaseResult, compared
from benchmarks.cases.encrypted import EncryptedAverage
from benchmarks.cases.registry import Entry, cases, default_case, engines
from benchmarks.errors import BenchmarkSettingsError, CaseNotRunnable, WrongResult
from benchmarks.machine import usable_cores
from benchmarks.meter import PHASES, STAGES, Meter
from benchmarks.presets import preset
from benchmarks.workload import CHUNK, CLIP, Vectors, Workload
from secagg.errors import SumRefused

SMALL = Workload(length=3_000, clients=4)
KNOWN = cases()
AVERAGING = [name for name, entry in KNOWN.items() if entry.family not in ("round", "device")]


def repeat(entry: Entry, workload: Workload) -> tuple[CaseResult, Meter]:
    case, meter = entry.make(), Meter()
    case.prepare(Vectors(workload))
    outcome = case.repeat(meter)
    outcome.check()
    return outcome, meter


@pytest.mark.parametrize("name", AVERAGING)
def test_every_case_computes_the_mean_within_what_it_promises(name: str) -> None:
    outcome, meter = repeat(KNOWN[name], SMALL)
    assert outcome.largest_error <= outcome.allowed_error < 1e-4
    assert meter.phases["client"].calls == SMALL.clients
    assert meter.phases["server"].calls == SMALL.clients
    assert meter.wire_bytes["contribution"] >= 4 * SMALL.length or "secagg" in name


@pytest.mark.parametrize("name", ["tenseal-best-public", "plain-numpy"])
def test_a_slow_case_may_let_two_clients_encrypt_for_four(name: str) -> None:
    _, meter = repeat(KNOWN[name], replace(SMALL, encrypting=2))
    assert meter.phases["client"].calls == 2
    assert meter.phases["server"].calls == 4


def test_flower_runs_its_own_client_functions_and_leaves_them_as_they_were() -> None:
    pytest.importorskip("flwr")
    module = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
    before = module.pseudo_rand_gen
    _, meter = repeat(KNOWN["flower-secagg-plus"], SMALL)
    assert module.pseudo_rand_gen is before
    assert {"pack", "mask", "serialize"} <= meter.phases["client"].stages.keys()


@pytest.mark.parametrize("stacked", [1, 2, 4])
def test_the_device_sum_case_is_right_and_counts_transfers_apart(stacked: int) -> None:
    _, meter = repeat(KNOWN[f"ciphertext-sum-cpu-x{stacked}"], SMALL)
    stages = meter.phases["server"].stages
    assert stages["sum"].bytes == stages["transfer"].bytes > 0


def test_a_wrong_device_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fl.secure.device_sum import DeviceAccumulator

    right = DeviceAccumulator.residues
    monkeypatch.setattr(DeviceAccumulator, "residues", lambda self: right(self) ^ np.uint32(1))
    with pytest.raises(WrongResult, match="device"):
        repeat(KNOWN["ciphertext-sum-cpu-x1"], SMALL)


@pytest.mark.parametrize("way", ["masked", "unmasked"])
def test_clients_and_key_holder_on_a_device_are_measured_like_any_other(way: str) -> None:
    case, meter = KNOWN[f"secagg-on-cpu-{way}"].make(), Meter()
    parameters = case.prepare(Vectors(SMALL))
    assert (parameters["device"], parameters["masking"]) == ("cpu", way == "masked")
    case.repeat(meter).check()
    client, opening = meter.phases["client"].stages, meter.phases["open"].stages
    assert client["encrypt"].seconds > 0 and "pack" not in client, "the device packs and encrypts in one sequence"
    assert opening["decrypt"].seconds > 0 and opening["unpack"].seconds > 0


def test_a_wrong_sum_from_a_device_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from fl.secure.device_packing import DevicePacker

    right = DevicePacker.coefficients

    def negated(self: DevicePacker, *arguments: Any) -> Any:
        coefficients, clipped = right(self, *arguments)
        return -coefficients, clipped

    monkeypatch.setattr(DevicePacker, "coefficients", negated)
    with pytest.raises(SumRefused):  # the sum of weights is negative
        repeat(KNOWN["secagg-on-cpu-masked"], SMALL)


def test_a_round_that_stays_on_a_device_averages_what_was_trained_there() -> None:
    case, meter = KNOWN["round-mlp-on-cpu"].make(), Meter()
    assert case.prepare(Vectors(Workload(3_137, clients=3)))["roles"] == "cpu"
    case.repeat(meter).check()
    assert meter.phases["train"].seconds > 0
    assert "pack" not in meter.phases["client"].stages


def test_updates_of_a_round_are_the_same_on_a_device_and_in_memory() -> None:
    from benchmarks.cases.rounds import WholeRound

    found = []
    for on_device in (False, True):
        case = WholeRound("mlp", "auto", "cpu", 1, roles_on_device=on_device)
        case.prepare(Vectors(Workload(3_137, clients=3)))
        found.append(np.sort(np.asarray(case._local(Meter()))))
    assert np.array_equal(*found)


def test_what_only_a_gpu_makes_worth_while_is_measured_on_a_processor_only_where_it_is_asked_for() -> None:
    on_roles = {"secagg-on-{}-masked", "secagg-on-{}-unmasked", "round-mlp-on-{}", "round-resnet18-on-{}"}
    for device, asked_for in (("cpu", True), ("cuda", False)):
        known = cases(device)
        assert {known[name.format(device)].asked_for for name in on_roles} == {asked_for}
        assert known[f"ciphertext-sum-{device}-x32"].asked_for and not known[f"ciphertext-sum-{device}-x8"].asked_for
        measured = {name for point in preset("full", device, None).points for name in point.cases}
        assert measured & {name.format(device) for name in on_roles} == (
            set() if asked_for else {name.format(device) for name in on_roles}
        )
        assert not measured & {name for name, entry in known.items() if entry.asked_for}


@pytest.mark.parametrize("way", ["plain", "encrypted"])
def test_a_whole_round_trains_and_averages_what_was_trained(way: str) -> None:
    entry = KNOWN[f"round-mlp-{way}-cpu"]
    outcome, meter = repeat(entry, Workload(3_137, clients=3))
    assert meter.phases["train"].seconds > 0
    assert outcome.largest_error <= outcome.allowed_error


def first_sum_off_by_one(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module.play_round

    def off_by_one(*arguments: Any) -> Any:
        opened = right(*arguments)
        opened.sums[0] += 1
        return opened

    monkeypatch.setattr(module, "play_round", off_by_one)


def test_a_case_whose_integer_sums_are_off_by_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import encrypted

    first_sum_off_by_one(encrypted, monkeypatch)
    case = EncryptedAverage()
    case.prepare(Vectors(SMALL))
    with pytest.raises(WrongResult, match="not exact"):
        case.repeat(Meter())


def test_a_whole_round_whose_integer_sums_are_off_by_one_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import rounds

    first_sum_off_by_one(rounds, monkeypatch)
    with pytest.raises(WrongResult, match="1 integer sums are not exact"):
        repeat(KNOWN["round-mlp-encrypted-cpu"], Workload(3_137, clients=3))


def test_a_round_whose_ciphertexts_are_added_by_torch_is_measured_like_any_other() -> None:
    case = EncryptedAverage(sums_on="cpu")
    assert case.prepare(Vectors(SMALL))["sums_on"] == "cpu"
    meter = Meter()
    case.repeat(meter).check()
    assert meter.phases["server"].stages["sum"].seconds > 0


@pytest.mark.parametrize("error", [2e-6, float("nan")])
def test_an_average_beyond_the_allowed_error_is_wrong(error: float) -> None:
    vectors = Vectors(SMALL)
    average = np.concatenate([values for _, values in vectors.exact_mean()])
    compared(average, vectors, 1e-6).check()
    average[17] += error
    with pytest.raises(WrongResult):
        compared(average, vectors, 1e-6).check()


def test_engines_are_asked_for_and_each_is_measured_masked_and_not() -> None:
    for engine in engines():
        assert {f"secagg-{engine}-masked", f"secagg-{engine}-unmasked"} <= KNOWN.keys()
    assert default_case() in KNOWN


def test_cuda_cases_say_that_they_did_not_run_where_there_is_no_device() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    for name, entry in cases("cuda").items():
        if "cuda" in (entry.options.get("device"), entry.options.get("sums_on")):
            with pytest.raises(CaseNotRunnable, match="no CUDA device"):
                entry.make().prepare(Vectors(replace(SMALL, length=3_137, clients=8)))
            assert "cuda" in name


def test_an_unknown_case_is_refused_with_the_known_ones() -> None:
    from benchmarks.cases.registry import find

    with pytest.raises(BenchmarkSettingsError, match="plain-numpy"):
        find("nonsense", "cpu", None)


# --- vectors --------------------------------------------------------------------------------------------------------


def test_any_chunk_of_any_update_can_be_made_again() -> None:
    workload = Workload(length=CHUNK + 1_000, clients=2)
    kept, made = Vectors(workload), Vectors(workload)
    made._kept = None
    for client in range(2):
        assert np.array_equal(kept.update(client), made.update(client))
        assert np.array_equal(kept.chunk(client, CHUNK), made.chunk(client, CHUNK))
    assert not np.array_equal(kept.update(0), kept.update(1))


def test_updates_lie_within_the_clip_and_depend_on_the_seed() -> None:
    one, other = Vectors(SMALL).update(0), Vectors(replace(SMALL, seed=1)).update(0)
    assert float(np.abs(one).max()) <= CLIP
    assert not np.array_equal(one, other)


def test_the_exact_mean_counts_a_contribution_as_often_as_it_arrives() -> None:
    vectors = Vectors(replace(SMALL, clients=3, encrypting=2))
    [(_, mean)] = list(vectors.exact_mean())
    expected = (2 * vectors.update(0).astype(np.float64) + vectors.update(1)) / 3
    assert np.allclose(mean, expected, rtol=0, atol=1e-15)


# --- meter ----------------------------------------------------------------------------------------------------------


def test_stages_lie_inside_phases_and_have_known_names() -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="inside a phase"), meter.stage("sum"):
        pass
    with pytest.raises(ValueError, match="phase"), meter.phase("lunch"):
        pass
    with meter.phase("server"):
        with pytest.raises(ValueError, match="stage"), meter.stage("lunch"):
            pass
        with pytest.raises(ValueError, match="nested"), meter.phase("client"):
            pass
    assert "sum" in STAGES and "server" in PHASES


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a resettable peak of memory")
def test_peak_memory_sees_what_a_phase_took_and_gave_back() -> None:
    meter = Meter(memory=True)
    with meter.phase("client"):
        np.ones(50 << 20, dtype=np.uint8).sum()
    with meter.phase("server"):
        pass
    client, server = meter.phases["client"].peak_bytes, meter.phases["server"].peak_bytes
    assert client is not None and server is not None
    assert 45 << 20 < client < 120 << 20
    assert server < 5 << 20


# --- worker ---------------------------------------------------------------------------------------------------------


def ask(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    answers = io.StringIO()
    worker.serve(io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def request(do: str, case: str = "plain-numpy", workload: Workload = SMALL) -> dict[str, Any]:
    return {"do": do, "case": case, "workload": workload.as_dict(), "device": "cpu", "threads": 1}


def test_a_worker_prepares_repeats_and_measures_memory() -> None:
    prepared, repeated, peaks, forgotten = ask(
        request("prepare"), request("repeat"), request("memory"), {"do": "forget"}
    )
    assert prepared["status"] == "ready" and prepared["warm_up_seconds"] > 0
    assert repeated["status"] == "ok" and repeated["phases"]["client"]["seconds"] > 0
    assert set(peaks["peak_bytes"]) == {"client", "server", "open"}
    assert forgotten == {}


def test_a_wrong_case_is_reported_without_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import plain

    monkeypatch.setattr(plain, "allowed_error", lambda clients: 0.0)
    _, repeated = ask(request("prepare"), request("repeat"))
    assert repeated["status"] == "wrong"
    assert "phases" not in repeated


def test_a_case_that_cannot_run_says_why() -> None:
    too_few = Workload(3_000, clients=2)
    [answer] = ask(request("prepare", "flower-secagg-plus", too_few))
    assert answer == {"status": "not run", "reason": "SecAgg+ needs at least 3 clients"}


def test_a_case_whose_library_is_not_installed_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cases import plain

    def prepare(self: object, vectors: Vectors) -> dict[str, Any]:
        importlib.import_module("a_library_that_nobody_has")
        raise AssertionError

    monkeypatch.setattr(plain.NumpyAverage, "prepare", prepare)
    [answer] = ask(request("prepare"))
    assert answer == {"status": "not run", "reason": "a_library_that_nobody_has is not installed"}


def test_all_cores_are_what_roles_take_by_default_and_fewer_are_asked_for() -> None:
    """Then a role starts no thread for a small round, as in a training."""
    from benchmarks.cases import rounds

    cores = usable_cores()
    assert rounds._of_roles(cores) is None and rounds._of_roles(None) is None
    assert rounds._of_roles(cores + 1) == cores + 1
