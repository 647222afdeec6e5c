"""A csv that the project has never seen: a schema of at most fifteen lines, then train, evaluate and cards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from demos.card import card
from demos.evaluate import evaluate
from demos.train import train

ROWS = 4000


def transfers(rng: np.random.Generator) -> list[str]:
    """A payment app: German dates and words for the label, semicolons, a channel with gaps, accounts on both sides."""
    lines = ["wann;von;nach;betrag;kanal;betrug"]
    for minute in sorted(rng.integers(0, 60 * 24 * 60, ROWS)):
        day, rest = divmod(int(minute), 1440)
        bad = rng.random() < 0.05
        amount = rng.exponential(300 if bad else 40)
        date = np.datetime64("2023-03-01") + day
        year, month, dom = str(date).split("-")
        when = f"{dom}.{month}.{year} {rest // 60:02d}:{rest % 60:02d}"
        channel = rng.choice(["app", "web", ""])
        lines.append(
            f"{when};K{rng.integers(150)};H{rng.integers(40)};{amount:.2f};{channel};{'ja' if bad else 'nein'}"
        )
    return lines


TRANSFERS = """\
[label]
column = "betrug"
positive = ["ja"]
negative = ["nein"]
delay_days = 3
[time]
column = "wann"
format = "%d.%m.%Y %H:%M"
[amount]
column = "betrag"
[parties]
customer = "von"
terminal = "nach"
[[categorical]]
column = "kanal"
vocabulary = ["app", "web"]
[file]
delimiter = ";"
"""


def claims(rng: np.random.Generator) -> list[str]:
    """Insurance claims without any time, of policy holders."""
    lines = ["policy,value,region,garage_score,suspicious"]
    for _ in range(ROWS):
        bad = rng.random() < 0.08
        value, score = rng.exponential(4000 if bad else 900), rng.normal(1.5 if bad else 0.0)
        region = rng.choice(["north", "south", "coast"])
        lines.append(f"P{rng.integers(400)},{value:.2f},{region},{score:.3f},{int(bad)}")
    return lines


CLAIMS = """\
[label]
column = "suspicious"
[amount]
column = "value"
typical = 1000
[parties]
customer = "policy"
[[numeric]]
column = "garage_score"
[[categorical]]
column = "region"
vocabulary = ["north", "south", "coast"]
"""


def readings(rng: np.random.Generator) -> list[str]:
    """Neither time nor parties nor amounts: measurements with gaps."""
    lines = ["m1,m2,device,flag"]
    for _ in range(ROWS):
        bad = rng.random() < 0.06
        m1 = "" if rng.random() < 0.1 else f"{rng.normal(2.0 if bad else 0.0):.3f}"
        lines.append(f"{m1},{rng.exponential(5 if bad else 1):.3f},dev{rng.integers(6)},{'T' if bad else 'F'}")
    return lines


READINGS = """\
[label]
column = "flag"
positive = ["T"]
negative = ["F"]
[[numeric]]
column = "m1"
missing = 0.0
[[numeric]]
column = "m2"
transform = "log1p"
[[categorical]]
column = "device"
hash_width = 8
"""


def played(make: Callable[[np.random.Generator], list[str]], schema: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """(the report, the run's folder) after train, evaluate and card."""
    data, toml, run = folder / "unseen.csv", folder / "unseen.toml", folder / "run"
    data.write_text("\n".join(make(np.random.default_rng(7))) + "\n")
    toml.write_text(schema)
    trained = ["--data", data, "--schema", toml, "--clients", "3", "--no-dp", "--rounds", "2", "--local-epochs", "2"]
    for command, arguments in (
        (train, [*trained, "--no-baselines", "--run-dir", run, "--json"]),
        (evaluate, [run, "--html", folder / "report.html", "--json"]),
        (card, [run, "--json"]),
    ):
        done = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report, run


@pytest.mark.parametrize("schema", [TRANSFERS, CLAIMS, READINGS])
def test_these_schemas_are_short(schema: str) -> None:
    assert len([line for line in schema.splitlines() if "=" in line]) <= 15


def test_a_payment_app_with_its_own_dates_and_words(tmp_path: Path) -> None:
    report, run = played(transfers, TRANSFERS, tmp_path)
    assert report["figures"]["average_precision"] > 3 * report["figures"]["fraud_share"]
    assert report["drift"]["available"] and report["timeliness"]["available"]
    assert {column["column"] for column in report["fairness"]["columns"]} == {"bank", "kanal"}
    assert {group["group"] for group in report["fairness"]["columns"][1]["groups"]} == {"app", "web", "(empty)"}
    assert set(report["comparison"]["not_run"]) == {"alone", "pooled", "pooled_global", "plain"}
    assert "`betrag`" in (run / "dpia.md").read_text()


def test_insurance_claims_without_time(tmp_path: Path) -> None:
    report, _ = played(claims, CLAIMS, tmp_path)
    assert report["figures"]["roc_auc"] > 0.7
    assert report["figures"]["alerts_per_day"] is None
    assert not report["drift"]["available"] and not report["timeliness"]["available"]
    assert "Not looked for" in (tmp_path / "report.html").read_text()


def test_measurements_without_time_or_parties(tmp_path: Path) -> None:
    report, _ = played(readings, READINGS, tmp_path)
    assert report["figures"]["roc_auc"] > 0.7
    assert "m1_missing" in report["explanations"]["usual"]["importance"]
