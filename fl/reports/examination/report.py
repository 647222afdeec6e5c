"""Build the report of an examination as one JSON object, the content of `report.json` and of the page.

What it does: `examine` puts the parts together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fl.reports.chosen import choice_sentence
from fl.reports.examination.calibration import calibration
from fl.reports.examination.drift import drift
from fl.reports.examination.evidence import Evidence, gather
from fl.reports.examination.explanations import explanations
from fl.reports.examination.fairness import fairness
from fl.reports.examination.figures import comparison, figures
from fl.reports.examination.findings import findings
from fl.reports.examination.review import Team, review
from fl.reports.examination.scaling import scaling
from fl.reports.examination.timeliness import timeliness
from fl.reports.left_out import attack_sentence, rule_sentence
from fl.reports.protected import protection_sentence
from fl.reports.spans import span
from fl.reports.trees_told import grown_sentence, histogram_sentences
from fl.runs.verdict import verdict

FORMAT = "examination 1"
PARTS = ("figures", "comparison", "calibration", "timeliness", "drift", "fairness", "explanations", "scaling")

Progress = Callable[[int], None]  # takes the number of finished steps: reading, then each part


def examine(
    run: Path,
    *,
    columns: Sequence[str] = (),
    team: Team | None = None,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """The report of the finished run in folder `run`; `columns`: by which to compare groups (`fairness`).

    `team`: who reviews alerts, and how many; None: nobody said.

    Raises what `gather` and the parts raise. Nothing is written.
    """
    evidence = gather(run)
    torch.set_num_threads(evidence.config.threads)
    progress(1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "figures": lambda: {**figures(evidence), "review": review(evidence, team)},
        "comparison": lambda: comparison(evidence),
        "calibration": lambda: calibration(evidence),
        "timeliness": lambda: timeliness(evidence),
        "drift": lambda: drift(evidence),
        "fairness": lambda: fairness(evidence, columns),
        "explanations": lambda: explanations(evidence),
        "scaling": lambda: scaling(evidence),
    }
    report: dict[str, Any] = {"format": FORMAT, "run": about(evidence)}
    for done, name in enumerate(PARTS, start=2):
        report[name] = parts[name]()
        progress(done)
    report["findings"] = findings(report)
    return report


def about(evidence: Evidence) -> dict[str, Any]:
    """Which run this is: counts, dates and settings; no rows."""
    manifest, result = evidence.manifest, evidence.stored("result.json")
    data = manifest["data"]
    privacy = result["privacy"]
    gain, sentence = verdict(result)
    return {
        "run_id": manifest["run_id"],
        "git_revision": manifest["git_revision"],
        "versions": manifest["versions"],
        "aggregation": evidence.config.aggregation.mode,
        "algorithm": evidence.config.algorithm.name,
        "rounds": result["rounds"],
        "seed": evidence.config.seed,
        "banks": len(evidence.bank_names),
        "parameters": result["parameters"],
        "features": list(evidence.federation.feature_names),
        "data": {key: value for key, value in data.items() if key != "banks"},
        "test_windows": evidence.windows,
        "train_rows": len(evidence.train),
        "validation_rows": len(evidence.validation),
        "test_rows": len(evidence.test),
        "privacy": {
            **{key: privacy[key] for key in ("epsilon", "delta", "unit", "accountant", "not_covered")},
            "protection": privacy.get("protection"),
            "protection_sentence": protection_sentence(privacy),
        },
        "model": evidence.config.model.kind,
        "span": span(evidence.schema, data),
        "words": asdict(evidence.schema.words),
        "rule": rule_sentence(result),
        "attack": attack_sentence(result),
        "choice": choice_sentence(result),
        "trees": grown_sentence(result),
        "told": list(histogram_sentences(result)),
        "verdict": sentence,
        "gain_over_alone": gain,
    }
