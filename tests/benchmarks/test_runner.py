"""The run itself: interleaving, the journal, interruption and resumption, cases that die. Workers are played."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import MACHINE, repetition

from benchmarks import runner
from benchmarks.cases.registry import Entry
from benchmarks.errors import ResumeMismatch, UnreadableResults
from benchmarks.presets import Point, Preset
from benchmarks.results import Results, load
from benchmarks.runner import WorkerDied
from benchmarks.workload import Workload

SMALL, LARGE = Workload(1_000), Workload(2_000)
ENTRIES = {
    "a": Entry("a", "case a", "none:None", family="a", ours=True, longest=1_500),
    "b": Entry("b", "case b", "none:None", family="b"),
}
PRESET = Preset(
    "quick", (Point(SMALL, ("a", "b")), Point(LARGE, ("a", "b"))), 3, 3, visit_s=0.0, case_s=9, limit_s=None
)

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Played:
    """Workers that answer at once, by a function, and remember what they were asked."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.asked: list[tuple[str, str, int]] = []
        self.started = 0
        self._answer = answer or (lambda request: {})

    def __call__(self, threads: int) -> Played:
        self.started += 1
        return self

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "forget":
            return {}
        self.asked.append((request["do"], request["case"], request["workload"]["length"]))
        special = self._answer(request)
        if special:
            return special
        if request["do"] == "prepare":
            return {"status": "ready", "parameters": {"threads": 1}, "warm_up_seconds": 0.5}
        if request["do"] == "memory":
            return {"peak_bytes": {"client": 123}}
        fields = repetition(0, 0.1, 0.1, 0.1)
        del fields["cycle"]
        return {"status": "ok", **fields}

    def close(self) -> None:
        pass


def play(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    played: Played,
    preset: Preset = PRESET,
    resume: bool = False,
    **more: Any,
) -> Results:
    monkeypatch.setattr(runner, "WorkerProcess", played)
    machine = {**MACHINE, **more}
    return runner.run(preset, machine=machine, command="c", path=path, resume=resume, known=ENTRIES, threads=1)


def test_every_cycle_visits_every_case_before_the_next_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played = Played()
    results = play(monkeypatch, tmp_path / "r.json", played)
    repeats = [case for do, case, length in played.asked if do == "repeat" and length == 1_000]
    assert [sorted(repeats[i : i + 2]) for i in range(0, 6, 2)] == [["a", "b"]] * 3
    assert results.complete
    assert load(tmp_path / "r.json") == results
    assert not (tmp_path / "r.jsonl").exists()


def test_a_point_of_minutes_is_visited_once_and_without_peaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    played = Played()
    results = play(monkeypatch, tmp_path / "r.json", played, replace(PRESET, points=(Point(SMALL, ("a",), once=True),)))
    assert [do for do, _, _ in played.asked] == ["prepare", "repeat"]
    assert results.complete


def test_a_case_beyond_its_size_is_listed_as_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = play(monkeypatch, tmp_path / "r.json", Played())
    found = results.find("a", LARGE.point)
    assert found is not None
    assert (found.status, found.repetitions) == ("not run", ())
    assert "1,500 values" in found.reason


def test_warm_up_and_peaks_of_memory_are_kept_apart_from_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = play(monkeypatch, tmp_path / "r.json", Played()).find("a", SMALL.point)
    assert found is not None
    assert found.warm_up_seconds == 0.5
    assert found.peak_bytes == {"client": 123}
    assert len(found.repetitions) == 3


