"""What reports call the models that a run is compared with, and which runs have which of them.

Every baseline is computed from private labels outside every budget. `alone_private` trains with the noise of the same
epsilon, and it is not released either.
"""

from __future__ import annotations

from fl.data.vocabulary import Words
from fl.runs.config import RunConfig
from fl.runs.verdict import OWN_EVIDENCE

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
    "alone_trees": "each bank alone, own trees",
    "pooled_trees": "trees on all rows in one place",
    "network": "the federated network, in plain sight",
}
HAD = {
    OWN_EVIDENCE: "This model; each bank adds its own labels of shared parties when it scores. They have no epsilon.",
    "alone": (
        "Each bank's own {training}, and features of its own past. It had no row, count or model of "
        "another bank, and no noise."
    ),
    "alone_filter": (
        "Eight weeks of the bank's own rows, and the risk of parties that its own labels show. It had nothing of "
        "another bank, and no noise."
    ),
    "alone_private": (
        "Each bank's own rows, with the noise that a release of its own would need at the same epsilon. It had nothing "
        "of another bank."
    ),
    "at_home": (
        "Eight weeks of the bank's own rows, its own labels, and the counts that the federation released. It had no "
        "row of another bank. The model never leaves its bank and has no epsilon."
    ),
    "pooled": (
        "All banks' training rows in one place, without noise. Its features look at the past of one bank, and it had "
        "no counts over all banks: a federation that shares counts can be better."
    ),
    "pooled_with_statistics": (
        "All banks' training rows in one place, without noise, with the federation's own columns, shared counts among "
        "them."
    ),
    "pooled_global": (
        "All banks' training rows in one place, without noise, with features that look at all banks' past, each "
        "transaction by itself. No federation here has as much."
    ),
    "plain": "The same rows, columns and rounds as this model, averaged without encryption; with privacy, other noise.",
    "plain_without_privacy": "The same banks and columns as this model, without any noise: what privacy costs.",
    "without_attackers": (
        "The same rows, columns and rounds as this model, averaged without encryption, and no update of an attacker."
    ),
    "undefended": (
        "The same rows, columns and rounds as this model, averaged without encryption, and all updates, those of the "
        "attackers too."
    ),
    "alone_trees": (
        "Each bank's own {training}, features of its own past, and bins of its own. It had no row, count or model of "
        "another bank."
    ),
    "pooled_trees": "All banks' training rows in one place, with this model's columns and settings.",
    "network": "The same banks and columns as this model, a network trained in rounds and averaged in plain sight.",
}
HAD_INSIDE_THE_LINK = {  # of a run whose trees grow beside the risk of shared parties
    "alone_trees": (
        "Eight weeks of the bank's own rows, bins of its own, and the risk of parties that its own labels show. It had "
        "nothing of another bank."
    ),
    "network": (
        "The same banks and columns as this model, the risk of parties among them, and the training rows. "
        "A network trained in rounds and averaged in plain sight."
    ),
}
OF_TREES = ("alone_trees", "pooled_trees", "network")  # baselines of a run of trees
OF_RANDOM_TREES = ("alone_filter", "alone_trees", "plain_without_privacy")  # of one under privacy
WITH_OWN_EVIDENCE = "this model, own labels when scoring"


def had(name: str, words: Words, config: RunConfig) -> str:
    """What a baseline of the run had to learn from and to score with, and what it had not, in its schema's words."""
    linked = config.model.kind == "trees" and config.model.inputs == "risk"
    told = {**HAD, **HAD_INSIDE_THE_LINK} if linked else HAD
    return told[name].format(training="rows of the training days" if words.days else "training rows")


def baselines_of(config: RunConfig) -> tuple[str, ...]:
    """Names of the baselines that a run with this configuration makes."""
    if config.model.kind == "trees":
        return OF_TREES if config.privacy is None else OF_RANDOM_TREES
    by_risk, shared, private = config.model.inputs == "risk", config.statistics is not None, config.privacy is not None
    has = {
        "alone_filter": by_risk,
        "alone_private": by_risk and private,
        "at_home": by_risk and shared,
        "pooled_with_statistics": shared and not by_risk,
        "plain": not private,  # with privacy it would be the run with other noise
        "plain_without_privacy": private,
        "without_attackers": config.attack is not None,
        "undefended": config.attack is not None and config.robust is not None,
        **dict.fromkeys(OF_TREES, False),
    }
    return tuple(name for name in BASELINES if has.get(name, True))
