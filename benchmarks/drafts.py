"""How good an untouched draft of a schema is: average precision beside that with a schema edited by hand.

What it does: for each of the three made-up files of `benchmarks.foreign_files` and each seed, `measure` writes the
file, drafts its schema, and trains one federation without privacy with the draft and one with the schema that an
analyst would write. The seed is that of the rows and of the training, so that both see the same test rows.

One pair says little: among some hundred frauds of a test, luck moves average precision by .02. The salt under which
identifiers without a register are counted is drawn anew in every run, too. `mean` and `error` of a file are those of
the differences of its pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

import fl
from benchmarks.foreign_files import FOREIGN, Foreign
from fl.data.draft import draft_schema
from fl.durable import replace_durably

Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Average precision of the federated model on the test rows, with both schemas."""

    file: str
    seed: int
    drafted: float
    by_hand: float

    @property
    def difference(self) -> float:
        """Above 0 where the draft is better."""
        return self.drafted - self.by_hand


@dataclass(frozen=True)
class Compared:
    """One file. mean, error, least, most: of the differences; error: the standard error, None for one seed."""

    file: str
    seeds: int
    drafted: float
    by_hand: float
    mean: float
    error: float | None
    least: float
    most: float


def measure(rows: int, seeds: Sequence[int], say: Say) -> Iterator[Pair]:
    """A pair for every file and seed; each file has `rows` rows."""
    for of in FOREIGN:
        for seed in seeds:
            with TemporaryDirectory() as folder:
                pair = _pair(of, rows, seed, Path(folder))
            say(f"{of.name}, seed {seed}: {pair.drafted:.3f} drafted, {pair.by_hand:.3f} by hand")
            yield pair


def _pair(of: Foreign, rows: int, seed: int, folder: Path) -> Pair:
    data = of.write(folder / of.filename, of.make(seed, rows))
    found = {}
    for name, text in (("drafted", draft_schema(data)), ("by hand", of.edited)):
        schema = folder / f"{name}.toml"
        replace_durably(schema, text.encode())
        run = fl.train(
            data, schema=schema, run_dir=folder / name, clients=of.clients, no_dp=True, no_baselines=True, seed=seed
        )
        found[name] = float(run.result["metrics"]["average_precision"])
    return Pair(of.name, seed, found["drafted"], found["by hand"])


def compared(pairs: Sequence[Pair]) -> list[Compared]:
    """The pairs of each file together."""
    return [
        _compared(name, [pair for pair in pairs if pair.file == name])
        for name in dict.fromkeys(pair.file for pair in pairs)
    ]


def _compared(file: str, pairs: Sequence[Pair]) -> Compared:
    differences = [pair.difference for pair in pairs]
    return Compared(
        file,
        len(pairs),
        fmean(pair.drafted for pair in pairs),
        fmean(pair.by_hand for pair in pairs),
        fmean(differences),
        stdev(differences) / math.sqrt(len(pairs)) if len(pairs) > 1 else None,
        min(differences),
        max(differences),
    )


def as_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Every pair, and the figures of each file."""
    return {"pairs": [asdict(pair) for pair in pairs], "files": [asdict(each) for each in compared(pairs)]}


def show(pairs: Sequence[Pair]) -> None:
    """A table on stdout, a file a row."""
    table = Table(title="average precision with an untouched draft and with a schema by hand, means over seeds")
    table.add_column("file")
    for heading in ("seeds", "drafted", "by hand", "difference", "standard error", "least", "most"):
        table.add_column(heading, justify="right")
    for each in compared(pairs):
        error = "-" if each.error is None else f"{each.error:.4f}"
        differences = (f"{each.mean:+.4f}", error, f"{each.least:+.3f}", f"{each.most:+.3f}")
        table.add_row(each.file, str(each.seeds), f"{each.drafted:.3f}", f"{each.by_hand:.3f}", *differences)
    Console(markup=False, emoji=False).print(table)
