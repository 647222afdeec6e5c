"""What reports call the models that a run is compared with, and which runs have which of them.

Every baseline is computed from private labels outside every budget. `alone_private` trains with the noise of the same
epsilon, and it is not released either.
"""

from __future__ import annotations

from fl.runs.config import RunConfig

BASELINES = {
    "alone": "each bank alone, own network, without privacy",
    "alone_filter": "each bank alone, filter on its own labels",
    "alone_private": "each bank alone, same epsilon",
    "at_home": "own models at home, with the release",
    "pooled": "all rows in one place, without privacy",
    "pooled_with_statistics": "the same with shared counts, without privacy",
    "pooled_global": "the same with features over all banks",
    "plain": "the same rounds, averaged in plain sight",
    "plain_without_privacy": "the federation without privacy",
    "without_attackers": "the same rounds without the attackers",
    "undefended": "the same rounds under attack, without the rule",
}
OWN_EVIDENCE = "own_evidence"
WITH_OWN_EVIDENCE = "this model, own labels when scoring"


def baselines_of(config: RunConfig) -> tuple[str, ...]:
    """Names of the baselines that a run with this configuration makes."""
    by_risk, shared, private = config.model.inputs == "risk", config.statistics is not None, config.privacy is not None
    has = {
        "alone_filter": by_risk,
        "alone_private": by_risk and private,
        "at_home": by_risk and shared,
        "pooled_with_statistics": shared and not by_risk,
        "plain_without_privacy": private,
        "without_attackers": config.attack is not None,
        "undefended": config.attack is not None and config.robust is not None,
    }
    return tuple(name for name in BASELINES if has.get(name, True))
