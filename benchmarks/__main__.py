"""The command line: `python -m benchmarks` or `secagg-bench`.

Results go to files and tables to stdout, progress to stderr. Exit code 0: done; 1: the run failed, or `compare` found a
regression; 2: wrong usage, which includes comparing what cannot be compared.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from benchmarks.errors import BenchmarkError, BenchmarkSettingsError, NothingInCommon, ResumeMismatch, UnlikeMachines
from fl import options
from fl.errors import FederationError
from fl.extras import advice

try:
    import click

    from demos.console import err, errors_as_advice
    from demos.options import JSON, FilePath, ranged
except ModuleNotFoundError as absent:
    raise SystemExit(advice(absent)) from None  # on stderr, with exit code 1

if TYPE_CHECKING:  # importing them takes seconds, which `--help` need not wait for
    from benchmarks.private_worth import Law, Noise
    from fl.rounds.attackers import AttackName
    from secagg.rules import RuleName

WRONG_USAGE = (BenchmarkSettingsError, ResumeMismatch, UnlikeMachines, NothingInCommon)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """Let Ctrl-C interrupt the run, but not the writing of its results."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def cli() -> None:
    """Measure what encrypted aggregation costs, compared with plain averaging and with other systems.

    \b
    python -m benchmarks run --preset quick --json quick.json
    python -m benchmarks report quick.json --html quick.html
    python -m benchmarks compare before.json after.json
    """


