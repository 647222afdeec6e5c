"""Results as tables: on a terminal, and as Markdown for a README. Every figure comes from `results.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.compare import Comparison
from benchmarks.floor import Floor, Speeds
from benchmarks.results import Measurement, Results
from benchmarks.statistics import Spread

REFERENCE = "tenseal-tutorial"
"""What ratios refer to: how encrypted averaging is usually shown."""

FEWEST_REPETITIONS = 5  # of both cases of a ratio; one from fewer is marked, and the headline says so

Point = tuple[int, int, int]

COLUMNS = (
    "client ms",
    "server ms",
    "open ms",
    "decrypt ms",
    "bytes/value",
    "largest error",
    "x tutorial",
    "cores",
    "peak MB",
    "n",
)
COLUMN_NOTES = (
    "client: update to contribution; server: one contribution checked and added; open: sum to average, once",
    "decrypt: of open, what decrypting and unpacking take; the rest is checks, masks, signatures and the ledger",
    "x tutorial: how many times faster client, server and decrypt are than with TenSEAL's tutorial parameters here",
    "cores: processor time over wall time, as measured; peak MB: memory of one contribution beyond the update itself",
)
SUM_COLUMNS = ("sum ms", "transfer ms", "of the copy bandwidth")
ROUND_COLUMNS = ("training ms/client", "client ms", "server ms", "open ms", "whole round s", "aggregation share")


def milliseconds(found: Spread | None) -> str:
    """Median and half the distance of the quartiles; an unstable one is marked."""
    if found is None:
        return "-"
    half = (found.upper - found.lower) / 2
    digits = 0 if found.median >= 1 else 1 if found.median >= 0.01 else 2
    return f"{found.median * 1000:,.{digits}f} ± {half * 1000:,.{digits}f}{' ~' if found.unstable else ''}"


def points_of(results: Results) -> list[Point]:
    """The points of a run, in the order they were measured."""
    return list(dict.fromkeys(m.workload.point for m in results.measurements))


def title_of(point: Point) -> str:
    """A point as text."""
    length, clients, bits = point
    return f"{length:,} values, {clients:,} clients, {bits} bits"


def headline(results: Results) -> Point:
    """The point with the most cases, which the headline table shows."""
    return max(points_of(results), key=lambda point: sum(m.workload.point == point for m in results.measurements))


def averages(results: Results, point: Point) -> list[Measurement]:
    """The measurements at a point that average given vectors: all but whole rounds and bare sums of ciphertexts."""
    return [m for m in results.measurements if m.workload.point == point and m.family not in ("round", "device")]


def of_family(results: Results, family: str) -> list[Measurement]:
    """The measurements of a family, at all points."""
    return [m for m in results.measurements if m.family == family]


def cells(results: Results, m: Measurement) -> tuple[str, ...]:
    """One measurement under COLUMNS; a case without times says why."""
    if m.status != "ok":
        return (f"{m.status}: {m.reason}", *[""] * (len(COLUMNS) - 1))
    peak = m.peak_bytes.get("client")
    ratios = [times_faster(results, m, metric) for metric in ("client", "server", "decrypt")]
    mark = "~" if fewest_behind_ratio(results, m) < FEWEST_REPETITIONS else ""
    return (
        milliseconds(m.spread("client")),
        milliseconds(m.spread("server")),
        milliseconds(m.spread("open")),
        milliseconds(m.spread("decrypt")),
        _optional(m.bytes_per_value, "{:.2f}"),
        _optional(m.largest_error, "{:.1e}"),
        " / ".join(_optional(ratio, mark + "{:,.1f}") for ratio in ratios),
        _optional(m.cores_used, "{:.2f}"),
        "-" if peak is None else f"{peak / 1e6:,.1f}",
        str(len(m.repetitions)),
    )


def times_faster(results: Results, m: Measurement, metric: str = "client") -> float | None:
    """How many times faster it is in `metric` than REFERENCE at the same point; None for plain averages."""
    reference = results.find(REFERENCE, m.workload.point)
    base = reference.spread(metric) if reference is not None else None
    own = m.spread(metric)
    if base is None or own is None or not own.median or m.family not in ("secagg", "stock", "flower"):
        return None
    return base.median / own.median


def fewest_behind_ratio(results: Results, m: Measurement) -> int:
    """The smaller number of repetitions of `m` and of REFERENCE at its point."""
    reference = results.find(REFERENCE, m.workload.point)
    return min(len(m.repetitions), 0 if reference is None else len(reference.repetitions))


def headline_title(results: Results) -> str:
    """The headline point as text. It says where ratios come from fewer than FEWEST_REPETITIONS repetitions."""
    point = headline(results)
    compared = [m for m in averages(results, point) if m.status == "ok" and times_faster(results, m) is not None]
    few = {m.case: len(m.repetitions) for m in compared if len(m.repetitions) < FEWEST_REPETITIONS}
    if not few:
        return title_of(point)
    cases = ", ".join(f"{count} of {case}" for case, count in few.items())
    return f"{title_of(point)}. Its ratios are not settled: fewer than {FEWEST_REPETITIONS} repetitions ({cases})"


def round_cells(m: Measurement) -> tuple[str, ...]:
    """A whole round under ROUND_COLUMNS."""
    if m.status != "ok":
        return (f"{m.status}: {m.reason}", *[""] * (len(ROUND_COLUMNS) - 1))
    whole = m.spread("round")
    share = aggregation_share(m)
    return (
        milliseconds(m.spread("train")),
        milliseconds(m.spread("client")),
        milliseconds(m.spread("server")),
        milliseconds(m.spread("open")),
        "-" if whole is None else f"{whole.median:.2f}",
        _optional(share, "{:.1%}"),
    )


def sum_cells(m: Measurement) -> tuple[str, ...]:
    """A sum of ciphertexts under SUM_COLUMNS, per contribution."""
    if m.status != "ok":
        return (f"{m.status}: {m.reason}", *[""] * (len(SUM_COLUMNS) - 1))
    stages, clients = m.stages(), m.workload.clients
    parts = [stages[f"server/{name}"][0].median / clients * 1000 for name in ("sum", "transfer")]
    return (*(f"{part:.2f}" for part in parts), _optional(bandwidth_share(m), "{:.0%}"))


def aggregation_share(m: Measurement) -> float | None:
    """Share of a whole round's time, all parties one after the other, that is not training."""
    whole, train = m.spread("round"), m.spread("train")
    if whole is None or train is None:
        return None
    return 1 - train.median * m.workload.clients / whole.median


