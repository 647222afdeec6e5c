"""`demos network --epsilon`: counts, noise, ledgers and the model between real processes, as a deployment has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from demos.console import err, out, progress, seconds, size, table
from fl.plural import plural

if TYPE_CHECKING:
    from fl.data.federation import PartitionedTable
    from fl.flower.local_data import LocalData
    from fl.flower.local_parties import AppTable
    from fl.runs.config import RunConfig


def played(folder: Path, data: Mapping[str, Any], asked: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Play a private run on the embedded data. `data`: entries of [app] tables. `asked`: options of `train`."""
    from fl.runs.asked import configuration
    from fl.runs.plan import read_source

    made = {"customers": data["customers"], "clients": data["banks"], "seed": data["seed"]}
    made["fraud_share"] = data["fraud_share"]
    config = configuration({**asked, **made, "model": "noisy-or"})
    source = read_source(config.data, config.seed)
    tables = dict.fromkeys((name for name, _, _ in source.banks), data)
    return _played(folder, config, source, tables, timeout, {"ready_s": 120.0, "call_s": 120.0})


def played_on(folder: Path, data: LocalData, asked: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Play a private run on a file of one's own. `asked`: options of `train`."""
    from fl.runs.asked import configuration

    config = configuration({**asked, **data.common, "model": "noisy-or"})
    # The seed is the plan's, and a bank's name is that of its organisation.
    tables = {name: {key: table[key] for key in ("data", "schema", "partition")} for name, table in data.tables.items()}
    return _played(folder, config, data.source, tables, timeout, data.waits)


def _played(
    folder: Path,
    config: RunConfig,
    source: PartitionedTable,
    tables: Mapping[str, AppTable],
    timeout: float,
    waits: Mapping[str, float],
) -> dict[str, Any]:
    """`tables`: by bank, the entries of its [app] table that lead to its rows."""
    from fl.flower.federation_plan import make_plan
    from fl.flower.local_network import LocalNetwork
    from fl.flower.private.home import COMPARISON
    from fl.flower.private.local import private_parties
    from fl.flower.private.plan import Course
    from fl.privacy.budget import BudgetLedger, ledger_path

    plan = make_plan(config, source)
    course, privacy = Course.of(plan.at(source)), plan.config.privacy
    assert privacy is not None
    parties = private_parties(folder / "parties", plan, source, tables)
    err.print(f"starting a SuperLink, a key holder and {len(plan.members)} banks on 127.0.0.1")
    rounds = plural(len(course.chunks), "round")
    err.print(f"plan {plan.fingerprint[:16]}: {rounds} of counts, then {plural(course.steps, 'step')}")
    with LocalNetwork(parties, folder / "network") as running:
        running.submit(course.rounds, **waits)
        with progress(f"rounds at {len(plan.members)} banks", course.rounds) as advance:
            result = running.result(timeout, on_round=advance)
        processes = len(running.processes.marked())
    hashes = {bank: said.get("model_hash") for bank, said in sorted(result["reports"].items())}
    ledgers, compared = {}, {}
    for bank in plan.members:
        home = parties.home(bank)
        ledger = BudgetLedger(ledger_path(home / "budget", bank), bank, privacy.epsilon, privacy.delta)
        lines = [{"round": spend.round, "kind": type(spend.mechanism).__name__} for spend in ledger.spends()]
        ledgers[bank] = {**ledger.reckoned()._asdict(), "releases": lines}
        # This demo runs every bank and reads its files; in a deployment a bank's operator reads these, and nobody else.
        compared[bank] = json.loads((home / COMPARISON).read_bytes()) if (home / COMPARISON).exists() else None
    return {
        "banks": len(plan.members),
        "plan": plan.fingerprint,
        "epsilon_limit": privacy.epsilon,
        "delta": privacy.delta,
        "noise": privacy.noise,
        "rounds_of_counts": len(course.chunks),
        "steps": course.steps,
        "ended": result["ended"],
        "rounds": result["rounds"],
        "model_hashes": hashes,
        "models_equal": len(hashes) == len(plan.members) and len(set(hashes.values()) - {None}) == 1,
        "ledgers": ledgers,
        "at_each_bank": compared,
        "processes": processes,
        "processes_left": len(running.processes.marked()),
        "largest_message": result["largest_message"],
        "contribution_bytes": result["contribution_bytes"],
        "aggregator_peak_memory": result["peak_memory"],
    }


def show(report: Mapping[str, Any]) -> None:
    """For people: what each bank's operator sees, and what everybody may see."""
    from fl.flower.private.home import told

    rounds = table(
        f"Rounds at {report['banks']} banks", "round", "of", "members", "preparing", "sealing", "all",
        right=(0, 3, 4, 5),
    )  # fmt: skip
    for each in report["rounds"]:
        of = "counts" if each["number"] <= report["rounds_of_counts"] else "a step"
        times = [seconds(each[f"{part}seconds"]) for part in ("train_", "seal_", "")]
        rounds.add_row(str(each["number"]), of, ", ".join(sorted(each["members"])), *times)
    out.print(rounds)
    if report["ended"]:
        out.print(Text(report["ended"]))
    out.print(Text("\nWhat each bank's operator sees, and nobody else:\n"))
    for bank, compared in report["at_each_bank"].items():
        out.print(Text(told(compared) if compared else f"{bank}: no comparison was made"))
    out.print(Text("\nWhat everybody may see:\n"))
    verdict = "equal at all banks" if report["models_equal"] else ("DIFFERENT", "bold red")
    out.print(Text.assemble(f"model after {plural(len(report['rounds']), 'round')}: ", verdict))
    spent = max(ledger["epsilon"] for ledger in report["ledgers"].values())
    trust = (
        "It holds while at most 1 bank shows its noise to others, and while the sum stays masked."
        if report["noise"] == "shared"
        else "It holds whatever the other banks do: each bank's own noise suffices."
    )
    out.print(Text(f"epsilon {spent:.3g} of {report['epsilon_limit']:g} in each bank's ledger. {trust}"))
    out.print(
        f"{report['processes']} processes, {report['processes_left']} left; largest message "
        f"{size(report['largest_message'])}; aggregator's peak memory {size(report['aggregator_peak_memory'])}"
    )
