"""A report as one HTML page, to be read from top to bottom and without the network.

What it does: shows a report (`report.py`) in sections with tables and plots. Every number on it stands in the report,
rounded here and nowhere else.

What it leaves to others: figures, findings, what a plot shows (`plots.py`), the file around it (`html.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from fl.durable import replace_durably
from fl.reports.examination import plots
from fl.reports.examination.findings import percent
from fl.reports.examination.html import document, figure, paragraph, table

KINDS = {"good": "good", "note": "to know", "concern": "to answer"}
SECTIONS = (
    ("found", "Fraud found"),
    ("calibration", "Scores as probabilities"),
    ("time", "Days to the first alert"),
    ("drift", "Drift"),
    ("groups", "Groups"),
    ("features", "What decides"),
    ("run", "The run"),
)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write `report` as a page to `path`, whole or not at all."""
    replace_durably(path, page(report).encode())


def page(report: dict[str, Any]) -> str:
    """The whole file."""
    parts = (_found, _calibration, _time, _drift, _groups, _features, _run)
    sections = [
        f'<section id="{name}"><h2>{escape(title)}</h2>\n{part(report)}</section>\n'
        for (name, title), part in zip(SECTIONS, parts, strict=True)
    ]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in SECTIONS)
    body = f"{_head(report)}<nav>{links}</nav>\n{_findings(report['findings'])}{''.join(sections)}"
    return document("Examination of a fraud model", body)


def _head(report: dict[str, Any]) -> str:
    run = report["run"]
    data = run["data"]
    span = f"{data['first_day']} to {data['last_day']}" if report["drift"]["available"] else "no days"
    epsilon = run["privacy"]["epsilon"]
    private = "no differential privacy" if epsilon is None else f"epsilon {epsilon:.2f}"
    line = (
        f"Run {run['run_id']}: {run['banks']} banks, {run['rounds']} rounds, {run['aggregation']} averages, {private}. "
        f"Data: {data['source']}, {data['rows']:,} transactions, {data['frauds']:,} frauds, {span}."
    )
    return f'<h1>Examination of a fraud model</h1>\n<p class="meta">{escape(line)}</p>\n'


def _findings(findings: Sequence[dict[str, str]]) -> str:
    """What has to be answered first, then the others in the order of the sections."""
    findings = sorted(findings, key=lambda one: one["kind"] != "concern")
    items = "".join(
        f'<li><span class="kind {one["kind"]}">{KINDS[one["kind"]]}</span><span>{escape(one["text"])}</span></li>\n'
        for one in findings
    )
    return f'<ul class="findings">\n{items}</ul>\n'


def _found(report: dict[str, Any]) -> str:
    figures, comparison = report["figures"], report["comparison"]
    heads = (
        "model",
        "average precision",
        "ROC-AUC",
        "precision",
        "recall",
        "F1",
        f"card prec. @{figures['top_cards']}",
    )
    keys = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100")
    rows = [
        (
            "own" if row["name"] == "federated" else "",
            [row["what"], *(_three(row[key]) if row["ran"] else "not run" for key in keys)],
        )
        for row in comparison["models"]
    ]
    banks = [
        ("", [b["bank"], f"{b['rows']:,}", f"{b['frauds']:,}", f"{b['alerts']:,}", *map(_three, _bank_figures(b))])
        for b in figures["per_bank"]
    ]
    per_day = figures["alerts_per_day"]
    alerts = "" if per_day is None else f" That is {per_day:.1f} alerts a day for all banks."
    return "\n".join(
        (
            paragraph(
                "All models are measured on the same test transactions. Average precision is the primary figure: with "
                "so few frauds, accuracy would flatter. Precision, recall and F1 are taken at the threshold of best F1 "
                f"on validation customers, {figures['threshold']:.3f}.{alerts}"
            ),
            table(heads, rows),
            figure(
                [plots.models(comparison)],
                "Models that train alone or on pooled rows see no differential privacy; pooled rows are what a "
                "federation avoids.",
                "models",
            ),
            _windows(figures),
            "<h3>Precision and recall</h3>",
            figure(
                [plots.precision_recall(figures)],
                "Moving the threshold moves along the line: more frauds found, more false alerts.",
                "pr",
            ),
            figure(
                [plots.scores(figures)],
                "How transactions spread over scores; counts on a logarithmic axis, the threshold dashed.",
                "scores",
            ),
            "<h3>Bank by bank</h3>",
            paragraph("At banks with few frauds these figures vary by luck."),
            table(("bank", "test rows", "frauds", "alerts", "average precision", "precision", "recall"), banks),
        )
    )


