"""`demos network`: the same encrypted rounds between real processes, carried by Flower over TLS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from demos.console import err, out, print_json, progress, seconds, size, table
from demos.options import JSON, FilePath, ranged
from fl import options
from fl.plural import plural

if TYPE_CHECKING:
    from fl.flower.local_data import LocalData
    from fl.flower.local_parties import AppTable
    from fl.secure.rule_settings import RobustSettings
    from secagg.rules import RuleName

MODELS = ("mlp", "trees")
ROBUST_BANKS = 5  # of three, a rule may keep two, and of two each learns the other's update


@click.command("network")
@click.option("--data", type=FilePath(dir_okay=False), metavar="FILE", help="Your own transactions. Default: embedded.")
@ranged("--schema", options.FILE, "With --data: what its columns mean.", metavar="NAME|FILE.toml")
@ranged("--partition", options.Text("a column"), "With --data: the bank of each row.", metavar="COLUMN|FILE.csv:COLUMN")
@ranged("--banks", options.NETWORK_BANKS, "Number of banks, with --data of random ones. Default: 3, or the schema's.")
@ranged("--model", options.Choice(MODELS), "A network, or boosted trees. Default: mlp; noisy-or with --epsilon.")
@ranged("--rounds", options.SOME_ROUNDS, "Number of rounds; with --epsilon, of steps. Default: 3, or 40 steps.")
@ranged("--trees", options.TREES, "With --model trees: number of trees. Default: 5.")
@ranged("--depth", options.TREE_DEPTH, "With --model trees: most splits between root and leaf. Default: 3.")
@ranged("--learning-rate", options.TREE_RATE, "With --model trees: share of each tree's step. Default: 0.2.")
@ranged("--bins", options.BINS, "With --model trees: most bins of a column of numbers. Default: 64.")
@ranged("--customers", options.NETWORK_CUSTOMERS, "Number of customers in the embedded data. Default: 150, or 900.")
@ranged("--epsilon", options.EPSILON, "Train under this privacy budget of each bank. Default: without privacy.")
@ranged("--delta", options.DELTA, "Probability that the bound epsilon does not hold. Default: 1e-05.")
@ranged("--noise", options.Choice(("shared", "own")), "Shares of one noise, or each bank its own. Default: shared.")
@ranged("--robust", options.RULE, "Rule that leaves out banks whose updates are unlike the others. Default: none.")
@ranged("--byzantine", options.ATTACKERS, "With --robust: number of attackers that the rule is to withstand.")
@ranged("--seed", options.SEED, "Seed of data, first model and batch order. Keys are never seeded.", default=1)
@ranged("--timeout", options.TIMEOUT, "Stop the run after this many seconds. Default: 600, or 3600.")
@click.option(
    "--keep", type=FilePath(), help="Keep certificates, logs, ledger and journals in this folder, which must not exist."
)
@JSON
def network(
    data: Path | None,
    schema: str | None,
    partition: str | None,
    banks: int | None,
    model: str | None,
    rounds: int | None,
    trees: int | None,
    depth: int | None,
    learning_rate: float | None,
    bins: int | None,
    customers: int | None,
    epsilon: float | None,
    delta: float | None,
    noise: str | None,
    robust: RuleName | None,
    byzantine: int | None,
    seed: int,
    timeout: float | None,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Train at banks in separate processes, with a key holder in its own, over TLS on this machine.

    Starts a Flower SuperLink, and a SuperNode and a resident process for each party, with node authentication and a
    temporary certificate authority. Stops all of them at the end, and compares the model with that of an in-process
    run. With --epsilon the banks first release noisy counts of frauds, and then take noisy steps; each pays in its own
    ledger, and compares at home. A round takes 15 to 25 seconds, and a private run has 40 steps by default.

    With --robust a rule leaves out banks whose updates are unlike the others, before they contribute. It sees inner
    products of encrypted sketches, and nobody sees an update. Such a round has one exchange more, or four where updates
    have more than 8,192 values.

    With --model trees they grow boosted trees: one sum for all bin edges, then one for each level of each tree, so that
    trees x depth + 1 rounds are the most. The trees are those of one process, bit for bit.

    With --data the banks train on your own file. Each bank's process reads the whole file and takes its own rows, since
    you run all of them; in a deployment each bank has a file of its own (fl/flower/deploy). Where the schema leaves
    scaling constants to the banks, as a draft does, give the schema.toml in the folder of a run of `demos train`.

    \b
    python -m demos network --banks 3 --rounds 3
    python -m demos network --banks 4 --json
    python -m demos network --epsilon 3
    python -m demos network --model trees --trees 3 --depth 2
    python -m demos network --robust nnm --byzantine 1
    python -m demos network --data some.csv --schema runs/NAME/schema.toml
    """
    import signal
    import tempfile

    # `kill` and a terminal's hang-up stop all started processes, as Ctrl-C does. Ctrl-C does so even if a script's `&`
    # made this process ignore it. fl/flower/keeper.py stops them if this process ends without a signal it can handle.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    private = {"epsilon": epsilon, "delta": delta, "noise": noise}
    if epsilon is None and (delta is not None or noise is not None):
        raise click.UsageError("--delta and --noise say how a budget is spent: give --epsilon as well")
    if data is None and (schema is not None or partition is not None):
        raise click.UsageError("--schema and --partition say what a file holds: give --data FILE as well")
    if data is not None and customers is not None:
        raise click.UsageError("--customers is a number of the embedded data: leave it out, or leave out --data")
    if partition is not None and banks is not None:
        raise click.UsageError("--partition and --banks both fix the banks: give one of them")
    of_trees = {"trees": trees, "depth": depth, "learning_rate": learning_rate, "bins": bins}
    _refuse_beside_model(model, of_trees, rounds=rounds, private=epsilon is not None, robust=robust is not None)
    rule = _rule(robust, byzantine, private=epsilon is not None)
    file = None if data is None else OwnFile(data, schema, partition, banks)
    here = file or banks or (3 if rule is None else ROBUST_BANKS)
    is_short = epsilon is None and model != "trees"
    customers = customers or (150 if is_short else 900)
    timeout = timeout or (600.0 if is_short else 3600.0)
    grown = of_trees if model == "trees" else None
    if keep is not None:
        keep.mkdir(parents=True)
        report = _played(keep.absolute(), here, rounds, customers, seed, timeout, private, rule, grown)
    else:
        with tempfile.TemporaryDirectory(prefix="secagg-network-") as folder:
            report = _played(Path(folder), here, rounds, customers, seed, timeout, private, rule, grown)
    if as_json:
        print_json(report)
    elif model == "trees":
        from demos.network_trees import show as show_trees

        show_trees(report)
    elif epsilon is None:
        _show(report)
    else:
        from demos.network_private import show

        show(report)
    if not report["models_equal"]:
        expected = "differ" if epsilon is not None else "differ from the model of the in-process run"
        raise click.ClickException(f"the banks' models {expected}")


