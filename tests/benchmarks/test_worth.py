"""The worth of a private federation: the command from its options to its table, on data of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import risky_banks
from click.testing import CliRunner

from benchmarks import private_worth, worth_table
from benchmarks.__main__ import cli
from benchmarks.errors import BenchmarkSettingsError, ResumeMismatch
from benchmarks.private_worth import Question
from benchmarks.worth_rows import WorthRows, shifted
from fl.counts.entity_risk import blocks_of
from fl.runs.asked import configuration
from fl.runs.config import DataSettings
from fl.runs.plan import RunPlan
from fl.runs.risk import RiskOfParties

QUIET = ["--epsilons", "8", "--draws", "2", "--part-draws", "1", "--test-windows", "1", "--count-noise", "laplace"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    risky_banks.frame().to_csv(folder / "rows.csv", index=False)
    (folder / "risky.toml").write_text(risky_banks.SCHEMA_TEXT)
    return ["--data", str(folder / "rows.csv"), "--schema", str(folder / "risky.toml")]


@pytest.fixture(scope="module")
def measured(data: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("worth")
    done = CliRunner().invoke(cli, ["worth", *data, *QUIET, "--folder", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    return folder, done.output


@pytest.mark.long
def test_every_cell_has_its_figures_and_the_tables_show_them(measured: tuple[Path, str]) -> None:
    folder, output = measured
    cells = private_worth.read_cells(folder)
    assert len(cells) == 2 * (1 + 1) + 1  # under shared and under own noise, and the baselines
    for cell in cells:
        assert all(0.0 <= week <= 1.0 for weeks in cell["figures"].values() for week in weeks)
    with_parts = [cell for cell in cells if private_worth.Z_SCORES in cell["figures"]]
    assert {cell["draw"] for cell in with_parts} == {0}
    for words in ("own evidence when scoring", "attack accuracy", "alone with the filter"):
        assert words in " ".join(output.split())
    assert str(folder.parent) not in (folder / "settings.json").read_text()


@pytest.mark.long
def test_an_interrupted_measurement_goes_on_and_a_finished_one_measures_nothing(
    measured: tuple[Path, str], data: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = measured
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(WorthRows, "of", lambda *_: pytest.fail("rows were read again"))
    done = CliRunner().invoke(cli, ["worth", *data, *QUIET, "--folder", str(folder), "--json"], catch_exceptions=False)
    assert done.exit_code == 0 and {path: path.read_bytes() for path in folder.iterdir()} == before
    summed = json.loads(done.stdout)
    released = [each for each in summed["worth"] if each["figure"] == private_worth.RELEASED]
    assert {(each["law"], each["draws"]) for each in released} == {("laplace", 2)}


@pytest.mark.long
def test_a_folder_of_other_data_is_refused(measured: tuple[Path, str]) -> None:
    with pytest.raises(ResumeMismatch, match="other data or options"):
        private_worth.measure(Question(DataSettings(customers=100), (1.0,), 1), measured[0], print)


def test_views_are_those_of_a_run(data: list[str]) -> None:
    settings = DataSettings(data[1], data[3], test_windows=1)
    rows = WorthRows.of(settings, 0, 0)
    config = configuration({"data": data[1], "schema": data[3], "no_dp": True, "model": "noisy-or"})
    plan = RunPlan.new(config, rows.source)
    assert plan.sharing is not None
    totals = rows.released(rows.counts(plan.sharing), plan.sharing)
    release = private_worth.Release.of(rows, totals)
    parties = RiskOfParties.of(rows.source, rows.local, (totals, rows.keys), "probability")
    assert blocks_of(totals)["terminal"].frauds.sum() > 0
    for mine, theirs in (
        (release.seen, parties.released),
        (release.home, parties.at_home),
        (rows.at_home(rows.known_alone()), parties.alone),
    ):
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(one.train.x, other.train.x)
            np.testing.assert_array_equal(one.test[0].x, other.test[0].x)
    for one, other in zip(release.evidence, parties.with_evidence(parties.released), strict=True):
        np.testing.assert_array_equal(one.test[0].x, other.test[0].x)


def test_shifted_days_move_training_and_test_and_nothing_else() -> None:
    schema = risky_banks.schema()
    moved = shifted(schema, -14)
    assert moved.split.train == schema.split.train.later(-14)  # type: ignore[union-attr]
    assert moved.split.test == (schema.split.test[0].later(-14),)  # type: ignore[union-attr,index]
    assert moved.label == schema.label and shifted(schema, 0) is schema


def test_means_ranges_and_errors_are_over_draws_and_weeks() -> None:
    shape = {"shift": 0, "law": "laplace", "noise": "shared", "epsilon": 1.0}
    cells = [{**shape, "figures": {"a": weeks}} for weeks in ([0.2, 0.4], [0.4, 0.6])]
    (worth,) = worth_table.summary(cells)
    assert worth.mean == pytest.approx(0.4) and worth.error == pytest.approx(0.1)
    assert worth.draws_range == pytest.approx((0.3, 0.5)) and worth.weeks_range == pytest.approx((0.3, 0.5))
    assert worth_table.told(worth) == ".400 ± .100 {2} [.300 .500]"


def test_tables_alone_need_a_folder() -> None:
    done = CliRunner().invoke(cli, ["worth", "--tables-only"])
    assert done.exit_code == 2 and "--folder" in done.output


def test_data_that_share_nothing_are_refused(data: list[str], tmp_path: Path) -> None:
    schema = tmp_path / "alone.toml"
    schema.write_text(risky_banks.SCHEMA_TEXT.replace('shared = ["terminal"]', "shared = []"))
    with pytest.raises(BenchmarkSettingsError, match="shared"):
        WorthRows.of(DataSettings(data[1], str(schema), test_windows=1), 0, 0)
