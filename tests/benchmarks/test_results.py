"""The results file: what is written is what is read, and every shown figure comes from the repetitions in it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import WORKLOAD, measurement, results

from benchmarks.errors import UnreadableResults
from benchmarks.results import NAME, Measurement, Results, load, write_csv
from benchmarks.schema import SCHEMA

DRIFT = [1.0, 1.1, 0.9]


@pytest.fixture
def some() -> Results:
    missing = replace(
        measurement("flower", 1.0, ours=False, drift=[1.0]), status="not run", reason="not installed", repetitions=()
    )
    return results(
        measurement("secagg-x-masked", 0.4, ours=True, drift=DRIFT, noise=0.1),
        measurement("plain-x", 0.1, ours=False, drift=DRIFT, noise=0.1),
        missing,
    )


def test_a_saved_run_is_read_back_equal(some: Results, tmp_path: Path) -> None:
    some.save(tmp_path / "run.json")
    assert load(tmp_path / "run.json") == some


def test_a_saved_run_follows_the_published_schema(some: Results, tmp_path: Path) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(SCHEMA)
    some.save(tmp_path / "run.json")
    data = json.loads((tmp_path / "run.json").read_text())
    validator.validate(data)
    del data["machine"]["processor"]
    assert not validator.is_valid(data)


def test_the_summary_in_the_file_is_that_of_its_repetitions(some: Results, tmp_path: Path) -> None:
    some.save(tmp_path / "run.json")
    for fields in json.loads((tmp_path / "run.json").read_text())["measurements"]:
        again = Measurement.of(fields)
        assert fields["summary"] == (json.loads(json.dumps(again.summary())) if again.repetitions else None)


def test_times_are_per_contribution() -> None:
    one = measurement("secagg-x-masked", 0.8, ours=True, drift=[1.0])
    assert one.samples("client") == pytest.approx([0.1] * 3)
    assert one.samples("server") == pytest.approx([0.1] * 3)
    assert one.samples("open") == pytest.approx([0.8] * 3)


def test_a_slow_case_in_which_two_of_eight_encrypt_is_charged_for_two_at_the_client() -> None:
    one = measurement("tenseal", 0.8, ours=False, drift=[1.0], workload=replace(WORKLOAD, encrypting=2))
    assert one.samples("client") == pytest.approx([0.4] * 3)
    assert one.samples("server") == pytest.approx([0.1] * 3)
    assert one.samples("round") == pytest.approx([4 * 0.8 + 0.8 + 0.8] * 3)


def test_the_rest_of_a_phase_is_what_its_stages_do_not_name() -> None:
    one = measurement("secagg-x-masked", 0.4, ours=True, drift=[1.0])
    assert one.stages()["client/rest"][0].median == pytest.approx(0.0)
    assert one.stages()["open/rest"][0].median == pytest.approx(0.2)


def test_growth_is_fitted_from_a_million_values_up_and_not_below() -> None:
    sizes = (1_000, 1_000_000, 10_000_000)
    seconds = (5.0, 0.1, 1.0)  # the small one would bend the line
    run = results(
        *(
            measurement("secagg-x-masked", s, ours=True, drift=[1.0], workload=replace(WORKLOAD, length=n), size=5 * n)
            for n, s in zip(sizes, seconds, strict=True)
        )
    )
    found = run.growth()["secagg-x-masked"]
    assert found["client"].exponent == pytest.approx(1.0)
    assert found["bytes"].exponent == pytest.approx(1.0)
    assert found["client"].sizes == (1_000_000, 10_000_000)


def test_csv_holds_every_figure_with_its_unit(some: Results, tmp_path: Path) -> None:
    write_csv([some], tmp_path / "run.csv")
    with (tmp_path / "run.csv").open() as file:
        rows = list(csv.DictReader(file))
    client = next(r for r in rows if r["case"] == "secagg-x-masked" and r["figure"] == "client")
    found = some.measurements[0].spread("client")
    assert found is not None
    assert (client["unit"], float(client["median"]), int(client["count"])) == ("s", found.median, found.count)
    assert any(r["figure"] == "client/encrypt" and r["unit"] == "bytes" for r in rows)
    assert any(r["figure"] == "peak memory, client" for r in rows)
    assert any(r["case"] == "flower" and r["status"] == "not run" for r in rows)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not JSON"),
        ("[]", "expected schema"),
        ('{"schema": "something else", "version": 1}', "expected schema"),
        (json.dumps({"schema": NAME, "version": 99}), "expected version"),
        (json.dumps({"schema": NAME, "version": 1}), "KeyError"),
    ],
)
def test_a_file_that_is_no_results_file_is_refused_by_name(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UnreadableResults, match=what):
        load(tmp_path / "run.json")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UnreadableResults, match=r"absent\.json"):
        load(tmp_path / "absent.json")