def _refuse_beside_model(
    model: str | None, of_trees: Mapping[str, Any], *, rounds: int | None, private: bool, robust: bool
) -> None:
    """Refuse options that do not fit the model."""
    if model != "trees":
        if given := [name for name, value in of_trees.items() if value is not None]:
            raise click.UsageError(f"--{given[0].replace('_', '-')} is an option of trees: give --model trees as well")
        if model is not None and private:
            raise click.UsageError("--epsilon trains the noisy-or model: leave out --model, or leave out --epsilon")
        return
    if private:
        raise click.UsageError(
            "--epsilon asks for differential privacy, and the sums of trees are exact and have none: leave out one of "
            "the two"
        )
    if robust:
        raise click.UsageError(
            "--robust judges each bank by its own update, and trees grow by sums of all banks' histograms: leave it out"
        )
    if rounds is not None:
        raise click.UsageError("--rounds follow from --trees and --depth, a round for each level: leave it out")


def _rule(robust: RuleName | None, byzantine: int | None, *, private: bool) -> RobustSettings | None:
    """What --robust and --byzantine ask for; None for plain rounds."""
    if robust is None:
        if byzantine is not None:
            raise click.UsageError("--byzantine is a number for a rule: give --robust RULE as well")
        return None
    if private:
        raise click.UsageError(
            "--robust judges each bank by its own update, and a private run of a network sums steps of all banks: "
            "leave out --epsilon, or use demos train --robust with --model mlp --noise own"
        )
    from fl.secure.rule_settings import RobustSettings

    return RobustSettings(rule=robust, byzantine=byzantine)


@dataclass(frozen=True)
class OwnFile:
    """What a person says about a file. banks: a number of random ones."""

    data: Path
    schema: str | None
    partition: str | None
    banks: int | None

    def prepared(self, folder: Path, seed: int, *, calendar: bool = False) -> LocalData:
        """Read it, and write into `folder` what banks need beside it."""
        from fl.flower.local_data import prepare

        return prepare(folder, self.data, self.schema, self.partition, self.banks, seed, calendar=calendar)


def _require_possible(rule: RobustSettings, banks: int) -> None:
    """Raise `AggregationError` where the rule may keep fewer banks than an average hides."""
    from fl.errors import AggregationError

    rule.require_enough(banks)
    if rule.fewest_kept(banks) < options.LEAST_BANKS:
        raise AggregationError(
            f"--robust {rule.rule} may keep {rule.fewest_kept(banks)} of {banks} banks, and an encrypted average needs "
            f"at least {options.LEAST_BANKS}: raise --banks, or choose outliers or nnm"
        )


