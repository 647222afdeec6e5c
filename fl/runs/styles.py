"""Defaults of model, training, precision and number of rounds that suit each other.

`style_of` chooses those of a run: without privacy, with each bank's own noise, or with shared noise. The measurements
behind them are in docs/adr: 0010 (the network), 0012 (its shared noise) and 0022 (the noisy-or model).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fl import options
from fl.learning.kinds import ModelKind
from fl.learning.model import DROPOUT, PRIOR
from fl.learning.noisy_or import BOUND
from fl.learning.noisy_or import PRIOR as NOISY_OR_PRIOR
from fl.learning.private_schedule import private_schedule
from fl.learning.training import LocalTraining
from fl.runs.config import BY_NOISE, LEAF_BOUND, ModelSettings, PrivacySettings
from fl.trees.settings import TreeSettings

HISTORY_DAYS = 56  # that the noisy-or model learns from, and trees inside its link
ROWS_PER_WEEK = 6000.0  # that a bank is declared to have, where it declares nothing
MOST_EPSILON = 1000.0  # stands for no privacy where a schedule asks for an epsilon


@dataclass(frozen=True)
class Style:
    """The defaults of a run where its configuration sets no value."""

    model: ModelSettings
    training: LocalTraining
    value_bits: Annotated[int, options.VALUE_BITS]
    rounds: Annotated[int, options.ROUNDS] = 10


# Large batches, many bits and averages applied on a grid that is coarser than these, because training amplifies the
# smallest difference: at 32 bits and without the grid, one test week of an encrypted run ended 0.005 of average
# precision away from the plain one.
OPEN = Style(
    ModelSettings(DROPOUT, PRIOR),
    LocalTraining("sgd", learning_rate=0.1, momentum=0.9, epochs=16, batch_size=512),
    value_bits=40,
)
# Without dropout, because the noise is enough regularisation; with large steps of SGD, because Adam would amplify the
# noise; with a grid that is coarse relative to the noise and hides the lowest bits of its floating-point numbers.
PRIVATE = Style(ModelSettings(0.0, PRIOR, inputs="risk"), LocalTraining("sgd", learning_rate=30.0), value_bits=16)

# Trees have no rounds of training: the rest is that of the network that they are compared with. They grow inside the
# noisy-or link where banks share counts, unless they are asked for without it.
TREES = Style(
    replace(OPEN.model, kind="trees", inputs="risk", history_days=HISTORY_DAYS), OPEN.training, OPEN.value_bits
)
# Random trees under privacy: figures in docs/adr/0032. The prior is the base score, a public guess.
PRIVATE_TREES = Style(replace(TREES.model, prior=NOISY_OR_PRIOR), OPEN.training, value_bits=16, rounds=60)
RANDOM_TREES = TreeSettings(trees=PRIVATE_TREES.rounds, depth=4, rate=0.8, penalty=200.0, bins=32)
UNLINKED_TREES = Style(replace(OPEN.model, kind="trees"), OPEN.training, OPEN.value_bits)

# Full batches, one step per round, as large as the noise allows.
SHARED = Style(
    ModelSettings(0.0, PRIOR, inputs="risk"),
    LocalTraining("sgd", BY_NOISE, momentum=0.9, pos_weight=1.0),
    value_bits=16,
    rounds=100,
)


def noisy_or_style(privacy: PrivacySettings | None) -> Style:
    """The defaults of the noisy-or model under this privacy; None: without."""
    model = ModelSettings(0.0, NOISY_OR_PRIOR, "noisy-or", "risk", HISTORY_DAYS)
    schedule = private_schedule(MOST_EPSILON if privacy is None else privacy.epsilon)
    rate = schedule.learning_rate(0.0, 1.0) if privacy is None else BY_NOISE
    training = LocalTraining("sgd", rate, momentum=schedule.momentum, pos_weight=1.0)
    return Style(model, training, value_bits=40 if privacy is None else 16, rounds=schedule.steps)


def declared_rows(history_days: int) -> float:
    """Rows of a bank that the noisy-or model learns from: the public divisor of its gradients, never a count.

    `history_days`: of `fl.runs.config.ModelSettings`. The training period counts as one week.
    """
    return ROWS_PER_WEEK * max(history_days, 7) / 7


def share_of_counts(privacy: PrivacySettings | None, kind: ModelKind) -> float:
    """Part of epsilon that counts may spend."""
    if privacy is None or kind == "mlp":
        return 0.5
    return round(private_schedule(privacy.epsilon).counts_epsilon / privacy.epsilon, 4)


def private_defaults(kind: ModelKind) -> PrivacySettings:
    """The private settings that nobody changed."""
    if kind == "noisy-or":
        return PrivacySettings(noise="shared", max_grad_norm=BOUND, expected_batch=declared_rows(HISTORY_DAYS))
    if kind == "trees":
        return PrivacySettings(noise="shared", max_grad_norm=LEAF_BOUND)
    return PrivacySettings()


def tree_defaults(privacy: PrivacySettings | None) -> TreeSettings:
    """How trees grow where nobody says otherwise: learned ones without privacy, random ones with it."""
    return TreeSettings() if privacy is None else RANDOM_TREES


def style_of(privacy: PrivacySettings | None, kind: ModelKind, inputs: str | None = None) -> Style:
    """The style of a run of this kind of model with this privacy; None: without.

    `inputs`: "own" for trees outside the noisy-or link; it says nothing of other models.
    """
    if kind == "noisy-or":
        return noisy_or_style(privacy)
    if kind == "trees":
        if privacy is not None:
            return PRIVATE_TREES
        return UNLINKED_TREES if inputs == "own" else TREES
    if privacy is not None and privacy.noise == "shared":
        return SHARED
    return PRIVATE if privacy is not None and privacy.unit == "row" else OPEN
