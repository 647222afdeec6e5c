"""What counts as a regression: planted ones are found, noise and a slower machine are not taken for one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import WORKLOAD, measurement, results

from benchmarks.compare import TOO_BUSY, compare
from benchmarks.errors import NothingInCommon, UnlikeMachines
from benchmarks.results import Results

STEADY = [1.0] * 5
NOISE = 0.02  # of one repetition


def run(
    slower: float = 1.0,
    drift: list[float] = STEADY,
    seed: int = 0,
    noise: float = NOISE,
    shares: tuple[list[float], list[float]] | None = None,
    size: int = 5_400_000,
) -> Results:
    """shares: of a core, per cycle, that the project's case and the control got."""
    mine, theirs = shares or (None, None)
    own = measurement(
        "secagg-x-masked",
        0.4,
        ours=True,
        drift=drift,
        noise=noise,
        seed=seed,
        slower=slower,
        core_shares=mine,
        size=size,
    )
    plain = measurement("plain-x", 0.1, ours=False, drift=drift, noise=noise, seed=seed + 1000, core_shares=theirs)
    return results(own, plain)


def verdicts(old: Results, new: Results) -> dict[str, str]:
    return {c.figure: c.verdict for c in compare(old, new)}


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_slow_down_of_a_fifth_is_found_in_every_time(seed: int) -> None:
    found = compare(run(seed=seed), run(slower=1.2, seed=seed + 50))
    times = [c for c in found if c.figure != "bytes"]
    assert [c.verdict for c in times] == ["slower"] * 3
    assert all(c.low > 1.05 and 1.1 < c.ratio < 1.3 for c in times)


@pytest.mark.parametrize("seed", range(20))
def test_two_runs_of_the_same_code_are_no_regression(seed: int) -> None:
    assert not any(c.regression for c in compare(run(seed=seed), run(seed=seed + 50)))


def test_a_speed_up_is_called_faster_and_is_no_regression() -> None:
    found = compare(run(), run(slower=0.7, seed=9))
    assert {c.verdict for c in found if c.figure != "bytes"} == {"faster"}
    assert not any(c.regression for c in found)


def test_a_machine_that_was_slower_as_a_whole_is_no_regression() -> None:
    slow_machine = run(drift=[1.5, 1.4, 1.6, 1.5, 1.45], seed=9)
    assert not any(c.regression for c in compare(run(), slow_machine))


def test_without_controls_there_is_no_verdict_on_times() -> None:
    old, new = (results(run(slower=s).measurements[0]) for s in (1.0, 2.0))
    assert verdicts(old, new) == {
        "client": "no controls",
        "server": "no controls",
        "open": "no controls",
        "bytes": "same",
    }


# On a busy machine each case gets its own share of a core, and no control says which share the others got.
BUSY_OLD = ([0.9, 0.5, 0.8, 0.6, 0.7], [0.6, 0.9, 0.5, 0.8, 0.7])
BUSY_NEW = ([0.3, 0.4, 0.3, 0.5, 0.4], [0.8, 0.6, 0.7, 0.9, 0.6])


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, TOO_BUSY), (1.2, TOO_BUSY), (2.0, "slower"), (0.5, "faster")])
def test_on_a_busy_machine_processor_times_are_compared_and_only_gross_changes_judged(
    slower: float, verdict: str
) -> None:
    found = [c for c in compare(run(shares=BUSY_OLD), run(slower=slower, shares=BUSY_NEW, seed=9)) if c.clock]
    assert {(c.clock, c.verdict) for c in found} == {("processor", verdict)}


def test_one_busy_run_of_two_is_enough_to_be_careful() -> None:
    found = [c for c in compare(run(), run(slower=1.2, shares=BUSY_NEW, seed=9)) if c.clock]
    assert {c.verdict for c in found} == {TOO_BUSY}


