"""Why a run has its model, where `train --model auto` tried several: one sentence for output, report and card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl.plural import plural

CALLED = {"mlp": "the network", "noisy-or": "the noisy-or model", "trees": "boosted trees"}


def choice_sentence(result: Mapping[str, Any]) -> str | None:
    """What was tried, how good each was on held-out rows, and what was chosen; None where one model was named."""
    choice = result.get("choice")
    if choice is None:
        return None
    chosen, figures = choice["chosen"], choice["figures"]
    rows, frauds = figures[chosen]["rows"], figures[chosen]["frauds"]
    ranked = sorted(figures, key=lambda kind: (-figures[kind]["average_precision"], choice["tried"].index(kind)))
    measured = ", ".join(
        f"{CALLED[kind]} {figures[kind]['average_precision']:.3f} (log loss {figures[kind]['log_loss']:.4f})"
        for kind in ranked
    )
    left_out = "".join(f"; {CALLED[kind]} was not tried, since {why}" for kind, why in choice["left_out"].items())
    taken = f"{CALLED[chosen]} {'were' if chosen == 'trees' else 'was'} chosen of {plural(len(figures), 'model')}"
    return (
        f"{taken} by average precision on {rows:,} held-out rows with {plural(frauds, 'fraud')}, no test row among "
        f"them: {measured}{left_out}"
    )
