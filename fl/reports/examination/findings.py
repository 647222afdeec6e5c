"""Write the sentences at the top of a report: the meaning of the metrics for a person who approves the model.

What it does: turns a report into findings, each of a kind: `good`, `note` (to be known), `concern` (to be answered
before the model is used). The limits are conventions, named here, and do not replace a decision.
"""

from __future__ import annotations

from typing import Any

from fl.data.vocabulary import Words
from fl.reports.protected import OUTSIDE_EPSILON
from fl.runs.verdict import LITTLE, OWN_EVIDENCE

ENCRYPTION_TOLERANCE = 0.001  # of average precision, between encrypted and plain sums without privacy
CALIBRATED = 0.2  # expected frauds may differ from observed ones by this share
RECALL_GAP = 0.2  # between groups: beyond it, someone should explain why
NAMED = 3  # columns of one kind that have a sentence of their own
AGREEMENT = 0.7  # rank correlation of features between banks

OUTSIDE = (OWN_EVIDENCE, "at_home")  # rows of a comparison that no epsilon covers

Finding = dict[str, str]


def findings(report: dict[str, Any]) -> list[Finding]:
    """What stands out, in the order of the report's parts."""
    words = Words.of(report["run"].get("words"))
    return [
        *_worth(report["run"]),
        *_found_fraud(report["figures"], words),
        *_compared(report),
        *_privacy(report["run"]["privacy"], any(row["name"] in OUTSIDE for row in report["comparison"]["models"])),
        *_chosen(report["run"]),
        *_grown(report["run"]),
        *_calibrated(report["calibration"], words),
        *(_timely(report["timeliness"]) if words.days else ()),
        *_drifted(report["drift"]),
        *_fair(report["fairness"]),
        *_explained(report["explanations"]),
        *_scaled(report["scaling"]),
    ]


def _finding(kind: str, text: str) -> Finding:
    return {"kind": kind, "text": text}


def points(difference: float) -> str:
    """A difference of shares in percentage points."""
    return f"{100 * difference:.2g} points"


def percent(share: float) -> str:
    """A share in percent, with as many digits as it deserves."""
    return f"{100 * share:.1f} %" if share >= 0.01 else f"{100 * share:.2g} %"


def _worth(run: dict[str, Any]) -> list[Finding]:
    """The sentence that decides, first of all."""
    gain = run["gain_over_alone"]
    kind = "concern" if gain is None or gain <= -LITTLE else "good" if gain > LITTLE else "note"
    return [_finding(kind, run["verdict"])]


def _chosen(run: dict[str, Any]) -> list[Finding]:
    """Why the run has this model, where several were tried."""
    why = run.get("choice")
    return [] if why is None else [_finding("note", f"{why[0].upper()}{why[1:]}.")]


def _grown(run: dict[str, Any]) -> list[Finding]:
    """What a run of trees grew, and what its histograms give away."""
    said = [] if run.get("trees") is None else [run["trees"], *run["told"]]
    return [_finding("note", f"{each[0].upper()}{each[1:]}.") for each in said]


def _found_fraud(figures: dict[str, Any], words: Words) -> list[Finding]:
    chance = (
        f"Average precision {figures['average_precision']:.3f}, where chance would have {figures['fraud_share']:.3f}."
    )
    if figures["alerts"] == 0:
        text = (
            f"The model flags none of {figures['rows']:,} test transactions: all scores are below the threshold of "
            f"{figures['threshold']:.3f}, and none of {figures['frauds']:,} frauds is found. {chance}"
        )
        return [_finding("concern", text), *_reviewed(figures["review"])]
    text = (
        f"The model flags {figures['alerts']:,} of {figures['rows']:,} test transactions. Of these alerts "
        f"{percent(figures['precision'])} are fraud, and they hold {percent(figures['recall'])} of the "
        f"{figures['frauds']:,} frauds. {chance}"
    )
    findings = [_finding("note", text), *_reviewed(figures["review"])]
    if figures["precision"] == 0.0:
        findings.append(_finding("concern", f"No alert was a fraud: the threshold does not fit these {words.test}."))
    return findings


def _reviewed(review: dict[str, Any] | None) -> list[Finding]:
    if review is None:
        return []
    text = (
        f"A team that reviews {review['words']} sees {review['reviewed']:,} transactions, of which "
        f"{percent(review['precision'])} are fraud, and finds {percent(review['recall'])} of the "
        f"{review['all_frauds']:,} frauds."
    )
    return [_finding("note", text)]


