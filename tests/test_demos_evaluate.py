"""`demos evaluate`, `demos card` and `demos ablate` as a person uses them, on one small finished run."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import opened
from click.testing import CliRunner

from demos.ablate import ablate
from demos.card import card
from demos.evaluate import evaluate
from demos.train import train
from fl.errors import ExaminationError, RunFolderError

SMALL = ["--customers", "400", "--clients", "3", "--fraud-share", "0.03", "--seed", "5", "--no-dp", "--rounds", "3"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all its baselines, encrypted, with shared counts."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = [*SMALL, "--local-epochs", "2", "--run-dir", str(folder), "--json"]
    assert CliRunner().invoke(train, arguments, catch_exceptions=False).exit_code == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(run: Path) -> tuple[dict[str, Any], str]:
    """(the report, the page) of the run."""
    page = run.parent / "report.html"
    done = CliRunner().invoke(
        evaluate,
        [str(run), "--html", str(page), "--by", "bank", "--by", "AMOUNT", "--alerts", "5", "--json"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    report: dict[str, Any] = json.loads(done.stdout)
    return report, page.read_text(encoding="utf-8")


def numbers_in(value: Any) -> Iterator[float]:
    """Every number of a report, those in its texts and names included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(key)
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        yield from (float(number) for number in NUMBER.findall(value.replace(",", "")))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?")


def shown_numbers(page: str) -> list[str]:
    """Every number in the page's visible text, as it is written."""
    visible = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    text = html.unescape(re.sub(r"<[^>]+>", " ", visible))
    return NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", text))


def plotted(page: str) -> list[tuple[list[Any], dict[str, Any]]]:
    """(data, layout) of every plot."""
    decoder, found = json.JSONDecoder(), []
    for call in re.finditer(r'Plotly\.newPlot\("plot-[\w-]+", ', page):
        data, end = decoder.raw_decode(page, call.end())
        layout, _ = decoder.raw_decode(page, end + 2)
        found.append((data, layout))
    return found


def test_the_report_is_on_disk_as_it_was_printed(run: Path, evaluated: tuple[dict[str, Any], str]) -> None:
    assert json.loads((run / "report.json").read_text()) == evaluated[0]


def test_every_part_is_there_with_its_figures(evaluated: tuple[dict[str, Any], str]) -> None:
    report, _ = evaluated
    assert report["figures"]["largest_difference_to_run"] == 0.0
    assert [row["name"] for row in report["comparison"]["models"]][:3] == ["federated", "alone", "pooled"]
    assert report["comparison"]["not_run"] == []
    assert 0.0 < report["calibration"]["corrected"]["brier"] < 1.0
    assert report["timeliness"]["cards"]["compromised"] > 0
    assert len(report["drift"]["days"]) == 7
    assert {column["column"] for column in report["fairness"]["columns"]} == {"bank", "AMOUNT"}
    assert len(report["explanations"]["per_bank"]) == 3
    assert {finding["kind"] for finding in report["findings"]} <= {"good", "note", "concern"}


def test_every_number_on_the_page_stands_in_the_report(evaluated: tuple[dict[str, Any], str]) -> None:
    report, page = evaluated
    known = set(numbers_in(report))
    missing = []
    for shown in shown_numbers(page):
        digits = len(shown.partition(".")[2])
        half = 0.5000001 * 10.0**-digits
        if not any(abs(number * scale - float(shown)) <= half for number in known for scale in (1, 100)):
            missing.append(shown)
    assert missing == []


def test_every_plotted_value_stands_in_the_report(evaluated: tuple[dict[str, Any], str]) -> None:
    report, page = evaluated
    known = {round(number, 9) for number in numbers_in(report)}
    plots = plotted(page)
    assert len(plots) >= 9
    for data, _ in plots:
        for trace in data:
            if trace.get("name") == "ideal":
                continue
            values = [
                *numbers_in([v for axis in ("x", "y", "z") for v in trace.get(axis, []) if not isinstance(v, str)])
            ]
            assert [value for value in values if round(value, 9) not in known] == []


def test_the_report_begins_with_the_sentence_that_decides(evaluated: tuple[dict[str, Any], str]) -> None:
    report, page = evaluated
    first = report["findings"][0]["text"]
    assert first == report["run"]["verdict"] and first.startswith("Joining is ")
    assert "95 % interval" in first and "without privacy" in first
    assert page.index(html.escape(first, quote=False)) < page.index('class="meta"')


