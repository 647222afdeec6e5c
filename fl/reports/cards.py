"""Draft a model card and a data-protection impact assessment from the files of a finished run.

What it does: fills the templates of `fl.reports.card_templates` from config.toml, manifest.json, result.json and, where
`demos evaluate` has been run, report.json. Facts that no run knows become marked fields for a person.

What it leaves to others: those fields, and every judgement. No transactions are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from fl.data.schema import ColumnSplit, Schema
from fl.durable import replace_durably
from fl.learning.metrics import TOP_CARDS
from fl.learning.thresholds import rule_in_words
from fl.markdown import code, text
from fl.reports.card_templates import DPIA, MODEL_CARD
from fl.reports.chosen import choice_sentence
from fl.reports.compared import BASELINES, WITH_OWN_EVIDENCE
from fl.reports.examination.findings import percent
from fl.reports.left_out import SEEN_FOR_A_RULE, attack_sentence, rule_sentence
from fl.reports.protected import OUTSIDE_EPSILON, protection_sentence
from fl.reports.spans import span
from fl.reports.summed import Summed, summed
from fl.reports.trees_told import grown_sentence, histogram_sentences, share_of
from fl.runs.config import RunConfig
from fl.runs.folder import read_config, read_object
from fl.runs.scoring import load_model
from fl.runs.verdict import OWN_EVIDENCE, verdict

FIELD = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
MARK = "**To be filled in**"
FIGURES = ("average_precision", "roc_auc", "precision", "recall", "f1", "card_precision_at_100")
KINDS = {
    "mlp": "A network of $parameters parameters",
    "trees": "Boosted trees of $parameters nodes in all",
    "noisy-or": "A noisy-or model of $parameters parameters (a logistic model, or a compromised party)",
}
NOT_EXAMINED = "- Not examined: run `python -m demos evaluate` on this run, then `demos card` again."


@dataclass(frozen=True)
class FinishedRun:
    """The files of a run that its cards use. `report` is empty before `demos evaluate`."""

    config: RunConfig
    schema: Schema
    features: tuple[str, ...]
    threshold: float
    rule: Mapping[str, Any] = field(repr=False)  # how it was chosen
    manifest: Mapping[str, Any] = field(repr=False)
    result: Mapping[str, Any] = field(repr=False)
    report: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Cards:
    """Both texts as Markdown, and the number of fields that a person must fill in in each."""

    model_card: str = field(repr=False)
    dpia: str = field(repr=False)
    open_in_model_card: int
    open_in_dpia: int


def read_run(run: Path) -> FinishedRun:
    """The finished run in folder `run`. Raises `RunFolderError` when it is not a finished run."""
    model = load_model(run)
    manifest, result = (read_object(run / name) for name in ("manifest.json", "result.json"))
    report = read_object(run / "report.json") if (run / "report.json").exists() else {}
    config = read_config(run)
    return FinishedRun(config, model.schema, model.features, model.threshold, model.rule, manifest, result, report)


def cards(run: FinishedRun) -> Cards:
    """Both cards of a run."""
    values = {**_run(run), **_data(run), **_figures(run), **_privacy(run), **_examination(run)}
    card, dpia = (_flowing(Template(_for_a_person(card)).substitute(values)) for card in (MODEL_CARD, DPIA))
    return Cards(card, dpia, card.count(f"{MARK}:"), dpia.count(f"{MARK}:"))


def write_cards(run: Path, folder: Path) -> Cards:
    """Write model-card.md and dpia.md of the run in `run` to `folder`."""
    both = cards(read_run(run))
    folder.mkdir(parents=True, exist_ok=True)
    replace_durably(folder / "model-card.md", both.model_card.encode())
    replace_durably(folder / "dpia.md", both.dpia.encode())
    return both


def _for_a_person(template: str) -> str:
    """The template with fields for a person in their final form, one line each."""

    def marked(mark: re.Match[str]) -> str:
        return f"{MARK}: {' '.join(mark[1].split())}."

    return FIELD.sub(marked, template)


def _flowing(filled: str) -> str:
    """The text with one line per paragraph and list item, because filled-in values have any length."""
    lines: list[str] = []
    for line in filled.splitlines():
        begins = not line.strip() or line.startswith(("#", "- ", "|"))
        if begins or not lines or not lines[-1] or lines[-1].startswith(("#", "|")):
            lines.append(line.rstrip())
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines) + "\n"


def _run(run: FinishedRun) -> dict[str, str]:
    manifest, result, config = run.manifest, run.result, run.config
    encrypted = config.aggregation.mode == "encrypted"
    return {
        "run_id": text(manifest["run_id"]),
        "git_revision": text(manifest["git_revision"]),
        "versions": ", ".join(text(f"{name} {version}") for name, version in manifest["versions"].items()),
        "seed": str(config.seed),
        "banks": str(result["banks"]),
        "trained": _trained(run),
        "parameters": f"{result['parameters']:,}",
        "model_line": Template(KINDS[config.model.kind]).substitute(parameters=f"{result['parameters']:,}"),
        "sends": _sends(run),
        "choice_lines": "" if (why := choice_sentence(result)) is None else f"\n- Why this model: {text(why)}.",
        "poisoning_lines": "".join(f"\n- Updates: {text(line)}." for line in _poisoning(result)),
        "feature_count": str(len(run.features)),
        "features": ", ".join(text(name) for name in run.features),
        "threshold": f"{run.threshold:.3f}",
        "threshold_rule": text(rule_in_words(run.rule, days=run.schema.words.days)),
        "threshold_of_figures": f"{float(result['metrics']['threshold']):.3f}",
        "calibration_line": _calibration(result),
        "receives_table": _receives(encrypted, ruled=config.robust is not None, sums=summed(result)),
        "risks_table": _risks(run, encrypted),
        "aggregation_measure": (
            f"{summed(result).several.capitalize()} are encrypted under CKKS and masked pairwise; only "
            "the sum over one closed roster of all banks can be opened, once (docs/threat-model.md names the tests "
            "that hold this, and the limits)."
            + (f" Beyond that, {SEEN_FOR_A_RULE}." if config.robust is not None else "")
            if encrypted
            else "None: this run averaged updates in plain sight. It must not be used on real customers like this."
        ),
    }


def _trained(run: FinishedRun) -> str:
    """How banks trained, and what happened to what they sent."""
    rounds, encrypted = run.result["rounds"], run.config.aggregation.mode == "encrypted"
    if run.config.trees is not None:
        how = "encrypted and masked: nobody saw those of one bank" if encrypted else "added up in plain sight"
        if run.config.privacy is not None:
            return f"by {grown_sentence(run.result)}. Sums of leaves were {how}"
        return f"by {grown_sentence(run.result)}. Histograms were {how}"
    algorithm = "joint steps" if run.config.model.kind == "noisy-or" else run.config.algorithm.name
    return f"in {rounds} rounds of {algorithm}; averages of updates were {_aggregation(run, encrypted)}"


def _sends(run: FinishedRun) -> str:
    rounds = run.result["rounds"]
    if run.config.trees is not None:
        if run.config.privacy is not None:
            return f"sends noisy sums of its own rows by leaf, one for each of {rounds} trees"
        return f"sends histograms of its own rows, in {rounds} sums"
    return (
        f"trains on its own rows, and sends one vector of {run.result['parameters']:,} numbers per round, "
        f"{rounds} rounds"
    )


def _calibration(result: Mapping[str, Any]) -> str:
    fitted = result.get("calibration")
    if fitted is None:
        return "The score is no probability, and nothing turns it into one."
    return (
        f"The score is no probability. The column calibrated that `demos score` writes beside it is one: it was fitted "
        f"to {fitted['rows']:,} labelled rows that the model was not trained on, with {fitted['frauds']:,} frauds."
    )


def _aggregation(run: FinishedRun, encrypted: bool) -> str:
    if not encrypted:
        return "taken in plain sight"
    if run.config.robust is not None:
        return f"encrypted and masked; {SEEN_FOR_A_RULE}"
    return "encrypted and masked: nobody saw a single one"


def _poisoning(result: Mapping[str, Any]) -> list[str]:
    return [line for line in (rule_sentence(result), attack_sentence(result)) if line is not None]


def _receives(encrypted: bool, *, ruled: bool, sums: Summed) -> str:
    rows = [("party", "receives", f"learns of one bank's {sums.several}")]
    if encrypted:
        rows += [
            ("each bank", sums.received, "its own only"),
            ("aggregator", "masked ciphertexts and their sum", "nothing"),
            ("key holder", sums.opened, "nothing beyond that sum"),
        ]
        if ruled:
            rows[-1] = (
                "key holder",
                "one sum and products of sketches per round",
                "its inner products with the others'",
            )
            rows.append(("key holder and aggregator together", "sketches of all updates", "its sketch, or all of it"))
    else:
        rows.append(("everyone", f"every {sums.one}", "all of it"))
    return _table(rows)


def _risks(run: FinishedRun, encrypted: bool) -> str:
    private = run.config.privacy is not None
    rows = [
        ("risk", "source", "what stands against it here", "likelihood and severity"),
        (
            "a bank's update gives away its customers",
            "aggregator, network, other banks",
            "encryption and masks" if encrypted else "nothing: averages in plain sight",
            f"{MARK}: judge.",
        ),
        *_risk_of_histograms(run),
        (
            "the model gives away that a transaction was in training",
            "anyone with the model",
            "differential privacy of training rows" if private else "nothing: no differential privacy",
            f"{MARK}: judge.",
        ),
        (
            "shared counts give away transactions at a terminal",
            "other banks",
            _against_counts(run),
            f"{MARK}: judge.",
        ),
        *_risk_of_own_evidence(run),
        (
            "an honest customer is stopped or suspected",
            "false alerts",
            _precision_line(run),
            f"{MARK}: judge.",
        ),
        (
            "some groups are suspected more, or protected less",
            "the data, the model",
            "rates per group, if evaluated with them (`demos evaluate --by`)",
            f"{MARK}: judge.",
        ),
        ("fraud changes and the model does not", "time", "drift alarms of `demos evaluate`", f"{MARK}: judge."),
        (
            "a bank, or someone in it, spoils the model",
            "poisoned updates",
            "clipping of every coordinate; "
            + ("no detection" if run.config.robust is None else f"the rule {run.config.robust.rule}, on updates only"),
            f"{MARK}: judge.",
        ),
    ]
    return _table(rows)


def _against_counts(run: FinishedRun) -> str:
    if run.config.statistics is None:
        return "no counts are shared"
    if run.config.privacy is not None:
        return "noise"
    if run.config.model.inputs == "risk":
        return "nothing: exact counts of frauds, none suppressed"
    return "suppression of cells with few banks only"


def _risk_of_histograms(run: FinishedRun) -> list[tuple[str, str, str, str]]:
    told = (run.result.get("trees") or {}).get("told")
    if told is None:
        return []
    against = (
        f"sums over {run.result['banks']} banks hide whose row it is; nothing hides the label. Cells with one row: "
        f"{share_of(told['root'])} at the root, {share_of(told['deepest'])} at the deepest level"
    )
    return [("a cell of a histogram with one row gives away its label", "every party", against, f"{MARK}: judge.")]


def _risk_of_own_evidence(run: FinishedRun) -> list[tuple[str, str, str, str]]:
    if not _knows_own_evidence(run):
        return []
    source = "whoever sees the scores, alerts or declines of a bank that adds its own labels, or its model at home"
    against = "nothing: they have no epsilon. Scores from released values alone have the run's"
    return [("scores give away single labels of a bank", source, against, f"{MARK}: judge.")]


def _knows_own_evidence(run: FinishedRun) -> bool:
    return run.result["metrics"].get(OWN_EVIDENCE) is not None


def _precision_line(run: FinishedRun) -> str:
    metrics = run.result["metrics"]
    if metrics["precision"] == metrics["recall"] == 0.0:
        return f"no alert on {run.schema.words.test} was a fraud, if there was any alert; a person reviews"
    share = 1.0 - float(metrics["precision"])
    return f"{percent(share)} of alerts on {run.schema.words.test} were no fraud; a person reviews"


def _data(run: FinishedRun) -> dict[str, str]:
    data, schema = run.manifest["data"], run.schema
    parts = {name: [bank[name] for bank in data["banks"].values()] for name in ("train", "validation")}
    tests = [window for bank in data["banks"].values() for window in bank["test"]]
    counts = {
        f"{part}_{key}": f"{sum(row[key] for row in rows):,}"
        for part, rows in {**parts, "test": tests}.items()
        for key in ("rows", "frauds")
    }
    return {
        **counts,
        "source": code(data["source"]),
        "schema": code(data["schema"]),
        "schema_sha256": text(data["schema_sha256"]),
        "rows": f"{data['rows']:,}",
        "frauds": f"{data['frauds']:,}",
        "never_warns": percent(1.0 - data["frauds"] / data["rows"]),
        "span": text(span(schema, data)),
        "partition": text(data["partition"]),
        "periods": json.dumps(data["periods"]),
        **_of_whom(schema),
        "columns": ", ".join(code(name) for name in schema.columns_read()),
        "never": ", ".join(code(name) for name in schema.never) or "none named",
    }


def _of_whom(schema: Schema) -> dict[str, str]:
    """What the rows of validation and test are, in the words that fit the schema."""
    words, split = schema.words, schema.split
    if isinstance(split, ColumnSplit) and split.validation:
        validation = "as a column of the data names them"
    elif words.cards:
        validation = f"other customers of the same {'days' if words.days else 'period'}"
    else:
        validation = "other rows of the same period"
    blocks = words.cards and schema.time is not None and not isinstance(split, ColumnSplit)
    compromised = f"compromised {words.checked}" if words.cards else "frauds"
    return {
        "validation_rows_of": words.validation,
        "validation_of": validation,
        "top_line": f"{words.precision_at(TOP_CARDS, short=True)} is the share of {compromised} among the {TOP_CARDS} "
        f"most suspicious{' of a day' if words.days else ' of all'}",
        "blocked_line": f"Customers known to be compromised are {'' if blocks else 'not '}left out of the test."
        if words.cards
        else "No column names customers, so that none is left out of the test.",
        "delay_line": f"A label is known {schema.label.delay_days} days after its transaction, to features as well."
        if words.days
        else "A label is known with its transaction.",
        "transactions": "card transactions" if words.cards else "transactions",
        "held_for": "days" if words.days else "rows",
    }


def _figures(run: FinishedRun) -> dict[str, str]:
    metrics, baselines = run.result["metrics"], run.result["baselines"]
    words = run.schema.words
    rows: list[Sequence[str]] = [("model", *FIGURES[:-1], words.precision_at(TOP_CARDS, short=True))]
    compared = {"this model": metrics}
    if (evidence := metrics.get(OWN_EVIDENCE)) is not None:
        compared[WITH_OWN_EVIDENCE] = evidence
    compared |= {BASELINES.get(name) or text(name): figures for name, figures in baselines.items()}
    rows += [(name, *(f"{figures[key]:.3f}" for key in FIGURES)) for name, figures in compared.items()]
    low, high = metrics["average_precision_range"]
    own = metrics["average_precision"]
    return {
        "results_table": _table(rows),
        "window_line": f"Average precision over test windows: {low:.3f} to {high:.3f} ({len(metrics['windows'])}).",
        "pooled_line": _beside(baselines.get("pooled"), own, "average precision {other:.3f} against {own:.3f}."),
        "alone_line": verdict(run.result).sentence,
        "quality_line": f"Average precision {own:.3f} on {words.test}; the model card has every baseline's figures.",
    }


def _beside(baseline: Mapping[str, Any] | None, own: float, sentence: str) -> str:
    if baseline is None:
        return "not known, since the run was made without baselines."
    return sentence.format(other=baseline["average_precision"], own=own)


def _privacy(run: FinishedRun) -> dict[str, str]:
    privacy, statistics = run.result["privacy"], run.result["statistics"]
    lines = {"not_covered": "; ".join(text(each) for each in privacy["not_covered"])}
    lines["outside_line"] = OUTSIDE_EPSILON if _knows_own_evidence(run) else "No bank's own labels enter its scores."
    if privacy["epsilon"] is None:
        lines["privacy_line"] = "Trained without differential privacy."
        if told := histogram_sentences(run.result):
            lines["privacy_line"] = " ".join(f"{each[0].upper()}{each[1:]}." for each in told)
    else:
        lines["privacy_line"] = (
            f"Epsilon {privacy['epsilon']:.3f} at delta {privacy['delta']:g} was spent "
            f"({text(privacy['accountant'])}), for one {text(privacy['unit'])}."
        )
        if (means := protection_sentence(privacy)) is not None:
            lines["privacy_line"] += f" {means[0].upper()}{means[1:]}."
    if statistics is None:
        lines["statistics_line"] = "No statistics were shared."
        lines["statistics_measure"] = "None were shared."
    else:
        lines["statistics_line"] = (
            f"Counts of {text(', '.join(f'{kind}s' for kind in statistics.get('kinds', ['terminal'])))} were shared "
            f"over all banks ({text(statistics['mode'])}, "
            f"{statistics['periods']} periods)."
        )
        lines["statistics_measure"] = text(
            statistics["warning"] if "warning" in statistics else f"Noise for one {statistics['unit']}."
        )
    return lines


def _examination(run: FinishedRun) -> dict[str, str]:
    report = run.report
    if not report:
        return {
            "fairness_lines": NOT_EXAMINED,
            "examination_lines": NOT_EXAMINED,
            "drift_line": "Drift was not looked for yet.",
        }
    lines = [f"- {text(finding['text'])}" for finding in report["findings"]]
    groups = [f"- {_groups(column)}" for column in report["fairness"]["columns"]]
    drift = report["drift"]
    watched = (
        f"{len(drift['alarms'])} drift alarm(s) in {len(drift['days'])} test days"
        if drift["available"]
        else (f"Drift was not looked for: {text(drift['why'])}")
    )
    return {
        "fairness_lines": "\n".join(groups),
        "examination_lines": "\n".join(lines),
        "drift_line": f"{watched}; scores, errors and every feature are watched (docs/evaluation.md).",
    }


def _groups(column: Mapping[str, Any]) -> str:
    shown = [
        f"{text(group['group'])}: {percent(group['recall'])} of {group['frauds']:,} frauds"
        + (" (small)" if group["small"] else "")
        for group in column["groups"]
        if group["recall"] is not None
    ]
    return f"By {text(column['column'])}, share of frauds found: {', '.join(shown)}."


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    rule = "|".join(["---"] * len(rows[0]))
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in body)])