def _compared(report: dict[str, Any]) -> list[Finding]:
    models = {row["name"]: row for row in report["comparison"]["models"] if row["ran"]}
    own, findings = models["federated"]["average_precision"], []
    if "pooled" in models:
        pooled = models["pooled"]["average_precision"]
        explained = {row["name"]: row["had"] for row in report["comparison"]["explained"]}
        text = f"With all rows in one place average precision would be {pooled:.3f}. {explained['pooled']}"
        findings.append(_finding("note", text))
    if "plain" in models and report["run"]["privacy"]["epsilon"] is None and report["run"]["aggregation"] != "plain":
        gap = abs(models["plain"]["average_precision"] - own)
        same = gap <= ENCRYPTION_TOLERANCE
        findings.append(
            _finding(
                "good" if same else "concern",
                f"Encryption changes average precision by {gap:.4f}: "
                + (
                    "it costs no accuracy." if same else f"more than {ENCRYPTION_TOLERANCE:g}, which rounding explains."
                ),
            )
        )
    if missing := report["comparison"]["not_run"]:
        findings.append(_finding("note", f"Not compared, because the run left it out: {', '.join(missing)}."))
    return findings


def _privacy(privacy: dict[str, Any], measures_own_evidence: bool) -> list[Finding]:
    if privacy["epsilon"] is None:
        text = "Trained without differential privacy: the model may give away rows it was trained on."
        return [_finding("concern", text)]
    text = (
        f"Epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} was spent, for one {privacy['unit']}. "
        f"Not covered: {'; '.join(privacy['not_covered'])}."
    )
    found = [_finding("note", text)]
    if (means := privacy["protection_sentence"]) is not None:
        found.append(_finding("note", f"{means[0].upper()}{means[1:]}."))
    if measures_own_evidence:
        found.append(_finding("note", OUTSIDE_EPSILON))
    return found


def _calibrated(calibration: dict[str, Any], words: Words) -> list[Finding]:
    as_is, corrected = calibration["as_is"], calibration["corrected"]
    raw, ratio = as_is["expected_over_observed"], corrected["expected_over_observed"]
    usable = abs(ratio - 1.0) <= CALIBRATED
    off = (
        f" In {corrected['slices_off']} of {corrected['slices']} slices of like scores the mean score lies outside the "
        "95 % interval of the share of frauds."
    )
    weight = calibration["pos_weight"]
    text = f"Scores add up to {raw:.2f} times the frauds"
    if weight != 1:
        text = (
            f"Scores are no probabilities as they stand: they add up to {raw:.2f} times the frauds. Corrected for the "
            f"weight of {weight:g} that training gives a fraud, they add up to {ratio:.2f} times"
        )
    if (fitted := calibration["calibrated"]) is not None:
        return [_of_calibrated(calibration, fitted, words)]
    verdict = "." if usable else ": do not read them as probabilities."
    kind = "concern" if not usable else "note" if corrected["slices_off"] else "good"
    return [_finding(kind, text + verdict + off)]


def _of_calibrated(calibration: dict[str, Any], fitted: dict[str, Any], words: Words) -> Finding:
    ratio, windows = fitted["expected_over_observed"], calibration["windows"]
    usable = abs(ratio - 1.0) <= CALIBRATED
    text = (
        f"A raw score is no probability: raw scores add up to {calibration['as_is']['expected_over_observed']:.2f} "
        "times the frauds. The column calibrated that the command score writes is one: it expects "
        f"{fitted['expected_frauds']:,.0f} frauds where {fitted['frauds']:,} were seen"
    )
    if len(windows) > 1:
        parts = (f"{one['expected_frauds']:,.0f} for {one['frauds']:,}" for one in windows)
        text += f" (by test window {', '.join(parts)})"
    text += "." if usable else f": do not read it as one on {'days' if words.days else 'rows'} like these."
    return _finding("good" if usable else "concern", text)


def _timely(timeliness: dict[str, Any]) -> list[Finding]:
    if not timeliness["available"]:
        return [_finding("note", f"Days to the first alert are not known: {timeliness['why']}.")]
    findings = []
    for party in ("cards", "terminals"):
        delays = timeliness.get(party)
        if delays is None or not delays["compromised"]:
            continue
        first = delays["within"][0]
        text = (
            f"Of {delays['compromised']:,} {party} with a first fraud on the test days, {percent(first['share'])} had "
            f"an alert the same day and {delays['never_alerted']:,} none at all."
        )
        findings.append(_finding("note", text))
    return findings


