"""`demos network --model trees`: bin edges and levels of trees between real processes, as a deployment has them."""

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
    from fl.flower.trees.plan import TreeCourse
    from fl.runs.config import RunConfig

TREES, DEPTH = 5, 3  # by default: 16 sums, of 15 to 25 seconds each
READY_S = 120.0  # a bank reads its rows and compiles its loops when it is first asked


def played(folder: Path, data: Mapping[str, Any], asked: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Grow trees on the embedded data. `data`: entries of [app] tables. `asked`: options of `train`."""
    from fl.flower.trees.plan import OF_TREES
    from fl.runs.asked import configuration
    from fl.runs.plan import read_source

    made = {"customers": data["customers"], "clients": data["banks"], "seed": data["seed"]}
    made["fraud_share"] = data["fraud_share"]
    config = configuration({**_with_defaults(asked), **made, **OF_TREES})
    source = read_source(config.data, config.seed)
    tables = dict.fromkeys((name for name, _, _ in source.banks), data)
    return _played(folder, config, source, tables, timeout, {"ready_s": READY_S, "call_s": READY_S})


def played_on(folder: Path, data: LocalData, asked: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Grow trees on a file of one's own. `asked`: options of `train`."""
    from fl.flower.trees.plan import OF_TREES
    from fl.runs.asked import configuration

    config = configuration({**_with_defaults(asked), **data.common, **OF_TREES})
    # The seed is the plan's, and a bank's name is that of its organisation.
    tables = {name: {key: table[key] for key in ("data", "schema", "partition")} for name, table in data.tables.items()}
    return _played(folder, config, data.source, tables, timeout, data.waits)


def _with_defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in asked.items() if value is not None}
    return {"trees": TREES, "depth": DEPTH, **given}


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
    from fl.flower.trees.local import in_one_process, tree_parties
    from fl.flower.trees.plan import TreeCourse

    plan = make_plan(config, source)
    course = TreeCourse.of(plan, plan.at(source))
    parties = tree_parties(folder / "parties", plan, course, tables)
    for number, sentence in enumerate(_sentences(course, sum(len(held.train) for _, _, held in source.banks))):
        err.print(f"{'plan:' if number == 0 else '     '} {sentence}", soft_wrap=True)
    err.print(f"plan {plan.fingerprint[:16]}: starting a SuperLink, a key holder and {len(plan.members)} banks")
    with LocalNetwork(parties, folder / "network") as running:
        running.submit(course.most_sums, **waits)
        with progress(f"sums at {len(plan.members)} banks", course.most_sums) as advance:
            result = running.result(timeout, on_round=advance)
        processes = len(running.processes.marked())
    hashes = {bank: said.get("model_hash") for bank, said in sorted(result["reports"].items())}
    expected = in_one_process(course, source)
    # This demo runs every bank and reads its files; in a deployment a bank's operator reads these, and nobody else.
    compared = {bank: json.loads((parties.home(bank) / "comparison.json").read_bytes()) for bank in hashes}
    settings = course.terms.settings
    return {
        "banks": len(plan.members),
        "plan": plan.fingerprint,
        "trees": settings.trees,
        "depth": settings.depth,
        "most_sums": course.most_sums,
        "ended": result["ended"],
        "rounds": result["rounds"],
        "model_hashes": hashes,
        "in_process_model_hash": expected.model_hash,
        "models_equal": len(hashes) == len(plan.members) and set(hashes.values()) == {expected.model_hash},
        "average_precision": expected.average_precision,
        "not_measured": expected.not_measured,
        "at_each_bank": compared,
        "processes": processes,
        "processes_left": len(running.processes.marked()),
        "largest_message": result["largest_message"],
        "contribution_bytes": [each["bytes_up"] for each in result["rounds"]],
        "aggregator_peak_memory": result["peak_memory"],
    }


def _sentences(course: TreeCourse, rows: int) -> tuple[str, ...]:
    """The plan in words. `rows`: training rows of all banks, which this demo knows."""
    settings, columns = course.terms.settings, course.terms.columns
    numbers = sum(column.categories == 0 for column in columns)
    opening, level = course.cost(course.opening).bytes_up, course.cost(course.longest_level(rows)).bytes_up
    return (
        f"{course.terms.members} banks with {rows:,} training rows, {plural(settings.trees, 'tree')} of depth "
        f"{settings.depth} at rate {settings.rate:g}, without differential privacy",
        f"{plural(numbers, 'column')} of numbers in at most {settings.bins} bins, {len(columns) - numbers} of "
        f"categories, each bank's own; no shared counts",
        f"at most {plural(course.most_sums, 'sum')}: one for all bin edges with {size(opening)} from each bank, one "
        f"for each level with at most {size(level)}; a sum takes 15 to 25 seconds",
    )


def show(report: Mapping[str, Any]) -> None:
    """For people: what each bank's operator sees, and what everybody may see."""
    from fl.flower.trees.home import told

    rounds = table(
        f"Sums at {report['banks']} banks", "sum", "of", "members", "histograms", "sealing", "sent", "all",
        right=(0, 3, 4, 5, 6),
    )  # fmt: skip
    for each in report["rounds"]:
        of = "bin edges" if each["number"] == 1 else "a level"
        times = [seconds(each[f"{part}_seconds"]) for part in ("train", "seal")]
        members = ", ".join(sorted(each["members"]))
        rounds.add_row(str(each["number"]), of, members, *times, size(each["bytes_up"]), seconds(each["seconds"]))
    out.print(rounds)
    if report["ended"]:
        out.print(Text(report["ended"]))
    out.print(Text("\nWhat each bank's operator sees, and nobody else:\n"))
    for compared in report["at_each_bank"].values():
        out.print(Text(told(compared)))
    out.print(Text("\nWhat everybody may see:\n"))
    verdict = "equal, bit for bit," if report["models_equal"] else ("DIFFERENT", "bold red")
    one = f"trees after {plural(len(report['rounds']), 'sum')}: {report['in_process_model_hash'][:16]} in one process, "
    out.print(Text.assemble(one, verdict, " at all banks"))
    measured = report["average_precision"]
    figure = f"not measured: {report['not_measured']}" if measured is None else f"{measured:.3f}"
    out.print(Text(f"average precision on the test rows of all banks, without privacy: {figure}"))
    out.print(Text("The sums are exact: every party sees them, and they are not differential privacy."))
    out.print(
        f"{report['processes']} processes, {report['processes_left']} left; largest message "
        f"{size(report['largest_message'])}; aggregator's peak memory {size(report['aggregator_peak_memory'])}"
    )
