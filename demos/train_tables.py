"""The output of `demos train`: figures, who saw what, costs, shared counts, privacy."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from demos.console import out, seconds, size, table
from fl.data.vocabulary import Words
from fl.plural import plural
from fl.reports.chosen import choice_sentence
from fl.reports.left_out import attack_sentence, rule_sentence
from fl.reports.protected import OUTSIDE_EPSILON, protection_sentence
from fl.reports.summed import summed
from fl.reports.trees_told import grown_sentence, histogram_sentences

NAMES = {
    "alone": "each bank alone, network",
    "alone_filter": "each bank alone, filter",
    "alone_private": "bank alone, same epsilon",
    "at_home": "own models at home",
    "pooled": "all rows pooled, network",
    "pooled_with_statistics": "pooled, shared counts",
    "pooled_global": "pooled, features too",
    "plain": "federated, plain sums",
    "plain_without_privacy": "federated, no DP",
    "without_attackers": "without the attackers",
    "undefended": "under attack, no rule",
    "alone_trees": "each bank alone, trees",
    "pooled_trees": "all rows pooled, trees",
    "network": "federated network",
}
OWN_EVIDENCE = "federated, own evidence"


def show(result: dict[str, Any]) -> None:
    """Everything that `train --json` would print, as tables and sentences on stdout."""
    _show_figures(result)
    if (chosen := choice_sentence(result)) is not None:
        out.print(f"{chosen}.", markup=False)
    _show_who_saw_what(result)
    _show_costs(result)
    _show_attack(result)
    _show_statistics(result)
    _show_privacy(result)
    out.print(result["verdict"], style="bold")
    out.print(f"run folder: {result['run_dir']}", soft_wrap=True)


def _show_figures(result: dict[str, Any]) -> None:
    epsilon = result["privacy"]["epsilon"]
    rounds = _rounds(result)
    from fl.learning.metrics import TOP_CARDS  # here, because --help needs no scikit-learn

    words = Words.of(result.get("words"))
    title = f"Fraud found on {words.test}, {result['banks']} banks, {rounds}"
    columns = ("AP", "AUC", "prec.", "recall", "F1", words.heading)
    own = "federated, no DP" if epsilon is None else f"federated, epsilon {epsilon:.2f}"
    models = {own: result["metrics"]}
    evidence = result["metrics"].get("own_evidence")
    if evidence is not None:
        models[OWN_EVIDENCE] = evidence
    models |= {NAMES[name]: figures for name, figures in result["baselines"].items()}
    keys = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100")
    rows = [(name, *(f"{figures[key]:.3f}" for key in keys)) for name, figures in models.items()]
    out.print(table(title, "model", *columns, rows=rows, right=tuple(range(1, 7)), bold=own))
    private = ", but for the one at the same epsilon" if "alone_private" in result["baselines"] else ""
    out.print(
        "AP: average precision. AUC: area under the ROC curve. prec., recall, F1: at the threshold of best F1 on "
        f"{words.validation}. {words.heading}: {words.precision_at(TOP_CARDS)}. Banks alone, at home and pooled: "
        f"without DP{private}.",
        style="dim",
    )
    if evidence is not None and epsilon is not None:
        out.print(f"The first row uses released values alone, at epsilon {epsilon:.2f}. {OUTSIDE_EPSILON}", style="dim")
    if result["baselines"] and epsilon is not None:
        out.print("Baselines read private labels outside every epsilon; --no-baselines leaves them out.", style="dim")


def _rounds(result: dict[str, Any]) -> str:
    if (trees := result.get("trees")) is not None:
        kind = "random tree" if trees.get("random") else "tree"
        return f"{plural(trees['trees'], kind)} of depth {trees['depth']}"
    if result["model"] == "noisy-or":
        return plural(result["rounds"], "joint step")
    return f"{plural(result['rounds'], 'round')} of {result['algorithm']}"


def _show_who_saw_what(result: dict[str, Any]) -> None:
    overhead, encrypted = result["overhead"], result["aggregation"] == "encrypted"
    sums = summed(result)
    seen = table("Who saw what", "party", "traffic, all rounds", f"sees of the banks' {sums.several}")
    if encrypted:
        sent, received = overhead["bytes_up"] / result["banks"], overhead["bytes_down"] / result["banks"]
        each = f"sent {size(sent)}, received {size(received)}"
        seen.add_row("each bank", each, f"its own, and {sums.received}")
        seen.add_row(
            "aggregator",
            f"received {size(overhead['bytes_up'])}",
            "nothing: masked ciphertexts and their sum",
        )
        seen.add_row("key holder", sums.opened, f"{sums.received}, no single {sums.one}")
        if result.get("robust") is not None:
            seen.add_row("key holder, for the rule", "products of ciphertexts", "inner products of sketches of updates")
            seen.add_row("both of them together", "", "sketches: thousands of sums of each update's values, or all")
    else:
        sees = Text.assemble((f"every single {sums.one}", "bold red"), ": --aggregation plain hides nothing")
        seen.add_row("everyone", "-", sees)
    seen.add_row("this program", "-", "everything: it plays all parties and holds all labels, to measure")
    out.print(seen)


def _show_costs(result: dict[str, Any]) -> None:
    overhead = result["overhead"]
    parts = overhead["seconds"].items()
    trees = result.get("trees") is not None
    rows = [(name if name in ("training", "aggregation") else f"  {name}", seconds(spent)) for name, spent in parts]
    out.print(table("Seconds, all banks and rounds", "stage", "seconds", rows=rows, right=(1,)))
    if trees:
        but = " but their noise" if result["trees"].get("random") else ""
        out.print(
            f"aggregation is {100 * overhead['encryption_share']:.1f} % of the time, not counting "
            f"{seconds(overhead['preparation_seconds'])} of preparation; sums of integers have no error{but}"
        )
        out.print(grown_sentence(result), markup=False)
        return
    out.print(
        f"aggregation is {100 * overhead['encryption_share']:.1f} % of the time, not counting "
        f"{seconds(overhead['preparation_seconds'])} of preparation; largest error of an average "
        f"{overhead['max_abs_error']:.2g}, bound {overhead['error_bound']:.2g}; {overhead['clipped']} "
        "coordinates clipped",
    )
    if overhead["attempts"] > result["rounds"] or overhead["left_out"]:
        out.print(
            f"{plural(overhead['attempts'], 'roster')} for {plural(result['rounds'], 'round')}; banks were left out "
            f"{plural(overhead['left_out'], 'time')} (metrics.jsonl names them)",
        )
    if (chosen := result["resources"]) is not None:
        batches = ", ".join(f"{bank} {share['batch']}" for bank, share in chosen["banks"].items())
        chunk = "all coordinates" if chosen["chunk"] is None else f"{chosen['chunk']:,} coordinates"
        out.print(
            f"the banks' limits chose {chosen['value_bits']} bits, {chunk} at once, rows at once: {batches}",
        )


def _show_constants(constants: dict[str, Any] | None) -> None:
    """What the banks computed together before they trained."""
    if constants is None:
        return
    cost = "no privacy" if constants["epsilon"] is None else f"epsilon {constants['epsilon']:.3g} of the run's"
    out.print(
        f"scaling constants of {plural(len(constants['columns']), 'column')} from one round of all banks, {cost}, "
        f"{constants['integers_per_bank']:,} integers a bank, {seconds(constants['seconds'])}, "
        f"{size(constants['bytes_up'])} sent by all banks",
    )


def _show_attack(result: dict[str, Any]) -> None:
    if (attack := attack_sentence(result)) is not None:
        out.print(attack, style="bold", markup=False)
    if (rule := rule_sentence(result)) is not None:
        out.print(rule, markup=False)


def _show_statistics(result: dict[str, Any]) -> None:
    _show_constants(result.get("constants"))
    shared = result["statistics"]
    if shared is None:
        out.print("no statistics were shared")
        return
    out.print(
        f"shared statistics: {shared['mode']}, {shared['integers_per_bank']:,} integers a bank, "
        f"{seconds(shared['seconds'])}, {size(shared['bytes_up'])} sent by all banks",
    )
    if shared["min_banks"] > 1:
        share = 100 * shared["suppressed_share"]
        out.print(f"suppressed below {shared['min_banks']} banks: {share:.1f} % of filled cells")
    if "warning" in shared:
        out.print(shared["warning"], style="bold")
        return
    out.print(
        f"noise of a count: standard deviation {shared['released_sigma']:.3f} events, {_law(shared)}without the shares "
        f"of t = {shared['colluders']} colluding banks, the observing one included. Unit: one {shared['unit']}. Not "
        f"covered: {shared['not_covered']}.",
    )
    if "cost_of_frauds" in shared:
        costs = ", ".join(f"{frauds} frauds {epsilon:.2f}" for frauds, epsilon in shared["cost_of_frauds"].items())
        whose = " or ".join(shared["frauds_in_one_hand"]) or "card"
        out.print(
            f"epsilon of counts: {shared['epsilon']:.2f} for one fraud; for several frauds of one {whose} in one block "
            f"and place: {costs}",
        )


def _law(shared: dict[str, Any]) -> str:
    """The law of the noise, and how much of it counts for the promise."""
    if "sigma" in shared:
        return f"Gaussian; sigma {shared['sigma']:.3f} "
    return "discrete Laplace; what counts for epsilon is the noise "


def _show_privacy(result: dict[str, Any]) -> None:
    privacy = result["privacy"]
    if sentences := histogram_sentences(result):
        for sentence in sentences:
            out.print(f"{sentence}.", markup=False)
        return
    if privacy["epsilon"] is None:
        out.print(Text.assemble(("no differential privacy", "bold"), ": the averages may reveal single rows"))
        return
    out.print(
        f"epsilon {privacy['epsilon']:.3f} of {privacy['epsilon_limit']:g} at delta {privacy['delta']:g} "
        f"({privacy['accountant']}; RDP {privacy['rdp_epsilon']:.3f}), spent over "
        f"{plural(privacy['steps'], 'step')}, {_noise(privacy)}\n"
        f"unit: one {privacy['unit']}. Not covered: {'; '.join(privacy['not_covered'])}.",
    )
    if (means := protection_sentence(privacy)) is not None:
        out.print(f"{means}.")


def _noise(privacy: dict[str, Any]) -> str:
    if privacy["noise"] == "shared":
        return (
            f"under shares of one noise for the rows of all banks: {privacy['share_pieces']} x sigma "
            f"{privacy['share_variance'] ** 0.5:.0f} grid units a bank, without those of t = {privacy['colluders']} "
            "colluding banks, the observing one included"
        )
    if privacy["noise_multiplier"] is None:
        return f"a bank's share of the noise {privacy['share_variance'] ** 0.5:.1f} grid units"
    return f"noise multiplier {privacy['noise_multiplier']:.3f}"