def _bank_figures(bank: dict[str, Any]) -> tuple[Any, ...]:
    return bank["average_precision"], bank["precision"], bank["recall"]


def _windows(figures: dict[str, Any]) -> str:
    if len(figures["windows"]) < 2:
        return ""
    rows = [
        (
            "",
            [
                f"window {number}",
                f"{one['rows']:,}",
                f"{one['frauds']:,}",
                *(_three(one[key]) for key in ("average_precision", "roc_auc", "precision", "recall")),
            ],
        )
        for number, one in enumerate(figures["windows"], start=1)
    ]
    heads = ("test period", "rows", "frauds", "average precision", "ROC-AUC", "precision", "recall")
    return table(heads, rows)


def _calibration(report: dict[str, Any]) -> str:
    told = report["calibration"]
    rows = [
        (
            "",
            [
                name,
                f"{one['expected_frauds']:,.0f}",
                f"{one['frauds']:,}",
                f"{one['expected_over_observed']:.2f}",
                f"{one['brier']:.5f}",
                percent(one["brier_skill"]),
                f"{one['ece']:.4f}",
            ],
        )
        for name, one in (("score as it is", told["as_is"]), ("corrected", told["corrected"]))
    ]
    heads = ("", "frauds expected", "frauds seen", "expected / seen", "Brier score", "Brier skill", "ECE")
    return "\n".join(
        (
            paragraph(
                f"Training multiplies the loss of a fraud by {told['pos_weight']:g}, so that scores stand too high on "
                "purpose. The correction divides the odds by the same number; it changes no ranking and looks at "
                "no label."
            ),
            table(heads, rows),
            paragraph(
                "Brier score: mean squared error of the score. Brier skill: how much of the error of always naming the "
                "fraud share it avoids. ECE: mean distance between score and share of frauds over ten bins of "
                "equal width.",
                "small",
            ),
            figure(
                [plots.reliability(told)],
                "Each point is a slice of transactions with like scores, narrower towards the highest; hover for its "
                "interval. On the dotted line a score says how often it is fraud. Slices without a fraud are left out.",
                "reliability",
            ),
        )
    )


def _time(report: dict[str, Any]) -> str:
    told = report["timeliness"]
    if not told["available"]:
        return paragraph(f"Not known: {told['why']}.")
    rows = [
        (
            "",
            [
                party,
                f"{told[party]['compromised']:,}",
                f"{told[party]['alerted']:,}",
                f"{told[party]['never_alerted']:,}",
                "-" if told[party]["mean_days"] is None else f"{told[party]['mean_days']:.2f}",
                f"{told[party]['compromised_before']:,}",
            ],
        )
        for party in ("cards", "terminals")
        if party in told
    ]
    heads = ("", "newly compromised", "with an alert", "without", "mean days to it", "compromised before")
    return "\n".join(
        (
            paragraph(
                "From the first fraud of a card or terminal on the test days to the first of its transactions at "
                f"or above the threshold. Terminals with a fraud in the {told['look_back_days']} days before are "
                "counted apart; such cards are blocked and no longer tested."
            ),
            table(heads, rows),
            figure(
                [plots.waiting(told)],
                "For each number of days, only those that could be followed so long within the test days; the line may "
                "therefore fall.",
                "waiting",
            ),
        )
    )


def _drift(report: dict[str, Any]) -> str:
    told = report["drift"]
    if not told["available"]:
        return paragraph(f"Not looked for: {told['why']}.")
    limits = told["limits"]
    rows = [
        ("", [one["signal"], one["day"], one["known_on"], str(one["days_after_first_test_day"])])
        for one in told["alarms"]
    ]
    most = max(told["largest_psi"], key=lambda name: told["largest_psi"][name])
    alarms = (
        table(("signal", "day", "known on", "days after the first test day"), rows)
        if rows
        else paragraph("No signal alarmed.")
    )
    return "\n".join(
        (
            paragraph(
                f"PSI compares the last {limits['window_days']} days with the training period, weekday by weekday, "
                f"and alarms above {limits['psi']:g} on {limits['psi_days']} days in a row. ADWIN watches the mean "
                f"of scores and of squared errors; errors are known {told['label_delay_days']} days late. Limits "
                "are such that simulated runs without drift raise none."
            ),
            alarms,
            figure([plots.days(told)], "All banks, by test day; alarms dashed.", "days"),
            figure(
                [plots.stability(told)],
                "Stability of every feature and of the score, the most changed on top; blue is below the limit. "
                f"The largest PSI is {told['largest_psi'][most]:.3f} ({most}).",
                "stability",
            ),
        )
    )


