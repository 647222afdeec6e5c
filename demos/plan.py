"""`demos plan`: what a round would cost, and why."""

from __future__ import annotations

import click

from demos.console import out, print_json
from demos.options import JSON, ranged
from fl import options


@click.command("plan")
@ranged("--length", options.LENGTH, "Number of values in an update.", default=1_000_000)
@ranged("--clients", options.BANKS, "Largest number of clients in a round.", default=8)
@ranged("--value-bits", options.VALUE_BITS, "Bits of a quantised value, including the sign.", default=16)
@ranged("--clip", options.CLIP, "Values outside [-clip, clip] are set to the nearer end.", default=1.0)
@ranged("--max-weight", options.MAX_WEIGHT, "Largest weight. Weights are integers in 1..max-weight.", default=1)
@JSON
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
        out.print(plan.describe())