def _played(
    folder: Path,
    source: OwnFile | int,
    rounds: int | None,
    customers: int,
    seed: int,
    timeout: float,
    private: Mapping[str, Any],
    rule: RobustSettings | None,
    grown: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """source: a file, or a number of banks of the embedded data. rule: leaves banks out; None for plain rounds.

    grown: options of trees; None for another model.
    """
    if grown is not None:
        from demos import network_trees

        if isinstance(source, OwnFile):
            prepared = source.prepared(folder / "data", seed, calendar=True)
            return network_trees.played_on(folder, prepared, grown, timeout)
        return network_trees.played(folder, _simulated(source, customers, seed), grown, timeout)
    if private["epsilon"] is not None:
        from demos import network_private

        asked = {**private, "rounds": rounds}
        if isinstance(source, OwnFile):
            return network_private.played_on(
                folder, source.prepared(folder / "data", seed, calendar=True), asked, timeout
            )
        return network_private.played(folder, _simulated(source, customers, seed), asked, timeout)
    rounds = 3 if rounds is None else rounds
    if isinstance(source, OwnFile):
        made = source.prepared(folder / "data", seed)
        return _played_openly(folder, made.tables, rounds, timeout, made.waits, rule)
    shared = {"data": "simulated", "banks": source, "customers": customers, "seed": seed}
    tables = {f"bank-{number}": {**shared, "bank": f"bank-{number}"} for number in range(source)}
    return _played_openly(folder, tables, rounds, timeout, {}, rule)


def _simulated(banks: int, customers: int, seed: int) -> dict[str, Any]:
    """Entries of [app] tables, with enough frauds that each bank can measure at home what the run was worth to it."""
    return {"data": "simulated", "banks": banks, "customers": customers, "seed": seed, "fraud_share": 0.02}


def _played_openly(
    folder: Path,
    tables: Mapping[str, AppTable],
    rounds: int,
    timeout: float,
    waits: Mapping[str, float],
    rule: RobustSettings | None,
) -> dict[str, Any]:
    from fl.flower.comparison import in_process
    from fl.flower.local_network import LocalNetwork
    from fl.flower.local_parties import LocalParties
    from fl.flower.settings import PlanSettings

    banks = len(tables)
    plan = PlanSettings(max_clients=banks, clip=1.0, value_bits=20, max_weight=1, max_length=1_000_000)
    if rule is not None:
        _require_possible(rule, banks)
    parties = LocalParties(folder / "parties", plan, tables, reports={"hashes": ["model_hash"]}, robust=rule)
    parties.make()
    err.print(f"starting a SuperLink, a key holder and {banks} banks on 127.0.0.1")
    with LocalNetwork(parties, folder / "network") as running:
        running.submit(rounds, **waits)
        with progress(f"rounds at {banks} banks", rounds) as advance:
            result = running.result(timeout, on_round=advance)
        processes = len(running.processes.marked())
    left = running.processes.marked()
    hashes = {bank: said.get("model_hash") for bank, said in sorted(result["reports"].items())}
    expected = in_process(next(iter(tables.values())), plan, rounds, robust=rule)
    return {
        "banks": banks,
        "rounds": result["rounds"],
        "model_hashes": hashes,
        "in_process_model_hash": expected.model_hash,
        "models_equal": len(hashes) == banks and set(hashes.values()) == {expected.model_hash},
        "average_precision": expected.average_precision,
        "not_measured": expected.not_measured,
        "processes": processes,
        "processes_left": len(left),
        "largest_message": result["largest_message"],
        "contribution_bytes": result["contribution_bytes"],
        "aggregator_peak_memory": result["peak_memory"],
        "error_bound": result["error_bound"],
        "robust": result["robust"],
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
    if report["robust"] is not None:
        times = ", ".join(f"{bank} {count}" for bank, count in report["robust"]["rejected"].items())
        out.print(
            Text(
                f"rule {report['robust']['rule']}: rounds in which it left a bank out, of {len(report['rounds'])}: "
                f"{times or 'none'}"
            )
        )
    verdict = "equal" if report["models_equal"] else ("DIFFERENT", "bold red")
    one = (
        f"model after {plural(len(report['rounds']), 'round')}: {report['in_process_model_hash'][:16]} in one process, "
    )
    out.print(Text.assemble(one, verdict, " at all banks"))
    measured = report["average_precision"]
    figure = f"not measured: {report['not_measured']}" if measured is None else f"{measured:.3f}"
    out.print(Text(f"average precision on the test rows of all banks, without privacy: {figure}"))
    out.print(
        f"{report['processes']} processes, {report['processes_left']} left; largest message "
        f"{size(report['largest_message'])}; aggregator's peak memory {size(report['aggregator_peak_memory'])}\n"
        "Flower sets the time of a round: a SuperNode looks for messages every three seconds",
    )