def test_a_team_is_told_what_it_finds(evaluated: tuple[dict[str, Any], str]) -> None:
    report, page = evaluated
    review = report["figures"]["review"]
    assert review["reviewed"] == 5 * len(report["drift"]["days"])
    assert review["precision"] == review["frauds"] / review["reviewed"]
    assert "the 5 highest scores of each day at all banks together" in page


def test_baselines_say_what_they_had_and_had_not(evaluated: tuple[dict[str, Any], str]) -> None:
    report, page = evaluated
    explained = {row["name"]: row["had"] for row in report["comparison"]["explained"]}
    assert set(explained) == {row["name"] for row in report["comparison"]["models"]} - {"federated"}
    assert "one place" in explained["pooled"] and "had no" in explained["pooled"]
    assert all(html.escape(had, quote=False).replace("'", "&#39;") in page for had in explained.values())


def test_a_number_that_is_not_in_the_report_would_be_found(evaluated: tuple[dict[str, Any], str]) -> None:
    assert shown_numbers("<p>about 12,345.67 of 8</p><script>99</script>") == ["12345.67", "8"]


def test_the_page_needs_no_network_and_holds_plotly_once(evaluated: tuple[dict[str, Any], str]) -> None:
    page = evaluated[1]
    assert "default-src 'none'" in page
    assert re.findall(r"<(?:script|link|img|iframe)[^>]*\b(?:src|href)=\"(?!data:,)", page) == []
    assert page.count("plotly.js v") == 1


def test_people_read_findings_and_where_they_are_written(run: Path) -> None:
    done = CliRunner().invoke(evaluate, [str(run)], catch_exceptions=False)
    assert "this model" in done.stdout and "report.json" in done.stdout
    assert "The model flags" in " ".join(done.stdout.split())


def test_a_column_that_is_not_there_leaves_the_old_report(run: Path, evaluated: tuple[dict[str, Any], str]) -> None:
    before = (run / "report.json").read_bytes()
    with pytest.raises(ExaminationError, match="AGE"):
        CliRunner().invoke(evaluate, [str(run), "--by", "AGE"], catch_exceptions=False)
    assert (run / "report.json").read_bytes() == before


def test_cards_are_written_from_the_run_and_its_report(run: Path, evaluated: tuple[dict[str, Any], str]) -> None:
    done = CliRunner().invoke(card, [str(run), "--out", str(run.parent / "cards"), "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    model_card, dpia = (Path(told[name]).read_text() for name in ("model_card", "dpia"))
    assert f"{evaluated[0]['figures']['average_precision']:.3f}" in model_card
    assert evaluated[0]["findings"][0]["text"] in model_card
    assert model_card.count("**To be filled in**:") == told["open_in_model_card"] > 0
    assert dpia.count("**To be filled in**:") == told["open_in_dpia"] > 0


def test_a_run_that_is_not_there_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demos", "evaluate", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "config.toml" in done.stderr and "Traceback" not in done.stderr


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys, demos.evaluate as e, demos.ablate as a, demos.card as c\n"
        "from click.testing import CliRunner\n"
        "for command in (e.evaluate, a.ablate, c.card):\n"
        "    assert CliRunner().invoke(command, ['--help']).exit_code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_ablation_compares_pairs_and_says_how_many(run: Path) -> None:
    folder = run.parent / "ablation"
    arguments = [str(run), "--seeds", "2", "--components", "statistics, encryption", "--out", str(folder)]
    done = CliRunner().invoke(ablate, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told == json.loads((folder / "ablation.json").read_text())
    whole, *others = told["variants"]
    assert [row["name"] for row in others] == ["without statistics", "without encryption"]
    for row in others:
        figures = row["average_precision"]
        pairs = [a - b for a, b in zip(whole["average_precision"]["per_seed"], figures["per_seed"], strict=True)]
        assert figures["worth"]["per_seed"] == pytest.approx(pairs) and figures["worth"]["n"] == 2
        assert figures["worth"]["low"] <= figures["worth"]["mean"] <= figures["worth"]["high"]
    page = (folder / "ablation.html").read_text()
    assert "n = 2" in page and page.count("plotly.js v") == 1
    assert CliRunner().invoke(ablate, ["x", "--resume"]).exit_code == 2
    with pytest.raises(RunFolderError):
        CliRunner().invoke(ablate, [str(run / "metrics.json")], catch_exceptions=False)


@pytest.mark.long
def test_the_page_opens_in_a_browser_without_a_word_on_its_console(
    run: Path, evaluated: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    _, console = opened(run.parent / "report.html", 1200, tmp_path, f"--screenshot={tmp_path / 'page.png'}")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    assert console == []
