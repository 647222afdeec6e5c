"""The allowed answers as pydantic models: fixed lists of words, bounded numbers, bounded text, no extra fields.

The provider gets the models as a strict JSON schema, and the answers are checked by them. Lengths of text are
checked here and not in the schema, because OpenAI's strict mode does not support maxLength. Text of an answer is
shown to people and written to csv files, so it holds no control characters.

Leaves to others: whether an answer is correct; synthetic rows, whose model depends on a schema (`synthetic`).
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

MAX_ENTITIES = 8
MAX_TEXT = 240  # characters of a comment or description

Category = Literal[
    "groceries",
    "fuel",
    "dining",
    "electronics",
    "travel",
    "digital",
    "health",
    "home",
    "transfer",
    "housing",
    "membership",
    "refund",
    "fee",
    "other",
]
Sentiment = Literal["negative", "neutral", "positive"]
Urgency = Literal["none", "some", "high"]
Verdict = Literal["likely_fraud", "unclear", "likely_genuine"]
Reason = Literal[
    "unusual_amount",
    "unusual_time",
    "unusual_frequency",
    "risky_terminal",
    "urgent_wording",
    "advance_payment_wording",
    "matches_history",
    "ordinary_purchase",
    "too_little_information",
]
CATEGORIES: tuple[str, ...] = get_args(Category)


def _short_and_plain(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"at most {MAX_TEXT} characters are accepted")
    if any(unicodedata.category(c).startswith("C") for c in text):
        raise ValueError("control characters are not accepted")
    return text


PlainText = Annotated[str, AfterValidator(_short_and_plain)]


class AnswerPart(BaseModel):
    """Base class of all parts of an answer: no unknown fields, no conversion of types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entity(AnswerPart):
    """A party or a place, word for word from the redacted text."""

    kind: Literal["party", "place"]
    text: PlainText


class Traits(AnswerPart):
    """What a description says. `item`: number of the description in its request."""

    item: int
    category: Category
    sentiment: Sentiment
    urgency: Urgency
    entities: list[Entity] = Field(max_length=MAX_ENTITIES)


class TraitsAnswer(AnswerPart):
    answers: list[Traits]


class Review(AnswerPart):
    """A second assessment of one alert. It orders a queue and decides nothing."""

    item: int
    verdict: Verdict
    confidence: float = Field(ge=0.0, le=1.0)
    reasons: list[Reason] = Field(min_length=1, max_length=4)
    comment: PlainText


class ReviewAnswer(AnswerPart):
    answers: list[Review]


def misfit(fault: ValidationError) -> str:
    """Says which fields do not fit and why, without their values, which may hold what must not be logged."""
    problems = {f"{'.'.join(str(p) for p in e['loc']) or 'answer'}: {e['type']}" for e in fault.errors()}
    return f"the answer does not fit its structure ({'; '.join(sorted(problems)[:5])})"
