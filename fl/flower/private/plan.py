"""The rounds of a private run, and its plan on the command line.

`fl.flower.federation_plan` has the plan itself.

    python -m fl.flower.private.plan --epsilon 3 --schema schema.toml --member "Bank A" ... --first-day 2024-01-01 \
        --register terminal=terminals.txt --out FOLDER
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
from dataclasses import dataclass
from pathlib import Path

from fl.data.federation import Agreed, resolve_schema, without_rows
from fl.data.schema import Schema
from fl.errors import FederationError
from fl.flower.federation_plan import FederationPlan, make_plan, read_register
from fl.flower.settings import PlanSettings
from fl.runs.asked import configuration
from fl.runs.plan import RunPlan
from fl.secure.cost import bits_for
from fl.toml import literal

CHUNK = 2**20  # counts in one sum: more of them are released in several rounds
EPOCH = dt.date(1970, 1, 1)


@dataclass(frozen=True)
class Course:
    """The rounds of a private run. `chunks`: integers in each sum of counts, in order. `dimension`: in each step's."""

    chunks: tuple[int, ...]
    steps: int
    dimension: int
    largest: int  # absolute value of an integer that a bank contributes

    @staticmethod
    def of(plan: RunPlan) -> Course:
        """Raises `AggregationError` for integers that no sum holds."""
        noise, counts = plan.joint_noise, 0 if plan.sharing is None else plan.sharing.length
        assert noise is not None
        chunks = tuple(min(CHUNK, counts - start) for start in range(0, counts, CHUNK))
        largest = max(noise.largest, 0 if plan.sharing is None else plan.sharing.largest)
        return Course(chunks, plan.config.rounds, noise.dimension, largest)

    @property
    def counts(self) -> int:
        """Integers in all sums of counts."""
        return sum(self.chunks)

    @property
    def rounds(self) -> int:
        return len(self.chunks) + self.steps

    def settings(self, banks: int) -> PlanSettings:
        """The [plan] of every party file: the quantisation step is 1, so that integers are summed exactly."""
        bits = bits_for(self.largest)
        return PlanSettings(banks, 2.0 ** (bits - 1) - 1, bits, 1, max((*self.chunks, self.dimension)))


def main(arguments: list[str] | None = None) -> int:
    """The command line: make a plan without any data. Exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m fl.flower.private.plan", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--name", default="network", help="of the run; another name is another plan")
    parser.add_argument("--epsilon", type=float, default=3.0, help="budget of every bank for the life of its data")
    parser.add_argument("--delta", type=float, default=1e-5, help="probability that the bound epsilon does not hold")
    parser.add_argument("--noise", choices=("shared", "own"), default="shared", help="shares of one noise, or each own")
    parser.add_argument("--steps", type=int, help="steps of all banks; default: 40")
    parser.add_argument("--seed", type=int, default=0, help="of the validation customers")
    parser.add_argument("--schema", required=True, metavar="NAME|FILE", help="what the columns of every bank mean")
    parser.add_argument("--member", action="append", required=True, help="organisation of a bank; once for each")
    parser.add_argument("--first-day", type=dt.date.fromisoformat, required=True, help="of the data, YYYY-MM-DD")
    parser.add_argument("--register", action="append", default=[], metavar="KIND=FILE", help="public list of parties")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the plan's files go")
    given = parser.parse_args(arguments)
    try:
        plan = _asked(given)
        course = Course.of(plan.at(without_rows(_schema(given), plan.members, given.seed, plan.agreed)))
        path = plan.write(given.out)
    except (FederationError, OSError) as error:
        parser.error(str(error))
    settings = course.settings(len(plan.members))
    lines = "\n".join(f"{name} = {literal(value)}" for name, value in vars(settings).items())
    sys.stdout.write(
        f"{path}\nfingerprint {plan.fingerprint}\nrounds {course.rounds}: {len(course.chunks)} of counts, "
        f"{course.steps} steps\n\nin every party.toml:\n\nquorum = {len(plan.members)}\n\n[plan]\n{lines}\n"
    )
    return 0


def _schema(given: argparse.Namespace) -> Schema:
    return resolve_schema("", given.schema)


def _asked(given: argparse.Namespace) -> FederationPlan:
    named = dict(each.partition("=")[::2] for each in given.register)
    registers = {kind: read_register(Path(file)) for kind, file in named.items()}
    agreed = Agreed((given.first_day - EPOCH).days, registers)
    asked = {"epsilon": given.epsilon, "delta": given.delta, "noise": given.noise, "rounds": given.steps}
    config = configuration({**asked, "model": "noisy-or", "seed": given.seed})
    return make_plan(config, without_rows(_schema(given), given.member, given.seed, agreed), given.name)


if __name__ == "__main__":
    sys.exit(main())
