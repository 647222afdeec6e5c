"""`demos round`: one round on random updates, with what it cost, who saw what, and the comparison with plaintext."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from demos.console import out, print_json, progress, seconds, size, table
from demos.options import JSON, ranged
from fl import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from secagg import RoundPlan, RoundResult


@click.command("round")
@ranged("--clients", options.BANKS, "Number of clients.", default=8)
@ranged("--length", options.LENGTH, "Number of values in an update.", default=1_000_000)
@ranged("--value-bits", options.VALUE_BITS, "Bits of a quantised value, including the sign.", default=16)
@ranged("--clip", options.CLIP, "Values outside [-clip, clip] are set to the nearer end.", default=1.0)
@ranged("--max-weight", options.MAX_WEIGHT, "Largest weight. Weights are random integers in 1..max-weight.", default=1)
@ranged("--engine", options.ENGINE, "Encryption engine.", default="auto")
@ranged("--quorum", options.ROUND_QUORUM, "Smallest number of contributions whose sum may be released.", default=3)
@click.option(
    "--no-masking", is_flag=True, help="Encrypt without masks. Then the aggregator and the key holder must be trusted."
)
@ranged("--seed", options.SEED, "Seed of the random updates. Keys and encryption are never seeded.", default=0)
@JSON
def round_command(
    clients: int,
    length: int,
    value_bits: int,
    clip: float,
    max_weight: int,
    engine: str,
    quorum: int,
    no_masking: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Run one encrypted, masked round in this process and check the result exactly.

    \b
    python -m demos round --clients 8 --length 1000000 --value-bits 16
    python -m demos round --clients 20 --length 50000 --max-weight 100 --json
    """
    import numpy as np

    import secagg

    plan = secagg.plan_round(length, clients, clip, value_bits, max_weight)
    rng = np.random.default_rng(seed)
    updates = [rng.normal(scale=0.3 * clip, size=length).astype(np.float32) for _ in range(clients)]
    weights = [int(w) for w in rng.integers(1, max_weight + 1, size=clients)]
    start = time.perf_counter()
    with progress("contributions", clients) as advance:
        result = secagg.run_round(
            updates,
            weights,
            plan=plan,
            quorum=quorum,
            engine=engine,
            masking=not no_masking,
            on_contribution=advance,
        )
    wall = time.perf_counter() - start
    report = _report(plan, result, updates, weights, wall, masking=not no_masking, engine=engine)
    if as_json:
        print_json(report)
    else:
        _show(plan, report)


def _report(
    plan: RoundPlan,
    result: RoundResult,
    updates: list[NDArray[np.float32]],
    weights: list[int],
    wall: float,
    masking: bool,
    engine: str,
) -> dict[str, Any]:
    import numpy as np

    from secagg.engines import resolve_engine
    from secagg.masks import neighbours_needed

    clients = len(updates)
    start = time.perf_counter()
    exact = np.zeros(plan.length, dtype=np.longdouble)
    for update, weight in zip(updates, weights, strict=True):
        exact += weight * np.clip(update.astype(np.float64), -plan.clip, plan.clip)
    exact /= sum(weights)
    plaintext = time.perf_counter() - start
    integers = np.zeros(plan.length, dtype=np.int64)
    for update, weight in zip(updates, weights, strict=True):
        scaled = np.clip(update.astype(np.float64) * (1.0 / plan.step), -plan.max_value, plan.max_value)
        integers += weight * np.rint(scaled).astype(np.int64)
    peers = neighbours_needed(clients) if masking else 0
    parts = {name: part.seconds for name, part in result.parts.items()}
    return {
        "clients": clients,
        "length": plan.length,
        "value_bits": plan.value_bits,
        "engine": resolve_engine(engine),
        "masking": masking,
        "sum_exact": bool(np.array_equal(integers, result.sums)),
        "max_abs_error": float(np.abs(result.average - exact).max()),
        "error_bound": result.error_bound,
        "total_weight": result.total_weight,
        "contributors": result.contributors,
        "clipped": sum(result.clipped),
        "bytes_per_value": result.wire_bytes["contribution"] / plan.length,
        "bytes": dict(result.wire_bytes),
        "stages": {name: {"seconds": stage.seconds, "bytes": stage.bytes} for name, stage in result.stages.items()},
        "masks": {
            "neighbours": peers,
            "bytes_added_per_client": result.wire_bytes["join"] + result.wire_bytes["roster"] if masking else 0,
            # A client expands one term per neighbour and one for its own seed.
            "seconds_per_neighbour": parts.get("mask expansion", 0.0) / (clients * (peers + 1)),
            "seconds_key_agreement_per_client": parts.get("key agreement", 0.0) / clients,
            "seconds_key_holder_seed_masks": parts.get("seed masks", 0.0),
            # None with the engine "fast", which checks in the loops that decrypt: there is no time of the checks alone.
            "seconds_key_holder_checks": parts.get("checks of the sum"),
        },
        "seconds": {"round": wall, "plaintext_mean": plaintext},
        "plan": plan.as_dict(),
    }


def _show(plan: RoundPlan, report: dict[str, Any]) -> None:
    out.print(plan.describe())
    out.print()
    stages = [
        (name, seconds(stage["seconds"]), size(stage["bytes"]) if stage["bytes"] else "-")
        for name, stage in report["stages"].items()
    ]
    title = "Seconds and bytes, all clients together"
    out.print(table(title, "stage", "seconds", "data", rows=stages, right=(1, 2)))
    n, masks = report["clients"], report["masks"]
    seen = table("Who saw what", "party", "sends", "sees of the updates")
    seen.add_row(
        "each client",
        f"{size(report['bytes']['contribution'])}, {report['bytes_per_value']:.2f} bytes per value",
        "its own, and the sum",
    )
    locks = "masked ciphertexts" if report["masking"] else "ciphertexts"
    seen.add_row("aggregator", size(report["bytes"]["sum"]), f"nothing: {n} {locks} and their sum")
    seen.add_row("key holder", size(report["bytes"]["release"]), "the sum, once, and no single update")
    out.print(seen)
    if report["masking"]:
        timed = masks["seconds_key_holder_checks"]
        checks = "as part of decrypting" if timed is None else seconds(timed)
        out.print(
            f"masks: {masks['bytes_added_per_client']:,} bytes per client, "
            f"{seconds(masks['seconds_per_neighbour'])} per neighbour ({masks['neighbours']}), key holder: seed masks "
            f"{seconds(masks['seconds_key_holder_seed_masks'])}, checks {checks}",
        )
    verdict = "exact" if report["sum_exact"] else ("WRONG", "bold red")
    rest = (
        f"; largest error of the average {report['max_abs_error']:.3g}, bound "
        f"{report['error_bound']:.3g}; round {seconds(report['seconds']['round'])}, plaintext mean "
        f"{seconds(report['seconds']['plaintext_mean'])}"
    )
    out.print(Text.assemble("integer sums: ", verdict, rest))