def bandwidth_share(m: Measurement) -> float | None:
    """A ciphertext sum's bytes per second over the device's own copy bandwidth.

    Counted are the bytes that must move: 4 read for every residue of a contribution, and 16 read and written for every
    residue of the running sum, once per pass.
    """
    stages, bandwidth = m.stages(), m.parameters.get("copy_bytes_per_second")
    if "server/sum" not in stages or not bandwidth:
        return None
    found, read = stages["server/sum"]
    moved = read * (1 + 4 / m.parameters["stacked"])
    return float(moved / found.median / bandwidth)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def machine_line(results: Results) -> str:
    """The machine of a run in one line."""
    m = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    return (
        f"{m['processor']}, {m['cores']} cores available, {m['threads']} threads allowed, device {m['device']}; "
        f"{m['system']} {m['architecture']}, Python {m['python']}, {versions}; revision {m['revision']}, "
        f"source {m['source']}; {results.started}"
    )


def notes(results: Results) -> list[str]:
    """Notes that explain the figures."""
    lines = [
        "Median ± half the distance between the quartiles; ~ marks a median that is not known to a tenth, and a ratio "
        f"from fewer than {FEWEST_REPETITIONS} repetitions. Wall time of one party; n counts repetitions, all cases of "
        "a point interleaved. Only right results have times."
    ]
    if any(m.workload.fresh < m.workload.clients for m in results.measurements):
        lines.append(
            "In the slow cases fewer clients encrypt and the server takes each contribution several times; times are "
            "per contribution."
        )
    if not results.complete:
        lines.append("The run was interrupted or ran out of its time: fewer repetitions, and perhaps fewer cases.")
    if results.machine["device"] == "cpu":
        lines.append("Not run: all CUDA cases (the run was for the CPU).")
    lines += _stacking_line(results)
    lines += _first_run_line(results)
    lines += [f"Growth of {line}." for line in growth_lines(results)]
    return lines


def _stacking_line(results: Results) -> list[str]:
    """Which stacking of contributions added fastest on the device."""
    sums = [m for m in of_family(results, "device") if m.status == "ok"]
    if not sums:
        return []
    best = min(sums, key=lambda m: m.stages()["server/sum"][0].median)
    return [f"Ciphertexts added fastest with {best.parameters['stacked']} contributions per pass ({best.case})."]


def _first_run_line(results: Results) -> list[str]:
    """The time of the first run of each case in its process, which is not part of the figures."""
    firsts = {m.case: m.warm_up_seconds for m in results.measurements if m.ours and m.warm_up_seconds is not None}
    if not firsts:
        return []
    each = ", ".join(f"{case} {seconds:.2f} s" for case, seconds in firsts.items())
    return [f"First run in a process, on a small input, with compiled code built or read from its cache: {each}."]


def growth_lines(results: Results) -> list[str]:
    """Exponents of time and bytes, one line per case."""
    lines = []
    for case, figures in results.growth().items():
        exponents = ", ".join(f"{name} {growth.exponent:.3f}" for name, growth in figures.items())
        sizes = next(iter(figures.values())).sizes
        lines.append(f"{case} from {sizes[0]:,} to {sizes[-1]:,} values, exponents: {exponents}")
    return lines


def show(results: Results) -> None:
    """Print the tables of a run on stdout."""
    console = _console()
    console.print(machine_line(results), highlight=False)
    main = headline(results)
    if at_headline := averages(results, main):
        console.print(_table(results, headline_title(results), at_headline, lambda m: (m.case,), ("case",)))
    others = [m for point in points_of(results) if point != main for m in averages(results, point)]
    if others:
        where = ("values", "clients", "bits", "case")
        console.print(_table(results, "Other points", others, _where, where))
    _show_rounds(console, of_family(results, "round"))
    _show_sums(console, of_family(results, "device"))
    for line in (*COLUMN_NOTES, *notes(results)):
        console.print(line, highlight=False)


