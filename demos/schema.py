"""`demos schema`: draft a schema file from a csv, check one against a file, or write the embedded data as a csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from demos.console import err, out, print_json, table, visible
from demos.options import FilePath, ranged
from fl import options

if TYPE_CHECKING:
    from fl.data.schema import Schema
    from fl.data.split import Period, Periods

_FILE = FilePath(dir_okay=False)
SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US


@click.command("schema")
@click.option("--init", "draft_from", type=_FILE, metavar="FILE.csv", help="Draft a schema for this file and print it.")
@ranged("--label", options.COLUMN, "With --init: the column that says which rows are fraud.")
@ranged(
    "--check",
    options.FILE,
    "Check a schema, and whether FILE fits it if FILE is given.",
    name="checked",
    metavar="NAME|FILE.toml",
)
@click.option("--simulate", "written", type=_FILE, metavar="FILE.csv", help="Write the embedded data to this file.")
@ranged("--customers", options.CUSTOMERS, "With --simulate: number of customers.", default=3000)
@ranged("--fraud-share", options.FRAUD_SHARE, "With --simulate: share of frauds.", default=0.01)
@ranged("--seed", options.SEED, "With --simulate: seed of the data.", default=0)
@click.option("--json", "as_json", is_flag=True, help="With --check: print one JSON object on stdout and nothing else.")
@click.argument("file", required=False, type=_FILE)
def schema(
    draft_from: Path | None,
    label: str | None,
    checked: str | None,
    written: Path | None,
    customers: int,
    fraud_share: float,
    seed: int,
    as_json: bool,
    file: Path | None,
) -> None:
    """Draft or check a schema file, which says what the columns of a transaction file mean.

    \b
    python -m demos schema --simulate some.csv
    python -m demos schema --init some.csv > some.toml
    python -m demos schema --check some.toml some.csv
    python -m demos train --data some.csv --schema some.toml --no-dp
    """
    asked = [option for option in (draft_from, checked, written) if option is not None]
    if len(asked) != 1:
        raise click.UsageError("give exactly one of --init, --check and --simulate")
    if file is not None and checked is None:
        raise click.UsageError(f"unexpected argument {file}: only --check takes a second file")
    if draft_from is not None:
        _draft(draft_from, label)
    elif written is not None:
        _simulate(written, customers, fraud_share, seed)
    else:
        assert checked is not None
        _check(checked, file, as_json)


def _draft(file: Path, label: str | None) -> None:
    from fl.data.draft import draft

    drafted = draft(file, label)
    click.echo(drafted.text, nl=False)
    err.print(f"detected: {drafted.written}")
    for warning in drafted.warnings:
        err.print(f"warning: {visible(warning)}", style="bold")
    err.print("Read every line of this draft: a wrong guess can give the label to the model as an input.")


def _simulate(file: Path, customers: int, fraud_share: float, seed: int) -> None:
    from fl.data.simulate import embedded, simulate
    from fl.durable import replace_durably
    from fl.spreadsheet import csv_bytes

    frame = simulate(embedded(customers, fraud_share=fraud_share, seed=seed))
    replace_durably(file, csv_bytes(frame))
    err.print(
        f"{len(frame)} transactions, {int(frame.IS_FRAUD.sum())} frauds: {file}",
    )


def _check(name: str, file: Path | None, as_json: bool) -> None:
    from fl.data.draft import disguised_inputs
    from fl.data.features import features
    from fl.data.formats import sniffed
    from fl.data.reading import load_transactions
    from fl.data.scaling import by_bank, clipped_shares
    from fl.data.schema_file import load_schema
    from fl.data.split import periods_for

    schema = load_schema(name)
    told: dict[str, str] = {}
    described: dict[str, Any] = {
        "schema": schema.name,
        "sha256": schema.sha256,
        "columns": list(schema.columns_read()),
        "never": list(schema.never),
        "features": [feature.name for feature in features(schema)],
    }
    if file is not None:
        rows = load_transactions(file, schema, bank_column=schema.partition)
        assert rows.label is not None
        described |= {"rows": len(rows), "frauds": int(rows.label.sum())}
        described |= {
            "first_day": schema.day_name(int(rows.day[0])),
            "last_day": schema.day_name(int(rows.day[-1])),
        }
        periods = periods_for(schema, rows)
        described["periods"] = periods.described
        told = _told(schema, periods)
        clipped = clipped_shares(by_bank(rows))
        described["clipped"] = {each.column: {bank: round(s, 6) for bank, s in each.shares.items()} for each in clipped}
        described["file"] = str(sniffed(file))
        described["warnings"] = [
            *(each.warning for each in clipped if each.warning is not None),
            *disguised_inputs(file, schema),
        ]
    if as_json:
        print_json(described)
        return
    for warning in described.get("warnings", ()):
        err.print(f"warning: {warning}", markup=False)
    shown = {key: value for key, value in described.items() if key not in ("clipped", "warnings", "periods")} | told
    if "clipped" in described:
        shown["largest clipped share"] = ", ".join(
            f"{column} {100 * max(shares.values()):.2g} %" for column, shares in described["clipped"].items()
        )
    rows = [(key, ", ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in shown.items()]
    out.print(table(f"Schema {schema.name}", "what", "value", rows=rows))


def _told(schema: Schema, periods: Periods) -> dict[str, str]:
    """The periods for people: the times that fractions come to, or else what the schema says."""
    if periods.train is None or schema.time is None or not schema.time.measures_days:
        return {"split": _listed(periods.described)}
    named = {"training": periods.train}
    named |= {f"test {number}": test for number, test in enumerate(periods.test, 1)}
    return {name: _span(schema, each) for name, each in named.items()}


def _listed(described: dict[str, object]) -> str:
    """Keys and values as a person writes them."""
    shown = {name: ", ".join(map(str, each)) if isinstance(each, list) else each for name, each in described.items()}
    return "; ".join(f"{name} {each}" for name, each in shown.items())


def _span(schema: Schema, period: Period) -> str:
    """First and last day, where it is whole days; else the first moment and the one at which it is over."""
    if period.start % DAY_US == period.end % DAY_US == 0:
        return f"{schema.day_name(period.start // DAY_US)} to {schema.day_name(period.end // DAY_US - 1)}"
    first, over = (schema.moment_name(each - each % SECOND_US) for each in (period.start, period.end))
    return f"{first} until {over}"