@cli.command()
@click.option(
    "--preset", "preset_name", type=click.Choice(["quick", "full"]), default="quick", help="Set of measurements."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where torch cases run.")
@ranged("--sizes", options.SIZES, "Values per update, instead of those of the preset.", default="", metavar="N,N,...")
@ranged(
    "--clients",
    options.MEASURED_COUNTS,
    "Contributions per sum, instead of those of the preset.",
    default="",
    metavar="N,N,...",
)
@ranged(
    "--value-bits",
    options.BITS,
    "Bits of a quantised value, instead of those of the preset.",
    default="",
    metavar="N,N,...",
)
@ranged(
    "--case",
    options.Text("a case"),
    "Measure only this case; `list` shows all. Can be repeated.",
    name="names",
    multiple=True,
)
@ranged("--threads", options.THREADS, "Threads that a case may use. Default: all usable cores.")
@ranged("--cycles", options.CYCLES, "Number of cycles; each measures every case. Default: the preset's.")
@click.option("--once", is_flag=True, help="One cycle at every point, without peaks of memory: for large updates.")
@ranged("--seed", options.SEED, "Seed of vectors and of the order of cases. Keys are never seeded.", default=0)
@click.option("--json", "path", type=FilePath(), help="File for the results. Default: a new one under runs/.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run whose results are in --json.")
def run(
    preset_name: str,
    device: str,
    sizes: tuple[int, ...],
    clients: tuple[int, ...],
    value_bits: tuple[int, ...],
    names: tuple[str, ...],
    threads: int | None,
    cycles: int | None,
    once: bool,
    seed: int,
    path: Path | None,
    resume: bool,
) -> None:
    """Measure the cases of a preset and print a table of their costs.

    \b
    python -m benchmarks run --preset quick
    python -m benchmarks run --sizes 1e5,1e6 --clients 8,64 --json sweep.json
    """
    from benchmarks.cases.registry import cases
    from benchmarks.machine import describe_machine, usable_cores
    from benchmarks.presets import chosen, preset
    from benchmarks.runner import run as measure
    from benchmarks.tables import show

    if resume and path is None:
        raise click.UsageError("--resume needs --json FILE, the results of the run to continue")
    threads = usable_cores() if threads is None else threads
    target = Path("runs/benchmarks") / time.strftime("%Y%m%d-%H%M%S.json") if path is None else path
    asked = chosen(
        preset(preset_name, device, threads),
        device,
        threads,
        sizes=sizes,
        clients=clients,
        value_bits=value_bits,
        names=names,
        cycles=cycles,
        once=once,
    )
    machine = describe_machine(device, threads)
    err.print(f"{machine['processor']}, {machine['cores']} cores available, {threads} threads used")
    start = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # a time limit set from outside keeps what is done, too
        signal.signal(number, interrupt_once)
    try:
        results = measure(
            asked,
            machine=machine,
            command=shlex.join(["python", "-m", "benchmarks", *map(_without_folder, sys.argv[1:])]),
            path=target,
            resume=resume,
            seed=seed,
            say=lambda line: err.print(f"{time.monotonic() - start:5.0f} s  {line}"),
            known=cases(device, threads),
            threads=threads,
        )
    except KeyboardInterrupt:
        err.print(f"interrupted; finished measurements are in {target}; continue with --json {target} --resume")
        sys.exit(1)
    show(results)
    err.print(f"{time.monotonic() - start:.0f} s; results in {target}")
    if any(m.status in ("wrong", "failed") for m in results.measurements):
        sys.exit(1)


@cli.command()
@ranged("--length", options.LENGTH, "Number of values in an update.", default=1_000_000)
@ranged("--clients", options.MEASURED_CLIENTS, "Number of contributions, all encrypted.", default=8)
@ranged("--value-bits", options.MEASURED_BITS, "Bits of a quantised value.", default=16)
@JSON
def floor(length: int, clients: int, value_bits: int, as_json: bool) -> None:
    """Compare the time of each stage with the least that its work could take on one core of this machine.

    \b
    python -m benchmarks floor
    python -m benchmarks floor --length 100000 --clients 3 --json
    """
    import json

    from benchmarks.floor import as_dict, floors
    from benchmarks.tables import show_floors

    speeds, found = floors(length, clients, value_bits, err.print)
    if as_json:
        click.echo(json.dumps(as_dict(speeds, found), indent=2))
    else:
        show_floors(speeds, found)


@cli.command()
@ranged("--sizes", options.SIZES, "Values per update. Default: 12,000 and 1,000,000.", default="", metavar="N,N,...")
@ranged(
    "--clients",
    options.MEASURED_COUNTS,
    "Clients of a round. Default: 5, 10, 32 and 128.",
    default="",
    metavar="N,N,...",
)
@ranged("--cycles", options.CYCLES, "Rounds of each kind; the quickest counts.", default=5)
@ranged("--seed", options.SEED, "Seed of vectors. Keys are never seeded.", default=0)
@ranged("--threads", options.THREADS, "Threads of every party.", default=1)
@JSON
def robust(
    sizes: tuple[int, ...], clients: tuple[int, ...], cycles: int, seed: int, threads: int, as_json: bool
) -> None:
    """Measure what a robust round costs beside a plain one, and beside other ways to the same inner products.

    \b
    python -m benchmarks robust
    python -m benchmarks robust --sizes 12000 --clients 5,10 --cycles 3
    """
    import json

    from benchmarks import robust_cost

    found = robust_cost.measure(sizes, clients, cycles, seed, threads, lambda line: err.print(line, highlight=False))
    if as_json:
        click.echo(json.dumps(robust_cost.as_json(found), indent=2))
    else:
        robust_cost.show(found)


@cli.command()
@ranged("--data", options.FILE, "File of transactions, or simulated for the embedded data.", default="simulated")
@ranged("--schema", options.FILE, "Schema of the file. Default: recognised by its columns.")
@ranged(
    "--partition", options.Text("a column, or FILE.csv:COLUMN"), "FILE.csv:COLUMN or COLUMN. Default: the schema's."
)
@ranged("--customers", options.CUSTOMERS, "Customers of the embedded data.")
@ranged("--test-windows", options.TEST_WINDOWS, "Consecutive test windows.", default=3)
@ranged("--epsilons", options.EPSILONS, "Budgets to measure at.", default="1,3,8", metavar="E,E,...")
@ranged("--draws", options.DRAWS, "Draws of all noise at each epsilon.", default=20)
@ranged("--part-draws", options.PART_DRAWS, "Draws of these with one part of the method changed at a time.", default=5)
@ranged(
    "--shifts",
    options.SHIFTS,
    "Days by which training and test are later than in the schema; 0 is the schema's own.",
    default="0",
    metavar="D,D,...",
)
@click.option(
    "--count-noise",
    "laws",
    type=click.Choice(["laplace", "gaussian"]),
    multiple=True,
    default=["laplace", "gaussian"],
    help="Law of the counts' noise. Can be repeated.",
)
@click.option(
    "--noise",
    "noises",
    type=click.Choice(["shared", "own"]),
    multiple=True,
    default=["shared", "own"],
    help="Whether one bank colludes, or all others may (own; at home only). Can be repeated.",
)
@click.option("--no-baselines", is_flag=True, help="Leave out the banks alone and the federation without privacy.")
@click.option("--folder", type=FilePath(), help="Folder of the figures, continued if it exists. Default: under runs/.")
@click.option("--tables-only", is_flag=True, help="Measure nothing; show what --folder holds.")
@JSON
def worth(
    data: str,
    schema: str | None,
    partition: str | None,
    customers: int | None,
    test_windows: int,
    epsilons: tuple[float, ...],
    draws: int,
    part_draws: int,
    shifts: tuple[int, ...],
    laws: tuple[Law, ...],
    noises: tuple[Noise, ...],
    no_baselines: bool,
    folder: Path | None,
    tables_only: bool,
    as_json: bool,
) -> None:
    """Measure what joining a private federation is worth, over many draws of the noise, and what each part adds.

    It needs labels that are public: it looks at all of them, and no ledger records that.

    \b
    python -m benchmarks worth --customers 600 --draws 3
    python -m benchmarks worth --data FILE.csv --partition BANKS.csv:BANK --folder runs/worth
    """
    import json

    from benchmarks import worth_table
    from benchmarks.private_worth import Question, measure, read_cells
    from fl.runs.config import DataSettings

    settings = DataSettings(data, schema, partition, test_windows=test_windows, customers=customers)
    question = Question(
        data=settings,
        epsilons=epsilons,
        draws=draws,
        laws=laws,
        part_draws=part_draws,
        noises=noises,
        shifts=shifts,
        baselines=not no_baselines,
    )

    def tell(target: Path) -> None:
        found = read_cells(target)
        if as_json:
            click.echo(json.dumps(worth_table.as_json(found), indent=2))
        else:
            worth_table.show(found)

    _measure_and_tell("worth", partial(measure, question), tell, folder, tables_only=tables_only)


@cli.command()
@ranged("--data", options.FILE, "File of transactions, or the embedded data.", default="simulated")
@ranged(
    "--schema",
    options.FILE,
    "What the columns mean: a name or a TOML file. Default: recognised.",
    metavar="NAME|FILE.toml",
)
@ranged(
    "--partition", options.Text("a column, or FILE.csv:COLUMN"), "FILE.csv:COLUMN or COLUMN. Default: the schema's."
)
@ranged("--clients", options.RANDOM_BANKS, "Number of banks. Cannot be combined with --partition.")
@ranged("--customers", options.CUSTOMERS, "Customers of the embedded data.")
@ranged("--attackers", options.ATTACKERS, "Banks that attack, and the number that rules are told of.", default=1)
@click.option(
    "--attack",
    "attacks",
    type=click.Choice(options.ATTACK.words),
    multiple=True,
    default=options.ATTACK.words,
    help="What they do. Can be repeated.",
)
@click.option(
    "--rule",
    "rules",
    type=click.Choice(options.RULE.words),
    multiple=True,
    default=["outliers", "nnm", "multikrum"],
    help="Rule that leaves updates out. Can be repeated.",
)
@ranged("--seeds", options.SEEDS, "Seeds of the model, the batches, and of who attacks.", default="0,1,2")
@ranged("--rounds", options.SOME_ROUNDS, "Rounds of a run.", default=10)
@click.option("--folder", type=FilePath(), help="Folder of the figures, continued if it exists. Default: under runs/.")
@click.option("--tables-only", is_flag=True, help="Measure nothing; show what --folder holds.")
@JSON
def poisoning(
    data: str,
    schema: str | None,
    partition: str | None,
    clients: int | None,
    customers: int | None,
    attackers: int,
    attacks: tuple[AttackName, ...],
    rules: tuple[RuleName, ...],
    seeds: tuple[int, ...],
    rounds: int,
    folder: Path | None,
    tables_only: bool,
    as_json: bool,
) -> None:
    """Measure what poisoned updates cost under each robust rule, and what each rule costs where nobody attacks.

    \b
    python -m benchmarks poisoning --customers 600 --clients 5 --seeds 0
    python -m benchmarks poisoning --data FILE.csv --partition BANKS.csv:BANK --attackers 2 --folder runs/poisoning
    """
    import json

    from benchmarks.poisoning import Question, measure, read_cells, show, summary
    from fl.runs.config import DataSettings

    question = Question(
        data=DataSettings(data, schema, partition, clients, customers=customers),
        attackers=attackers,
        attacks=attacks,
        rules=rules,
        seeds=seeds,
        rounds=rounds,
    )

    def tell(target: Path) -> None:
        found = read_cells(target)
        if as_json:
            click.echo(json.dumps(summary(found), indent=2))
        else:
            show(found)

    _measure_and_tell("poisoning", partial(measure, question), tell, folder, tables_only=tables_only)


@cli.command()
@ranged("--rows", options.DRAFTED_ROWS, "Rows of each file.", default=20_000)
@ranged("--seeds", options.SEEDS, "Seeds of rows and training.", default="1,2,3,4,5,6", metavar="N,N,...")
@JSON
def drafts(rows: int, seeds: tuple[int, ...], as_json: bool) -> None:
    """Compare training with an untouched draft of a schema and with a schema by hand, on three made-up files.

    \b
    python -m benchmarks drafts
    python -m benchmarks drafts --rows 6000 --seeds 1,2 --json
    """
    import json

    from benchmarks import drafts

    pairs = list(drafts.measure(rows, seeds, lambda line: err.print(line, highlight=False)))
    if as_json:
        click.echo(json.dumps(drafts.as_json(pairs), indent=2))
    else:
        drafts.show(pairs)


def _measure_and_tell(
    name: str,
    measure: Callable[[Path, Callable[[str], None]], None],
    tell: Callable[[Path], None],
    folder: Path | None,
    *,
    tables_only: bool,
) -> None:
    """Measure the cells of `folder`, or of a new one, unless only its tables are asked for; then `tell` what it holds.

    Progress goes to stderr. An interrupted measurement ends the process with exit code 1.
    """
    if tables_only and folder is None:
        raise click.UsageError("--tables-only needs --folder FOLDER, the figures to show")
    target = Path("runs") / name / time.strftime("%Y%m%d-%H%M%S") if folder is None else folder
    start = time.monotonic()
    if not tables_only:
        try:
            measure(target, lambda line: err.print(f"{time.monotonic() - start:5.0f} s  {line}", highlight=False))
        except KeyboardInterrupt:
            err.print(f"interrupted; continue with --folder {target}", highlight=False)
            sys.exit(1)
    tell(target)
    err.print(f"{time.monotonic() - start:.0f} s; figures in {target}", highlight=False)


def _without_folder(argument: str) -> str:
    """The argument without its folder if it is an absolute path, since results files are given to others."""
    return Path(argument).name if os.path.isabs(argument) else argument


@cli.command("list")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", help="Where torch cases run.")
def list_cases(device: str) -> None:
    """List the cases."""
    from benchmarks.cases.registry import cases

    for name, entry in cases(device).items():
        click.echo(f"{name:32} {entry.label}")


@cli.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of results files."""
    import json

    from benchmarks.schema import SCHEMA

    click.echo(json.dumps(SCHEMA, indent=2))


@cli.command()
@click.argument("files", nargs=-1, required=True, type=FilePath())
@click.option("--html", type=FilePath(), help="Write the report as an HTML file that needs no network.")
@click.option("--csv", "csv_path", type=FilePath(), help="Write every figure as a row of a csv file.")
@click.option("--markdown", is_flag=True, help="Print the headline table as Markdown.")
def report(files: tuple[Path, ...], html: Path | None, csv_path: Path | None, markdown: bool) -> None:
    """Show results as a table on stdout or as files. Several FILES are shown side by side and never merged."""
    from benchmarks.html import write_report
    from benchmarks.results import load, write_csv
    from benchmarks.tables import markdown_tables, show

    results = [load(path) for path in files]
    if csv_path is not None:
        write_csv(results, csv_path)
    if html is not None:
        write_report(results, html)
    if markdown:
        click.echo("\n\n".join(markdown_tables(one) for one in results))
    elif html is None and csv_path is None:
        for one in results:
            show(one)


@cli.command()
@click.argument("old", type=FilePath())
@click.argument("new", type=FilePath())
@ranged("--tolerance", options.TOLERANCE, "Largest slow-down that is accepted, as a share.", default=0.05)
def compare(old: Path, new: Path, tolerance: float) -> None:
    """Compare two runs of this project.

    The exit code is 1 if the code got slower or its messages larger, by more than noise explains.
    """
    from benchmarks.compare import TOO_BUSY
    from benchmarks.compare import compare as judge
    from benchmarks.results import load
    from benchmarks.tables import show_comparison

    found = judge(load(old), load(new), tolerance)
    show_comparison(found)
    if any(comparison.verdict == TOO_BUSY for comparison in found):
        err.print(
            "the machine was busy in at least one run, so only large changes show; measure again on a quiet machine"
        )
    if any(comparison.regression for comparison in found):
        sys.exit(1)


def main() -> None:
    """Run the command line; an expected error becomes one line of advice and exit code 1, wrong usage exit code 2."""
    with errors_as_advice(BenchmarkError, FederationError, wrong_usage=WRONG_USAGE):
        cli(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()
