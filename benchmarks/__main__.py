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
from pathlib import Path
from types import FrameType

from benchmarks.errors import BenchmarkError, BenchmarkSettingsError, NothingInCommon, ResumeMismatch, UnlikeMachines
from fl import options
from fl.errors import FederationError
from fl.extras import advice

try:
    import click

    from benchmarks import studies
    from demos.console import err, errors_as_advice
    from demos.options import JSON, FilePath, ranged
except ModuleNotFoundError as absent:
    raise SystemExit(advice(absent)) from None  # on stderr, with exit code 1

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


for study in (studies.robust, studies.worth, studies.poisoning, studies.drafts, studies.trees):
    cli.add_command(study)


def main() -> None:
    """Run the command line; an expected error becomes one line of advice and exit code 1, wrong usage exit code 2."""
    with errors_as_advice(BenchmarkError, FederationError, wrong_usage=WRONG_USAGE):
        cli(prog_name="python -m benchmarks")


if __name__ == "__main__":
    main()
