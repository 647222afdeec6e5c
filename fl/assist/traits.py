"""Request category, sentiment, urgency and entities of transaction descriptions, as additional model inputs.

Each bank asks about its own descriptions, redacted with its own words. Equal redacted texts are asked about once.
A description without an answer of the expected structure gets no traits; a column marks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.assist.answers import CATEGORIES, Traits, TraitsAnswer
from fl.assist.descriptions import Described
from fl.assist.errors import AnswerMalformed
from fl.assist.gateway import Gateway, ItemAnswer, Progress
from fl.assist.prompts import load_prompt
from fl.assist.provider import MadeBy, Task
from fl.data.federation import BankData, Federation, Rows

TOKENS_PER_ITEM = 120  # output limit; an answer takes about half
SENTIMENT = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}
URGENCY = {"none": 0.0, "some": 0.5, "high": 1.0}
TRAIT_NAMES = (
    *(f"text_category={name}" for name in CATEGORIES),
    "text_sentiment",
    "text_urgency",
    "text_parties",
    "text_places",
    "text_unanswered",
)


@lru_cache(maxsize=1)
def task() -> Task[Traits]:
    """The request for traits."""
    return Task(load_prompt("traits"), TraitsAnswer, "answers", TOKENS_PER_ITEM, _check)


def _check(traits: Traits, question: dict[str, Any]) -> None:
    """Entities must be in the text, word for word: otherwise the provider has invented them."""
    text = " ".join(str(value) for name, value in question.items() if name != "item")
    if any(not entity.text or entity.text not in text for entity in traits.entities):
        raise AnswerMalformed("an entity is not in its description")


@dataclass(frozen=True)
class BankTraits:
    """Traits of one bank's rows. `index`: int64[n], ascending, as in `Rows.index`; `values`: float32[n, d]."""

    bank: str
    index: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.float32] = field(repr=False)
    made_by: MadeBy
    texts: int  # number of different descriptions
    unanswered: Counter[str]  # different descriptions without an answer, by reason


def bank_traits(
    described: Described, bank: BankData, column: str, gateway: Gateway, progress: Progress | None = None
) -> BankTraits:
    """Traits of all rows of `bank` in any period. Raises what the gateway raises."""
    index = np.unique(np.concatenate([rows.index for rows in (bank.train, bank.validation, *bank.test)]))
    texts = described.with_text.text[column][described.positions(index)]
    different, code = np.unique(texts.astype(str), return_inverse=True)
    outcomes = gateway.ask_each(task(), [{column: str(text)} for text in different], progress)
    values = np.array([_columns(outcome) for outcome in outcomes], np.float32).reshape(-1, len(TRAIT_NAMES))
    missed = Counter(outcome.reason for outcome in outcomes if outcome.reason is not None)
    return BankTraits(bank.name, index, values[code], outcomes[0].made_by, len(different), missed)


def with_traits(federation: Federation, traits: Sequence[BankTraits]) -> Federation:
    """The federation with every bank's traits as additional columns, clipped to the schema's bound."""
    bound = federation.schema.bound
    banks = tuple(_with_columns(bank, _lookup(of, bound)) for bank, of in zip(federation.banks, traits, strict=True))
    return replace(federation, banks=banks, feature_names=(*federation.feature_names, *TRAIT_NAMES))


def _columns(outcome: ItemAnswer[Traits]) -> list[float]:
    value = outcome.value
    if value is None:
        return [0.0] * (len(TRAIT_NAMES) - 1) + [1.0]
    kinds = Counter(entity.kind for entity in value.entities)
    category = [float(value.category == name) for name in CATEGORIES]
    return [
        *category,
        SENTIMENT[value.sentiment],
        URGENCY[value.urgency],
        float(kinds["party"]),
        float(kinds["place"]),
        0.0,
    ]


def _lookup(traits: BankTraits, bound: float) -> Callable[[Rows], NDArray[np.float32]]:
    values = np.clip(traits.values, -bound, bound).astype(np.float32)
    return lambda rows: values[np.searchsorted(traits.index, rows.index)]


def _with_columns(bank: BankData, columns: Callable[[Rows], NDArray[np.float32]]) -> BankData:
    def widened(rows: Rows) -> Rows:
        return replace(rows, x=np.concatenate([rows.x, columns(rows)], axis=1))

    return replace(
        bank,
        train=widened(bank.train),
        validation=widened(bank.validation),
        test=tuple(widened(test) for test in bank.test),
    )