def test_on_a_quiet_machine_lost_parallelism_is_found_although_the_work_is_the_same() -> None:
    alone = [1.0] * 5
    two_cores = run(shares=([2.0] * 5, alone))
    one_core = run(shares=(alone, alone), seed=9)
    found = [c for c in compare(two_cores, one_core) if c.figure != "bytes"]
    assert {(c.clock, c.verdict) for c in found} == {("wall", "slower")}


def test_a_slow_down_is_found_although_the_machine_drifts_within_each_run() -> None:
    drift = [1.0, 1.3, 0.9, 1.2, 1.1]
    assert verdicts(run(drift=drift), run(slower=1.2, drift=drift[::-1], seed=9))["client"] == "slower"


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "same"), (1.2, "slower")])
def test_controls_that_go_their_own_way_are_not_followed(slower: float, verdict: str) -> None:
    """Two of three controls hang on something else that was slow half of the time in one run and never in the other."""
    moody = [1.4, 1.0, 1.4, 1.0, 1.4, 1.0, 1.4]

    def with_moods(run: Results, drift: list[float], seed: int) -> Results:
        more = (
            measurement(name, 0.1, ours=False, drift=drift, noise=NOISE, seed=seed + i)
            for i, name in enumerate(("plain-y", "plain-z"))
        )
        return results(*run.measurements, *more)

    steady = [1.0] * len(moody)
    old = with_moods(run(drift=steady), moody, seed=20)
    new = with_moods(run(slower=slower, drift=steady, seed=9), steady, seed=30)
    assert verdicts(old, new)["client"] == verdict


@pytest.mark.parametrize(("moved", "slower"), [(0.8, 1.0), (1.3, 1.2)])
def test_one_control_that_moved_between_the_runs_decides_nothing_alone(moved: float, slower: float) -> None:
    """It is steady in each run, so nothing within the runs tells it from a good one."""
    steady = [1.0] * 7
    one = measurement("plain-y", 0.1, ours=False, drift=steady, noise=NOISE / 2, seed=20)
    other = measurement("plain-y", 0.1, ours=False, drift=steady, noise=NOISE / 2, seed=30, slower=moved)
    old = results(*run(drift=steady).measurements, one)
    new = results(*run(slower=slower, drift=steady, seed=9).measurements, other)
    assert verdicts(old, new)["client"] in ("same", "cannot tell")


def test_one_disturbed_cycle_is_no_regression() -> None:
    assert not any(c.regression for c in compare(run(), run(drift=[1.0, 1.0, 3.0, 1.0, 1.0], seed=9)))


def test_noise_wider_than_any_change_is_called_undecided() -> None:
    assert "cannot tell" in verdicts(run(noise=0.5, seed=1), run(noise=0.5, seed=2)).values()


def test_four_cycles_are_too_few_for_a_verdict() -> None:
    found = verdicts(run(drift=[1.0] * 4), run(slower=2.0, drift=[1.0] * 4, seed=9))
    assert found["client"] == "cannot tell"


def test_one_byte_more_on_the_wire_is_a_regression() -> None:
    assert verdicts(run(), run(size=5_400_001))["bytes"] == "larger"


def test_a_case_that_became_wrong_is_a_regression() -> None:
    new = run()
    broken = replace(new.measurements[0], status="wrong", reason="off by 1", repetitions=())
    found = compare(run(), results(broken, *new.measurements[1:]))
    assert any(c.regression and c.verdict == "broken" for c in found)


def test_code_of_others_is_not_judged() -> None:
    assert {c.case for c in compare(run(), run(seed=9))} == {"secagg-x-masked"}


@pytest.mark.parametrize(("what", "value"), [("processor", "another"), ("cores", 4), ("threads", 1), ("device", "GPU")])
def test_unlike_machines_are_never_compared(what: str, value: object) -> None:
    with pytest.raises(UnlikeMachines, match=what):
        compare(run(), results(*run().measurements, **{what: value}))


def test_runs_that_share_no_measurement_are_not_compared() -> None:
    other = measurement("secagg-x-masked", 0.4, ours=True, drift=STEADY, workload=replace(WORKLOAD, length=10))
    with pytest.raises(NothingInCommon):
        compare(run(), results(other))
