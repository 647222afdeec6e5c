"""Commands that answer one question each, beside the cases of `run`: `robust`, `worth`, `poisoning`,
`drafts` and `trees`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from demos.console import err
from demos.options import JSON, FilePath, ranged
from fl import options

if TYPE_CHECKING:  # importing them takes seconds, which `--help` need not wait for
    from benchmarks.private_worth import Law, Noise
    from fl.rounds.attackers import AttackName
    from secagg.rules import RuleName


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@ranged("--trees", options.TREES, "Trees of the training. Default: 50 at depth 4 and 100 at depth 5, or 50.")
@ranged("--depth", options.TREE_DEPTH, "Most splits between the root and a leaf. Default: 4 and 5, or 4.")
@ranged("--rows", options.TREE_ROWS, "Rows of all banks together.", default=60_000)
@ranged("--columns", options.MEASURED_COLUMNS, "Columns of numbers.", default=30)
@ranged("--banks", options.SUMMING_BANKS, "Banks, each with an equal part of the rows.", default=10)
@ranged("--bins", options.BINS, "Most bins of a column.", default=64)
@ranged("--stock", options.STOCK_SUMS, "Sums of each level that go through TenSEAL as well; 0: none.", default=2)
@ranged("--seed", options.SEED, "Seed of the rows. Keys are never seeded.", default=0)
@JSON
def trees(
    trees: int | None,
    depth: int | None,
    rows: int,
    columns: int,
    banks: int,
    bins: int,
    stock: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure what boosted trees over encrypted sums cost, by level, beside TenSEAL and plain numpy.

    \b
    python -m benchmarks trees
    python -m benchmarks trees --trees 50 --depth 4 --stock 0
    python -m benchmarks trees --rows 3000 --columns 6 --banks 3 --trees 2 --depth 2 --json
    """
    import json

    from benchmarks import tree_cost

    grown = tree_cost.GROWN if trees is None and depth is None else ((depth or 4, trees or 50),)
    of = tree_cost.Rows(rows, columns, banks, bins, seed)
    found = tree_cost.measure(grown, of, stock, lambda line: err.print(line, highlight=False))
    if as_json:
        click.echo(json.dumps(tree_cost.as_json(found), indent=2))
    else:
        tree_cost.show(found)


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
