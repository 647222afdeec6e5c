"""The report and the tables: their numbers are the file's, they need no network, and nothing is hidden."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import WORKLOAD, measurement, results

from benchmarks import tables
from benchmarks.html import summary, write_report
from benchmarks.results import Results, load

DRIFT = [1.0, 1.05, 0.95]
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def some() -> Results:
    sizes = [replace(WORKLOAD, length=n) for n in (10_000, 100_000, 1_000_000, 10_000_000)]
    own = [measurement("secagg-x-masked", w.length * 4e-7, ours=True, drift=DRIFT, workload=w) for w in sizes]
    plain = [measurement("plain-x", w.length * 1e-7, ours=False, drift=DRIFT, workload=w) for w in sizes]
    bits = [
        measurement("secagg-x-masked", 0.4, ours=True, drift=DRIFT, workload=replace(WORKLOAD, value_bits=b))
        for b in (8, 12)
    ]
    stock = replace(measurement("tenseal-tutorial", 16.0, ours=False, drift=DRIFT), family="stock")
    missing = replace(
        measurement("flower", 1.0, ours=False, drift=[1.0]), status="wrong", reason="off by 3", repetitions=()
    )
    rounds = [
        replace(
            _with_training(f"round-m-{way}", 2.0),
            family="round",
            ours=way == "encrypted",
            label=f"whole round, m, {way}",
        )
        for way in ("plain", "encrypted")
    ]
    return results(*own, *plain, *bits, stock, missing, *rounds)


def _with_training(case: str, seconds: float) -> object:
    found = measurement(case, 0.1, ours=True, drift=DRIFT, workload=replace(WORKLOAD, length=3_137))
    train = {"seconds": seconds, "cpu_seconds": seconds, "calls": 8, "stages": {}}
    return replace(
        found, repetitions=tuple({**r, "phases": {**r["phases"], "train": train}} for r in found.repetitions)
    )


class Page(HTMLParser):
    """Collects table cells, tags and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag == "td"
        if self._inside:
            self.cells.append("")
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written([some()], tmp_path_factory.mktemp("report"))


def written(runs: list[Results], folder: Path) -> str:
    write_report(runs, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def bare(**machine: object) -> Results:
    """A run with nothing to plot but one case: quick to draw."""
    return results(measurement("secagg-x-masked", 0.4, ours=True, drift=DRIFT), **machine)


def test_the_report_holds_every_plot_and_needs_neither_script_nor_network(page: str) -> None:
    found = Page(page)
    assert found.tags.count("svg") == 5  # every figure but the one over clients, which this run does not vary
    assert "script" not in found.tags
    assert all(address.startswith(("#", "data:")) for address in found.addresses)
    assert "@import" not in page and "url(http" not in page


def test_identifiers_of_the_plots_do_not_collide(page: str) -> None:
    # Two plots may share an identifier only for equal content, such as a tick mark.
    bodies = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    clips = [set(re.findall(r'<clipPath id="([^"]+)"', body)) for body in bodies]
    assert sum(map(len, clips)) == len(set().union(*clips))


def test_every_number_of_the_headline_table_is_the_files(page: str) -> None:
    run, cells = some(), Page(page).cells
    own = run.find("secagg-x-masked", WORKLOAD.point)
    assert own is not None
    row = cells[cells.index(own.label) :]
    for value, metric in zip(row[1:4], ("client", "server", "open"), strict=True):
        found = own.spread(metric)
        assert found is not None
        assert float(value.split(" ")[0].replace(",", "")) == pytest.approx(found.median * 1000, rel=0.01)
    assert float(row[5]) == pytest.approx(5.4)
    assert float(row[7].split(" / ")[0]) == pytest.approx(40.0, rel=0.01)  # TenSEAL's 2 s over 50 ms


def test_a_case_without_a_right_result_shows_the_reason_and_no_time(page: str) -> None:
    assert "wrong: off by 3" in Page(page).cells


def test_a_ratio_from_fewer_than_five_repetitions_is_said_to_be_so_in_the_headline(tmp_path: Path) -> None:
    def run_of(cycles: int) -> Results:  # three repetitions a cycle
        stock = replace(measurement("tenseal-tutorial", 16.0, ours=False, drift=[1.0] * cycles), family="stock")
        return results(measurement("secagg-x-masked", 0.4, ours=True, drift=DRIFT), stock)

    few, enough = run_of(1), run_of(2)
    said = "Its ratios are not settled: fewer than 5 repetitions (3 of tenseal-tutorial)"
    assert said in tables.headline_title(few) and said in tables.markdown_tables(few)
    assert "from only 3 repetitions" in summary(few) and "~40.0" in tables.cells(few, few.measurements[0])[6]
    text = written([few], tmp_path)
    assert said in text
    assert "settled" not in tables.headline_title(enough) and "only" not in summary(enough)
    assert tables.cells(enough, enough.measurements[0])[6].startswith("40.0")


def test_why_a_case_has_no_times_spans_the_columns_of_times(page: str) -> None:
    assert re.search(r'<td class="reason" colspan="10">wrong: off by 3</td>', page)


def test_the_share_of_a_round_is_what_is_not_training() -> None:
    encrypted = next(m for m in some().measurements if m.case == "round-m-encrypted")
    share = tables.aggregation_share(encrypted)
    assert share == pytest.approx(0.3 / 2.3, rel=0.06)


def test_the_same_results_give_the_same_report(tmp_path: Path) -> None:
    assert written([bare()], tmp_path) == written([bare()], tmp_path)


def test_two_results_stand_side_by_side_under_their_machines(tmp_path: Path) -> None:
    text = written([bare(), bare(processor="another processor")], tmp_path)
    assert text.count('class="machine"') == 2
    assert "another processor" in text and "an imagined processor" in text


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    assert "interrupted" in written([results(*bare().measurements, complete=False)], tmp_path)


def test_the_markdown_names_command_and_machine_and_is_a_table() -> None:
    text = tables.markdown_tables(some())
    assert "`python -m benchmarks run`" in text and "an imagined processor" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:6]} == {len(tables.COLUMNS) + 2}


def test_a_hostile_label_cannot_become_markup(tmp_path: Path) -> None:
    evil = replace(bare().measurements[0], label="<script>alert(1)</script>")
    assert "script" not in Page(written([results(evil)], tmp_path)).tags


def test_the_notes_name_the_best_stacking_and_what_first_runs_took() -> None:
    committed = load(RESULTS / "amd-epyc-2-cores-20261127.json")
    sums = {m.parameters["stacked"]: m.stages()["server/sum"][0].median for m in tables.of_family(committed, "device")}
    found = tables.notes(committed)
    assert any(f"fastest with {min(sums, key=sums.__getitem__)} contributions per pass" in line for line in found)
    assert any(line.startswith("First run in a process") and "secagg-fast-masked" in line for line in found)