def _table(
    results: Results,
    title: str,
    measurements: Sequence[Measurement],
    names: Callable[[Measurement], tuple[str, ...]],
    heads: tuple[str, ...],
) -> Table:
    table = _empty(title, *heads, *COLUMNS)
    for m in measurements:
        table.add_row(*names(m), *cells(results, m))
    return table


def _where(m: Measurement) -> tuple[str, ...]:
    return (*point_cells(m.workload.point), m.case)


def point_cells(point: Point) -> tuple[str, str, str]:
    """A point as the cells of three columns."""
    length, clients, bits = point
    return f"{length:,}", f"{clients:,}", str(bits)


def _show_rounds(console: Console, measurements: Sequence[Measurement]) -> None:
    if measurements:
        table = _empty("Whole rounds, local training included", "case", "values", *ROUND_COLUMNS)
        for m in measurements:
            table.add_row(m.case, f"{m.workload.length:,}", *round_cells(m))
        console.print(table)


def _show_sums(console: Console, measurements: Sequence[Measurement]) -> None:
    if measurements:
        table = _empty("Sums of ciphertexts on the device", "case", *SUM_COLUMNS)
        for m in measurements:
            table.add_row(m.case, *sum_cells(m))
        console.print(table)


def _empty(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right", no_wrap=column == "case")
    return table


def _console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    console = Console(markup=False, emoji=False)
    return console if console.is_terminal else Console(markup=False, emoji=False, width=160)


def show_comparison(found: Sequence[Comparison]) -> None:
    """Print the result of `compare` on stdout."""
    table = _empty(
        "New over old",
        "case",
        "values",
        "clients",
        "bits",
        "figure",
        "old",
        "new",
        "ratio",
        "interval",
        "cycles",
        "clock",
        "verdict",
    )
    for c in found:
        style = "bold red" if c.regression else "green" if c.verdict in ("faster", "smaller") else ""
        table.add_row(
            c.case,
            *point_cells(c.point),
            c.figure,
            _figure(c.old, c.figure),
            _figure(c.new, c.figure),
            f"{c.ratio:.3f}",
            f"{c.low:.3f} .. {c.high:.3f}",
            f"{c.cycles[0]}, {c.cycles[1]}",
            c.clock,
            Text(c.verdict, style),
        )
    _console().print(table)


def _figure(value: float, name: str) -> str:
    return f"{value:,.0f} B" if name == "bytes" else f"{value * 1000:,.2f} ms"


def markdown_tables(results: Results) -> str:
    """The headline point, the whole rounds and the sums on a device as Markdown, with where they come from."""
    point = headline(results)
    lines = [f"{headline_title(results)}; `{results.command}` on {machine_line(results)}."]
    if at_headline := averages(results, point):
        lines += ["", *_markdown(("case", *COLUMNS), [(m.label, *cells(results, m)) for m in at_headline])]
    if rounds := of_family(results, "round"):
        lines += ["", *_markdown(("case", *ROUND_COLUMNS), [(m.label, *round_cells(m)) for m in rounds])]
    if sums := of_family(results, "device"):
        lines += ["", *_markdown(("case", *SUM_COLUMNS), [(m.label, *sum_cells(m)) for m in sums])]
    return "\n".join([*lines, "", *(f"- {line}" for line in (*COLUMN_NOTES, *notes(results)))])


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    align = "|".join("---" if index == 0 else "---:" for index in range(len(columns)))
    return [f"| {' | '.join(columns)} |", f"|{align}|", *(f"| {' | '.join(row)} |" for row in rows)]


def show_floors(speeds: Speeds, found: Sequence[Floor]) -> None:
    """Print every stage beside its floor on stdout."""
    table = Table(title="One party on one core: the least that its work could take, and what it takes")
    for name in ("stage", "MB moved", "products M", "AES MB", "hash MB", "floor ms", "ms", "times"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=name == "stage")
    for each in found:
        work = each.work
        table.add_row(
            f"{each.phase}: {each.stage}",
            *(f"{amount / 1e6:.1f}" for amount in (work.moved, work.products, work.keystream, work.hashed)),
            f"{each.floor_seconds * 1e3:.2f}",
            f"{each.seconds * 1e3:.2f}",
            f"{each.seconds / each.floor_seconds:.1f}",
        )
    console = Console(markup=False, emoji=False)
    console.print(table)
    console.print("What would bring a stage nearer:")
    for each in found:
        console.print(f"{each.phase}: {each.stage}: {each.closes}", highlight=False)
    console.print(
        f"one core: {speeds.copied / 1e9:.1f} GB/s copied (read and written), {speeds.multiplied / 1e9:.2f} products "
        f"a nanosecond, {speeds.keystream / 1e9:.1f} GB/s AES-256-CTR, {speeds.hashed / 1e9:.1f} GB/s BLAKE3",
        highlight=False,
    )
