"""Defaults of model, training, precision and number of rounds that suit each other.

`style_of` chooses those of a run: without privacy, with each bank's own noise, or with shared noise. The measurements
behind them are in docs/adr/0010-dp-training.md and docs/adr/0012-utility-under-privacy.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fl import options
from fl.learning.model import DROPOUT, PRIOR
from fl.learning.training import LocalTraining
from fl.runs.config import BY_NOISE, ModelSettings, PrivacySettings


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
PRIVATE = Style(ModelSettings(0.0, PRIOR), LocalTraining("sgd", learning_rate=30.0), value_bits=16)

# Full batches, one step per round, as large as the noise allows.
SHARED = Style(
    ModelSettings(0.0, PRIOR),
    LocalTraining("sgd", BY_NOISE, momentum=0.9, pos_weight=1.0),
    value_bits=16,
    rounds=100,
)


def style_of(privacy: PrivacySettings | None) -> Style:
    """The style of a run with this privacy; None: without."""
    if privacy is not None and privacy.noise == "shared":
        return SHARED
    return PRIVATE if privacy is not None and privacy.unit == "row" else OPEN
