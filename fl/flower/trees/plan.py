"""The sums of a run of trees over Flower, known before the first, and its plan on the command line.

`fl.flower.federation_plan` has the plan itself.

# Strategy: in one process every sum has a plan of rounds of its own, with integers of the size at which a bank sends
# least (`fl.trees.training.cut_for`). Over Flower one plan of rounds stands in every party file, so all sums have
# integers of one size: the largest that the number of banks allows. A sum of so few integers mostly fits one
# ciphertext, or a few; docs/adr/0032-trees.md has what the choice costs.

    python -m fl.flower.trees.plan --schema schema.toml --member "Bank A" --member "Bank B" --member "Bank C" \
        --trees 10 --depth 4 --out FOLDER
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from fl.data.federation import Agreed, resolve_schema, without_rows
from fl.errors import AggregationError, FederationError
from fl.flower.errors import SettingsError
from fl.flower.federation_plan import FederationPlan, make_plan
from fl.flower.settings import PlanSettings
from fl.runs.asked import configuration
from fl.runs.plan import RunPlan
from fl.runs.tree_columns import TreeColumns
from fl.secure.cost import SealingCost, bits_for, clip_for, cost_of_integers
from fl.toml import literal
from fl.trees.gradients import LARGEST
from fl.trees.packing import packed_length
from fl.trees.progress import Progress
from fl.trees.settings import MOST_ROWS, Terms
from fl.trees.tables import MOST_LOSS
from fl.trees.training import CUTS

ANY_DAY = 0  # trees without shared counts ask for no day that all banks begin at


@dataclass(frozen=True)
class TreeCourse:
    """The sums of a run of trees. All of it is public.

    `terms`: of the training; their purpose is the plan's fingerprint. `cut`: bits of a packed integer.
    """

    terms: Terms
    columns: TreeColumns
    cut: int

    @classmethod
    def of(cls, plan: FederationPlan, run: RunPlan) -> TreeCourse:
        """`run`: of `plan.at`. Raises `SettingsError` for another plan, `AggregationError` where no sum can be made."""
        settings = plan.config.trees
        if settings is None:
            raise SettingsError("the plan: expected one of trees, with [trees], got one of a private run")
        columns = TreeColumns.of(run.source.table.schema, run.feature_names)
        terms = Terms(columns.columns, settings, len(plan.members), plan.fingerprint)
        return cls(terms, columns, _largest_cut(len(plan.members)))

    @property
    def most_sums(self) -> int:
        """A tree may end above its depth, and early stopping may end the training."""
        settings = self.terms.settings
        return 1 + settings.trees * settings.depth + (settings.patience > 0)

    @property
    def opening(self) -> int:
        """Packed integers of the first sum."""
        return packed_length(Progress.of(self.terms).request.widths, self.cut)

    def longest_level(self, rows: int) -> int:
        """At most so many packed integers has the sum of any level, where all banks together have `rows` rows."""
        return max(-(-self.level_bits(depth, rows) // self.cut) for depth in range(self.terms.settings.depth))

    def level_bits(self, depth: int, rows: int) -> int:
        """Most bits of the histograms of a level: gradients, hessians and rows of each cell, and a validation loss.

        Of two siblings the smaller is summed, so the nodes of a level hold at most half of all rows. A field has the
        bits of its node's rows, rounded up. By the concavity of the logarithm the fields are widest together where each
        node holds an equal part, but for one bit a field that rounding up may add.
        """
        settings = self.terms.settings
        nodes = 1 if depth == 0 else 1 << (depth - 1)
        held = max(rows if depth == 0 else -(-rows // (2 * nodes)), 1)
        rounded = 0 if depth == 0 else 1
        histograms = nodes * self._cells * (2 * (held * LARGEST).bit_length() + held.bit_length() + 3 * rounded)
        loss = ((rows * MOST_LOSS) << settings.weight_bits).bit_length() if settings.patience else 0
        return histograms + loss

    @property
    def _cells(self) -> int:
        """Most cells of a node's histogram: a bin or category each, and the missing values of a column of numbers."""
        return sum((column.categories or self.terms.settings.bins) + 1 for column in self.terms.columns)

    @property
    def settings(self) -> PlanSettings:
        """The [plan] of every party file: the quantisation step is 1, so that integers are summed exactly."""
        members, bits = self.terms.members, bits_for((1 << self.cut) - 1)
        longest = max(self.opening, self.longest_level(MOST_ROWS * members))
        return PlanSettings(members, clip_for(bits), bits, 1, longest)

    def cost(self, length: int) -> SealingCost:
        """What a sum of so many packed integers costs a bank."""
        return cost_of_integers(length, (1 << self.cut) - 1, self.terms.members)


def _largest_cut(members: int) -> int:
    """Bits of the largest integers that so many banks can sum. Raises `AggregationError`."""
    for cut in reversed(CUTS):
        try:
            cost_of_integers(1, (1 << cut) - 1, members)
        except AggregationError:
            continue
        return cut
    raise AggregationError(f"expected fewer banks: the sums of trees of {members:,} banks cannot be encrypted")


def main(arguments: list[str] | None = None) -> int:
    """The command line: make a plan without any data. Exit code 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m fl.flower.trees.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--name", default="network", help="of the run; another name is another plan")
    parser.add_argument("--trees", type=int, help="number of trees; default: 50, and each level takes a round")
    parser.add_argument("--depth", type=int, help="most splits between the root and a leaf; default: 4")
    parser.add_argument("--learning-rate", type=float, help="share of each tree's step that is taken; default: 0.2")
    parser.add_argument("--bins", type=int, help="most bins of a column of numbers; default: 64")
    parser.add_argument("--seed", type=int, default=0, help="of the validation customers, and of what trees draw")
    parser.add_argument("--schema", required=True, metavar="NAME|FILE", help="what the columns of every bank mean")
    parser.add_argument("--member", action="append", required=True, help="organisation of a bank; once for each")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the plan's files go")
    given = parser.parse_args(arguments)
    try:
        asked = {"trees": given.trees, "depth": given.depth, "learning_rate": given.learning_rate, "bins": given.bins}
        plan, course = planned(asked, given.schema, given.member, given.seed, given.name)
        path = plan.write(given.out)
    except (FederationError, OSError) as error:
        parser.error(str(error))
    lines = "\n".join(f"{name} = {literal(value)}" for name, value in vars(course.settings).items())
    sys.stdout.write(
        f"{path}\nfingerprint {plan.fingerprint}\nrounds {course.most_sums} at most: one sum for all bin edges, "
        f"one for each level of each tree\n\nin every party.toml:\n\nquorum = {len(plan.members)}\n\n[plan]\n{lines}\n"
    )
    return 0


def planned(
    asked: dict[str, float | int | None], schema: str, members: list[str], seed: int = 0, name: str = "network"
) -> tuple[FederationPlan, TreeCourse]:
    """The plan of a run of trees before anybody looks at a row. `asked`: options of `train`; None: not given.

    Raises what `make_plan` does.
    """
    meaning = resolve_schema("", schema)
    source = without_rows(meaning, members, seed, Agreed(ANY_DAY))
    plan = make_plan(configuration({**asked, **OF_TREES, "seed": seed}), source, name)
    return plan, TreeCourse.of(plan, plan.at(source))


# Options of `train` that every run of trees over Flower has.
OF_TREES = {"model": "trees", "no_dp": True, "no_shared_statistics": True}


if __name__ == "__main__":
    sys.exit(main())