def test_a_wrong_case_reports_no_time_even_if_it_was_right_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repeats = 0

    def wrong_at_last(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal repeats
        repeats += request["do"] == "repeat" and request["case"] == "b"
        return {"status": "wrong", "reason": "off by 1"} if repeats == 2 else {}

    results = play(monkeypatch, tmp_path / "r.json", Played(wrong_at_last))
    found = results.find("b", SMALL.point)
    assert found is not None
    assert (found.status, found.reason, found.repetitions) == ("wrong", "off by 1", ())


def test_a_case_whose_process_dies_fails_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "repeat" and request["case"] == "a":
            raise WorkerDied("exit code -11: no message")
        return {}

    played = Played(dies)
    results = play(monkeypatch, tmp_path / "r.json", played)
    a, b = results.find("a", SMALL.point), results.find("b", SMALL.point)
    assert a is not None and b is not None
    assert (a.status, a.reason) == ("failed", "exit code -11: no message")
    assert (b.status, len(b.repetitions)) == ("ok", 3)


def test_a_slow_case_is_repeated_less_but_in_the_fewest_cycles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preset = replace(
        PRESET, cycles=10, fewest=2, case_s=1.0, points=(Point(SMALL, ("a",)),)
    )  # a repetition takes 0.3 s
    found = play(monkeypatch, tmp_path / "r.json", Played(), preset).find("a", SMALL.point)
    assert found is not None
    assert len(found.repetitions) == 3  # three fit into a second
    preset = replace(preset, case_s=0.1)
    found = play(monkeypatch, tmp_path / "s.json", Played(), preset).find("a", SMALL.point)
    assert found is not None
    assert len(found.repetitions) == 2


def test_an_interrupted_run_keeps_what_is_done_and_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, repeats = tmp_path / "r.json", 0

    def interrupted(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal repeats
        repeats += request["do"] == "repeat"
        if repeats == 4:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        play(monkeypatch, path, Played(interrupted))
    kept = load(path)
    assert not kept.complete
    assert sum(len(m.repetitions) for m in kept.measurements) == 3

    again = Played()
    results = play(monkeypatch, path, again, resume=True)
    assert results.complete
    assert results.started == kept.started
    assert sum(do == "repeat" for do, _, _ in again.asked) == 3 * 3 - 3
    assert {m.status for m in results.measurements} == {"ok", "not run"}
    assert all(len(m.repetitions) == 3 for m in results.measurements if m.status == "ok")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_an_interrupted_run_reports_is_what_it_is_resumed_with(
    moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A signal may arrive just before or just after a repetition gets onto the disk."""
    path, writes = tmp_path / "r.json", 0
    honest = runner.Journal._write

    def interrupted(journal: runner.Journal, entry: dict[str, Any]) -> None:
        nonlocal writes
        writes += entry.get("kind") == "repetition"
        if moment == "before" and writes == 4:
            raise KeyboardInterrupt
        honest(journal, entry)
        if moment == "after" and writes == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runner.Journal, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            play(patched, path, Played())
    kept = load(path)
    results = play(monkeypatch, path, Played(), resume=True)
    for before, after in zip(kept.measurements, results.measurements, strict=True):
        assert after.repetitions[: len(before.repetitions)] == before.repetitions
    assert sum(len(m.repetitions) for m in kept.measurements) == 3
    assert all(len(m.repetitions) == 3 for m in results.measurements if m.status == "ok")


def test_a_line_that_an_interruption_cut_short_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        play(monkeypatch, path, Played(_interrupt_at(5)))
    journal = path.with_suffix(".jsonl")
    journal.write_text(journal.read_text()[:-40])
    results = play(monkeypatch, path, Played(), resume=True)
    assert all(len(m.repetitions) == 3 for m in results.measurements if m.status == "ok")


@pytest.mark.parametrize("change", [{"cores": 4}, {"source": "other"}, {"versions": {"numpy": "3.0"}}])
def test_a_run_is_not_resumed_on_other_code_or_another_machine(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        play(monkeypatch, path, Played(_interrupt_at(2)))
    before = path.with_suffix(".jsonl").read_text()
    with pytest.raises(ResumeMismatch):
        play(monkeypatch, path, Played(), resume=True, **change)
    assert path.with_suffix(".jsonl").read_text() == before


def test_there_must_be_something_to_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ResumeMismatch, match="nothing to resume"):
        play(monkeypatch, tmp_path / "r.json", Played(), resume=True)
    (tmp_path / "r.jsonl").write_text("not JSON\n")
    with pytest.raises(UnreadableResults, match="line"):
        play(monkeypatch, tmp_path / "r.json", Played(), resume=True)


def test_every_finding_is_on_disk_before_the_next_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, seen = tmp_path / "r.json", []

    def watching(request: dict[str, Any]) -> dict[str, Any]:
        lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        seen.append(sum(line.get("kind") == "repetition" for line in lines))
        return {}

    play(monkeypatch, path, played := Played(watching))
    done = 0
    for (do, _, _), on_disk in zip(played.asked, seen, strict=True):
        assert on_disk == done
        done += do == "repeat"


def test_no_cycle_starts_when_the_time_of_the_preset_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = play(monkeypatch, tmp_path / "r.json", Played(), replace(PRESET, limit_s=0.0))
    assert not results.complete
    assert all(len(m.repetitions) == 1 for m in results.measurements if m.status == "ok")


def _interrupt_at(number: int) -> Answer:
    repeats = 0

    def interrupt(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal repeats
        repeats += request["do"] == "repeat"
        if repeats == number:
            raise KeyboardInterrupt
        return {}

    return interrupt