def _drifted(drift: dict[str, Any]) -> list[Finding]:
    if not drift["available"]:
        return [_finding("note", f"Drift was not looked for: {drift['why']}.")]
    days = len(drift["days"])
    if not drift["alarms"]:
        return [_finding("good", f"No drift alarm in {days} test days.")]
    first = drift["alarms"][0]
    text = (
        f"{len(drift['alarms'])} drift alarms in {days} test days, the first on {first['known_on']} "
        f"({first['signal']}): the test days are no longer like the training days."
    )
    return [_finding("concern", text)]


def _fair(fairness: dict[str, Any]) -> list[Finding]:
    """A sentence for each of the columns whose groups lie furthest apart, and one for all others of the same kind."""
    findings = []
    if skipped := fairness.get("skipped"):
        names = ", ".join(each["column"] for each in skipped)
        findings.append(_finding("note", f"Not compared by group, because it has none that can be shown: {names}."))
    small = [each["column"] for each in fairness["columns"] if each["largest_difference"] is None]
    if small:
        more = len(small) - _named(len(small))
        by = ", ".join(small[: _named(len(small))]) + (f" and {more} more columns" if more else "")
        findings.append(_finding("note", f"By {by}: fewer than two groups are large enough to be compared."))
    compared = [each for each in fairness["columns"] if each["largest_difference"] is not None]
    compared.sort(key=lambda each: -each["largest_difference"]["recall"])
    for kind in ("concern", "note", "good"):
        alike = [each for each in compared if _kind_of(each["largest_difference"]) == kind]
        named = _named(len(alike))
        if kind == "good" and named < len(alike):
            named = 0  # nobody has to look at single ones of them
        findings += [_finding(kind, _of_groups(each)) for each in alike[:named]]
        if named < len(alike):
            findings.append(_finding(kind, _of_others(alike[named:], more=named > 0)))
    return findings


def _named(columns: int) -> int:
    """How many of so many columns have a sentence of their own: one for a single other column would save nothing."""
    return columns if columns <= NAMED + 1 else NAMED


def _kind_of(apart: dict[str, Any]) -> str:
    if apart["recall"] <= RECALL_GAP:
        return "good"
    return "concern" if apart["recall_intervals_apart"] else "note"


def _of_groups(column: dict[str, Any]) -> str:
    apart = column["largest_difference"]
    luck = "" if apart["recall_intervals_apart"] else " Intervals of all groups overlap, so that this may be luck."
    return (
        f"By {column['column']}: the share of frauds found differs by up to {points(apart['recall'])} between "
        f"groups, that of others flagged by up to {points(apart['false_positive_rate'])}.{luck}"
    )


def _of_others(columns: list[dict[str, Any]], *, more: bool) -> str:
    """Of columns of one kind that have no sentence of their own. The table of the report has each of them."""
    apart = [column["largest_difference"] for column in columns]
    widest = {name: max(each[name] for each in apart) for name in ("recall", "false_positive_rate")}
    overlap = sum(not each["recall_intervals_apart"] for each in apart)
    of_all = overlap == len(apart)
    luck = f" Intervals overlap for {'all' if of_all else overlap} of them, so that this may be luck."
    return (
        f"By {len(columns)} {'more ' if more else ''}columns, listed under Groups in the report: the share of frauds "
        f"found differs by up to {points(widest['recall'])} between groups, that of others flagged by up to "
        f"{points(widest['false_positive_rate'])}.{luck if overlap else ''}"
    )


def _explained(explanations: dict[str, Any]) -> list[Finding]:
    decide = ", ".join(
        explanations["alerts"]["top"][:3] if explanations["alerts"]["rows"] else explanations["usual"]["top"]
    )
    findings = [_finding("note", f"What decides most: {decide}.")]
    agreement = explanations["agreement"]
    if agreement is not None and agreement["rank_correlation"] is not None:
        mean = agreement["rank_correlation"]["mean"]
        alike = mean >= AGREEMENT
        text = (
            f"Banks rank features alike: rank correlation {mean:.2f} on average."
            if alike
            else (f"Banks rank features differently: rank correlation {mean:.2f} on average.")
        )
        findings.append(_finding("good" if alike else "concern", text))
    return findings


def _scaled(scaling: dict[str, Any]) -> list[Finding]:
    """Columns of which a bound cuts off more than it may, the worst first."""
    warnings = scaling["warnings"]
    named = _named(len(warnings))
    found = [_finding("concern", f"{warning[0].upper()}{warning[1:]}.") for warning in warnings[:named]]
    if more := len(warnings) - named:
        most = percent(scaling["most"])
        text = f"Of {more} more columns, listed under What decides in the report, more than {most} is cut off, too."
        found.append(_finding("concern", text))
    return found
