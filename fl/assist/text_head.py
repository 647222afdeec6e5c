"""Train a local text head: a model that scores redacted descriptions, trained by several banks in encrypted rounds.

Each bank has a file of examples (`examples`). Texts become hashed character n-grams, the ordinary model is trained on
them, and updates are averaged under encryption as in any run. This needs no provider and sends no text to anyone. It
replaces fine-tuning of a hosted model, and is the baseline for it.

A fifth of every bank's texts, by hash of the text, is kept for testing, so that equal texts are never on both
sides; another tenth is used for the threshold only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer

from fl.assist.comparison import CLIP
from fl.assist.examples import Example, ExampleFile
from fl.data.federation import BankData, Rows
from fl.data.partition import keyed_hash
from fl.learning.evaluation import Evaluation, evaluate, require_measurable
from fl.learning.model import layout, unflatten
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.play import Rounds, Schedule, play_rounds
from fl.secure.cost import plan_for
from fl.secure.session import encrypted_average

WIDTH = 256  # hashed n-grams; one public number for all banks
NGRAMS = (3, 5)
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
VALUE_BITS = 20


@dataclass(frozen=True)
class TextHead:
    """A trained head and its figures on the kept texts."""

    model: torch.nn.Module
    figures: Evaluation
    train: int
    test: int
    base_rate: float  # share of frauds among the test texts: the average precision of random scores
    max_abs_error: float  # of the encrypted averages
    bytes_up: int

    def as_json(self) -> dict[str, Any]:
        return {
            "trained_on": self.train,
            "tested_on": self.test,
            "average_precision": self.figures.mean["average_precision"],
            "roc_auc": self.figures.mean["roc_auc"],
            "base_rate": self.base_rate,
            "max_abs_error": self.max_abs_error,
            "bytes_up": self.bytes_up,
        }


def train_text_head(
    files: Sequence[ExampleFile],
    schedule: Schedule,
    *,
    engine: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> TextHead:
    """Train on one file per bank.

    Raises `fl.errors.AggregationError` for fewer than three banks and `fl.errors.MetricError` when the kept texts hold
    no fraud or nothing else.
    """
    banks = [_bank(f"bank-{i} ({file.path.name})", file.examples, schedule.seed) for i, file in enumerate(files)]
    require_measurable(banks)
    device = torch.device("cpu")
    model = schedule.first_model(WIDTH).to(device)
    plan = plan_for(layout(model).length, len(banks), CLIP, VALUE_BITS)
    rounds = Rounds(
        banks,
        schedule,
        FedAvg(Everyone(len(banks))),
        lambda joined: encrypted_average(joined.updates, plan=plan, model_hash=joined.model_hash, engine=engine),
        clip=CLIP,
        device=device,
    )
    error, sent = 0.0, 0
    for record, state in play_rounds(rounds, progress=progress):
        unflatten(model, state.model)
        error, sent = max(error, record.max_abs_error), sent + record.aggregate.bytes_up
    labels = np.concatenate([bank.test[0].y for bank in banks])
    return TextHead(
        model,
        evaluate(banks, [model] * len(banks), device),
        sum(len(bank.train) for bank in banks),
        len(labels),
        float(labels.mean()),
        error,
        sent,
    )


def hashed_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    """float32[n, WIDTH]: hashed character n-grams within words, of Euclidean length 1."""
    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=NGRAMS, n_features=WIDTH, norm="l2")
    hashed: NDArray[np.float32] = vectorizer.transform(texts).toarray().astype(np.float32)
    return hashed


def _bank(name: str, examples: Sequence[Example], seed: int) -> BankData:
    texts = [example.text for example in examples]
    place = keyed_hash(np.array(texts, object), "text head", seed).astype(np.float64) / 2.0**64
    x, y = hashed_texts(texts), np.array([example.fraud for example in examples], np.float32)
    number = np.arange(len(texts), dtype=np.int64)

    def rows(where: NDArray[np.bool_]) -> Rows:
        return Rows(x[where], y[where], np.zeros(int(where.sum()), np.int32), number[where], number[where])

    tested = place < TEST_SHARE
    validated = ~tested & (place < TEST_SHARE + VALIDATION_SHARE)
    return BankData(name, rows(~tested & ~validated), rows(validated), (rows(tested),))
