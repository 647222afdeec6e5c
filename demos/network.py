"""`demos network`: the same encrypted rounds between real processes, carried by Flower over TLS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from demos.console import err, out, print_json, progress, seconds, size, table
from demos.options import JSON, FilePath, ranged
from fl import options


@click.command("network")
@ranged("--banks", options.NETWORK_BANKS, "Number of banks. Each has processes of its own.", default=3)
@ranged("--rounds", options.SOME_ROUNDS, "Number of rounds; with --epsilon of steps. Default: 3, or by epsilon.")
@ranged("--customers", options.NETWORK_CUSTOMERS, "Number of customers in the embedded data. Default: 150, or 900.")
@ranged("--epsilon", options.EPSILON, "Train under this privacy budget of each bank. Default: without privacy.")
@ranged("--delta", options.DELTA, "Probability that the bound epsilon does not hold. Default: 1e-05.")
@ranged("--noise", options.Choice(("shared", "own")), "Shares of one noise, or each bank its own. Default: shared.")
@ranged("--seed", options.SEED, "Seed of data, first model and batch order. Keys are never seeded.", default=1)
@ranged("--timeout", options.TIMEOUT, "Stop the run after this many seconds. Default: 600, or 3600.")
@click.option(
    "--keep", type=FilePath(), help="Keep certificates, logs, ledger and journals in this folder, which must not exist."
)
@JSON
def network(
    banks: int,
    rounds: int | None,
    customers: int | None,
    epsilon: float | None,
    delta: float | None,
    noise: str | None,
    seed: int,
    timeout: float | None,
    keep: str | None,
    as_json: bool,
) -> None:
    """Train at banks in separate processes, with a key holder in its own, over TLS on this machine.

    Starts a Flower SuperLink, and a SuperNode and a resident process for each party, with node authentication and a
    temporary certificate authority. Stops all of them at the end, and compares the model with that of an in-process
    run. With --epsilon the banks first release noisy counts of frauds, and then take noisy steps; each pays in its own
    ledger, and compares at home. A round takes 15 to 25 seconds, and 20 steps are the default at epsilon 3.

    \b
    python -m demos network --banks 3 --rounds 3
    python -m demos network --banks 4 --json
    python -m demos network --epsilon 3
    """
    import signal
    import tempfile
    from pathlib import Path

    # `kill` and a terminal's hang-up stop all started processes, as Ctrl-C does. Ctrl-C does so even if a script's `&`
    # made this process ignore it. fl/flower/keeper.py stops them if this process ends without a signal it can handle.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    private = {"epsilon": epsilon, "delta": delta, "noise": noise}
    if epsilon is None and (delta is not None or noise is not None):
        raise click.UsageError("--delta and --noise say how a budget is spent: give --epsilon as well")
    customers = customers or (150 if epsilon is None else 900)
    timeout = timeout or (600.0 if epsilon is None else 3600.0)
    if keep is not None:
        Path(keep).mkdir(parents=True)
        report = _played(Path(keep).absolute(), banks, rounds, customers, seed, timeout, private)
    else:
        with tempfile.TemporaryDirectory(prefix="secagg-network-") as folder:
            report = _played(Path(folder), banks, rounds, customers, seed, timeout, private)
    if as_json:
        print_json(report)
    elif epsilon is None:
        _show(report)
    else:
        from demos.network_private import show

        show(report)
    if not report["models_equal"]:
        expected = "differ" if epsilon is not None else "differ from the model of the in-process run"
        raise click.ClickException(f"the banks' models {expected}")


def _played(
    folder: Any,
    banks: int,
    rounds: int | None,
    customers: int,
    seed: int,
    timeout: float,
    private: Mapping[str, Any],
) -> dict[str, Any]:
    shared = {"data": "simulated", "banks": banks, "customers": customers, "seed": seed}
    if private["epsilon"] is not None:
        from demos.network_private import played

        # Enough frauds that each bank can measure at home what the run was worth to it.
        return played(folder, {**shared, "fraud_share": 0.02}, {**private, "rounds": rounds}, timeout)
    return _played_openly(folder, shared, banks, 3 if rounds is None else rounds, timeout)


def _played_openly(folder: Any, shared: dict[str, Any], banks: int, rounds: int, timeout: float) -> dict[str, Any]:
    from fl.flower.comparison import in_process_hash
    from fl.flower.local_network import LocalNetwork
    from fl.flower.local_parties import LocalParties
    from fl.flower.settings import PlanSettings

    plan = PlanSettings(max_clients=banks, clip=1.0, value_bits=20, max_weight=1, max_length=1_000_000)
    tables = {f"bank-{number}": {**shared, "bank": f"bank-{number}"} for number in range(banks)}
    parties = LocalParties(folder / "parties", plan, tables, reports={"hashes": ["model_hash"]})
    parties.make()
    err.print(f"starting a SuperLink, a key holder and {banks} banks on 127.0.0.1")
    with LocalNetwork(parties, folder / "network") as running:
        running.submit(rounds)
        with progress(f"rounds at {banks} banks", rounds) as advance:
            result = running.result(timeout, on_round=advance)
        processes = len(running.processes.marked())
    left = running.processes.marked()
    hashes = {bank: said.get("model_hash") for bank, said in sorted(result["reports"].items())}
    expected = in_process_hash({**shared, "bank": ""}, plan, rounds)
    return {
        "banks": banks,
        "rounds": result["rounds"],
        "model_hashes": hashes,
        "in_process_model_hash": expected,
        "models_equal": len(hashes) == banks and set(hashes.values()) == {expected},
        "processes": processes,
        "processes_left": len(left),
        "largest_message": result["largest_message"],
        "contribution_bytes": result["contribution_bytes"],
        "aggregator_peak_memory": result["peak_memory"],
        "error_bound": result["error_bound"],
    }


def _show(report: dict[str, Any]) -> None:
    rounds = table(
        f"Rounds at {report['banks']} banks", "round", "members", "training", "sealing", "adding", "opening", "all",
        right=(0, 2, 3, 4, 5, 6),
    )  # fmt: skip
    for each in report["rounds"]:
        times = [seconds(each[f"{part}_seconds"]) for part in ("train", "seal", "sum", "open")]
        rounds.add_row(str(each["number"]), ", ".join(sorted(each["members"])), *times, seconds(each["seconds"]))
    out.print(rounds)
    verdict = "equal" if report["models_equal"] else ("DIFFERENT", "bold red")
    one = f"model after {len(report['rounds'])} rounds: {report['in_process_model_hash'][:16]} in one process, "
    out.print(Text.assemble(one, verdict, " at all banks"))
    out.print(
        f"{report['processes']} processes, {report['processes_left']} left; largest message "
        f"{size(report['largest_message'])}; aggregator's peak memory {size(report['aggregator_peak_memory'])}\n"
        "Flower sets the time of a round: a SuperNode looks for messages every three seconds",
    )
