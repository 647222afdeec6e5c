"""`demos plan`: what a round would cost, and why."""

from __future__ import annotations

import click

from demos.console import out, print_json
from demos.options import Range
from fl import options


@click.command("plan")
@click.option("--length", default=1_000_000, type=Range(options.LENGTH), help="Number of values in an update.")
@click.option("--clients", default=8, type=Range(options.BANKS), help="Largest number of clients in a round.")
@click.option(
    "--value-bits", default=16, type=Range(options.VALUE_BITS), help="Bits of a quantised value, including the sign."
)
@click.option(
    "--clip", default=1.0, type=Range(options.CLIP), help="Values outside [-clip, clip] are set to the nearer end."
)
@click.option(
    "--max-weight",
    default=1,
    type=Range(options.MAX_WEIGHT),
    help="Largest weight. Weights are integers in 1..max-weight.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def plan_command(length: int, clients: int, value_bits: int, clip: float, max_weight: int, as_json: bool) -> None:
    """Choose the parameters of a round and show what they cost.

    \b
    python -m demos plan --length 1000000 --clients 64
    python -m demos plan --length 1000000 --clients 64 --value-bits 8 --json
    """
    import secagg

    plan = secagg.plan_round(length, clients, clip, value_bits, max_weight)
    if as_json:
        print_json(plan.as_dict())
    else:
        out.print(plan.describe(), highlight=False)
