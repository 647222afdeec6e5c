"""`demos schema --check` says how much of each column its bound cuts off, and warns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from five_sites import five_sites

from demos.schema import schema
from fl.data.draft import draft_schema
from fl.reports.examination.findings import _scaled

ONE_DIGIT = 'column = "VOLUME"\ntransform = "signed_log1p"\ncenter = 6.0\nscale = 1.0'


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    data, drafted = tmp_path / "five.csv", tmp_path / "five.toml"
    five_sites(200).to_csv(data, index=False)
    drafted.write_text(draft_schema(data))
    return drafted, data


def checked(drafted: Path, data: Path, *options: str) -> tuple[str, str]:
    done = CliRunner().invoke(schema, ["--check", str(drafted), *options, str(data)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_a_draft_cuts_off_nothing_at_any_site(files: tuple[Path, Path]) -> None:
    told = json.loads(checked(*files, "--json")[0])
    assert told["warnings"] == []
    assert set(told["clipped"]["VOLUME"]) == {f"site-{i}" for i in range(1, 6)}
    assert max(max(shares.values()) for shares in told["clipped"].values()) <= 0.01


def test_constants_that_cut_off_more_than_one_percent_are_warned_of(files: tuple[Path, Path]) -> None:
    drafted, data = files
    shared = 'column = "VOLUME"\ntransform = "signed_log1p"\nconstants = "shared"'
    assert shared in drafted.read_text()
    drafted.write_text(drafted.read_text().replace(shared, ONE_DIGIT))
    out, err = checked(drafted, data)
    assert "warning: column 'VOLUME':" in err.replace("\n", " ") and "VOLUME" in out


def test_the_check_names_the_times_that_fractions_come_to(files: tuple[Path, Path]) -> None:
    drafted, data = files
    assert "train_fraction" in drafted.read_text()
    out = checked(drafted, data)[0]
    assert re.search(r"training .* \d{4}-\d\d-\d\d .*until ", out) and "test 1 " in out and "{" not in out


def test_a_report_names_the_column_as_a_concern() -> None:
    (finding,) = _scaled({"warnings": ["column 'VOLUME': 13 % of the values at site-1 lie beyond the bound of 3"]})
    assert finding["kind"] == "concern"
    assert finding["text"] == "Column 'VOLUME': 13 % of the values at site-1 lie beyond the bound of 3."