def _groups(report: dict[str, Any]) -> str:
    told = report["fairness"]
    parts = [
        paragraph(
            "Selection rate: share of a group's transactions that are flagged. False-positive rate: the same among "
            "those that are no fraud. Groups may differ because fraud does; the recall should not, and its "
            f"interval says how sure that is. Groups with fewer than {told['small_rows']} rows or "
            f"{told['small_frauds']} frauds are small: shown pale, and left out of differences."
        )
    ]
    heads = (
        "group",
        "rows",
        "frauds",
        "alerts",
        "selection rate",
        "recall",
        f"{100 * told['confidence']:g} % interval",
        "false-positive rate",
    )
    for number, column in enumerate(told["columns"]):
        rows = [("small" if one["small"] else "", _group(one)) for one in column["groups"]]
        parts += [
            f"<h3>By {escape(column['column'])}</h3>",
            table(heads, rows),
            figure([plots.groups(column)], "Share of frauds found, with its interval.", f"group-{number}"),
        ]
    return "\n".join(parts)


def _group(one: dict[str, Any]) -> list[str]:
    known = one["recall"] is not None
    false_positive = one["false_positive_rate"]
    return [
        one["group"] + (" (small)" if one["small"] else ""),
        f"{one['rows']:,}",
        f"{one['frauds']:,}",
        f"{one['alerts']:,}",
        percent(one["selection_rate"]),
        percent(one["recall"]) if known else "no fraud",
        f"{percent(one['recall_low'])} to {percent(one['recall_high'])}" if known else "-",
        "-" if false_positive is None else percent(false_positive),
    ]


def _features(report: dict[str, Any]) -> str:
    told = report["explanations"]
    rows = [("", [b["bank"], ", ".join(b["top"])]) for b in told["per_bank"]]
    agreement = told["agreement"]
    alike = ""
    if agreement is not None:
        ranks, shared = agreement["rank_correlation"], agreement["shared_top"]
        ranked = (
            "Between banks, importances have no rank correlation, since a bank's are all the same"
            if ranks is None
            else f"Between banks, the rank correlation of importances is {ranks['mean']:.2f} on average and "
            f"{ranks['least']:.2f} at least"
        )
        alike = (
            f"{ranked}; of the {told['top']} top features of either bank, a share of "
            f"{shared['mean']:.2f} is common to both ({shared['least']:.2f} at least)."
        )
    return "\n".join(
        (
            paragraph(
                "SHAP values split the difference between a score and the usual score among the features, in "
                f"logits: one logit multiplies the odds of fraud by {told['odds_per_logit']:.1f}. Importance is the "
                "mean of their size."
            ),
            figure(
                [plots.importance(told)],
                f"Up to {told['rows_per_bank']} sampled transactions and as many of the highest alerts per bank, "
                f"against {told['background_rows']} training rows. The values of a row miss its logit by "
                f"{told['mean_gap']:.3f} on average, where it moves by {told['mean_logit_change']:.3f}: they are "
                "estimates." + ("" if told["alerts"]["rows"] else " Nothing was flagged, so alerts have no bars."),
                "importance",
            ),
            "<h3>Bank by bank</h3>",
            paragraph(alike),
            figure([plots.by_bank(told)], "Importance over sampled transactions.", "banks"),
            table(("bank", "top features, sampled transactions"), rows),
        )
    )


def _run(report: dict[str, Any]) -> str:
    run = report["run"]
    privacy, data = run["privacy"], run["data"]
    entries = {
        "code": run["git_revision"],
        "algorithm": f"{run['algorithm']}, {run['rounds']} rounds, seed {run['seed']}",
        "model": f"{run['parameters']:,} parameters, {len(run['features'])} features",
        "schema": f"{data['schema']} ({data['schema_sha256']})",
        "banks by": data["partition"],
        "rows": f"{run['train_rows']:,} training, {run['validation_rows']:,} validation, {run['test_rows']:,} test",
        "test periods": f"{run['test_windows']}",
        "labels known": f"{data['label_delay_days']} days after a transaction",
        "unit of privacy": str(privacy["unit"]),
        "not covered by it": "; ".join(privacy["not_covered"]),
        "versions": ", ".join(f"{name} {version}" for name, version in run["versions"].items()),
    }
    if privacy["epsilon"] is not None:
        entries["privacy spent"] = (
            f"epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g} ({privacy['accountant']})"
        )
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in entries.items())
    note = paragraph(
        "This examination read labelled transactions of all banks in one place and lies outside every privacy "
        "budget. It shows figures of groups, days and banks. Every number is in report.json.",
        "small",
    )
    return f"<dl>{listed}</dl>\n{note}"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
