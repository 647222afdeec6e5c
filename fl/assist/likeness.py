"""Compare synthetic transactions with a bank's real rows: near-copies, distances, distributions, a detector.

A near-copy is a synthetic row that is closer to a training row than all but a share of `COPY_QUANTILE` of the bank's
held-out rows. Distances are computed twice, with the exact time and with the time of day, so that a copy that was moved
by whole days is detected. By construction, up to twice that share of rows that are no copies is flagged.

The distance to the closest record against a holdout follows Zhao et al. 2021 (CTAB-GAN) and Platzer and Reutterer 2021;
the detector is the classifier two-sample test of Lopez-Paz and Oquab 2017.

The comparison runs on the bank's own machine. Only figures and row numbers are returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from fl.data.reading import Transactions
from fl.data.schema import DAY_US, MICROSECONDS, Schema

COPY_QUANTILE = 0.01  # share of the bank's held-out rows that are this close to a training row by chance
MAX_REFERENCE = 50_000  # training rows that a set is compared with
MAX_HOLDOUT = 2_000  # held-out rows that set the threshold
LEAST_PER_CLASS = 5  # rows of a class; with fewer, its columns are not examined
TEXT_WIDTH = 64  # number of hashed n-grams of a text in the distance
BINS = 8  # bins of a number in a marginal; half as many in a pair
DAY_RADIUS = 24 / (2 * np.pi)  # radius of the day as a circle with a circumference of 24 hours

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class RealRows:
    """One bank's real rows, under a schema that reads every text column. `train`, `holdout`: positions in `table`."""

    name: str
    table: Transactions
    train: NDArray[np.int64] = field(repr=False)
    holdout: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Likeness:
    """Comparison of the set with one bank's rows. A figure is None where there are too few rows.

    `closest_median`, `holdout_median`: distance to the closest training row, of synthetic and of held-out rows.
    `nearer_to_training`: share of synthetic rows that lie closer to training than to equally many held-out rows
    (0.5 when nothing was memorised). `marginal`, `pairwise`: Jensen-Shannon divergence in bits, by column and
    class, and total variation of pairs. `detector_auc`: AUC of a classifier; 0.5 when it cannot distinguish
    real from synthetic rows.
    """

    bank: str
    copies: int
    closest_median: float
    holdout_median: float
    nearer_to_training: float
    marginal: dict[str, float]
    pairwise_mean: float | None
    pairwise_max: float | None
    detector_auc: float | None


def compared(table: Transactions, bank: RealRows, seed: int) -> tuple[Likeness, list[int]]:
    """Figures of the comparison with one bank, and the row numbers of near-copies in the set."""
    rng = np.random.default_rng(seed)
    everything = np.arange(len(table), dtype=np.int64)
    train = _sample(bank.train, MAX_REFERENCE, rng)
    holdout = _sample(bank.holdout, MAX_HOLDOUT, rng)
    copies: set[int] = set()
    for moment in (True, False):
        reference = _space(bank.table, train, moment)
        ours = _closest(reference, _space(table, everything, moment))
        theirs = _closest(reference, _space(bank.table, holdout, moment))
        copies |= {int(table.index[i]) for i in np.flatnonzero(ours <= np.quantile(theirs, COPY_QUANTILE))}
    equal = _sample(train, len(holdout), rng)
    synthetic = _space(table, everything, False)
    to_train = _closest(_space(bank.table, equal, False), synthetic)
    to_holdout = _closest(_space(bank.table, holdout[: len(equal)], False), synthetic)
    nearer = float(np.mean((to_train < to_holdout) + 0.5 * (to_train == to_holdout)))
    marginal, pairs = _divergences(table, bank, train)
    figures = Likeness(
        bank=bank.name,
        copies=len(copies),
        closest_median=float(np.median(ours)),
        holdout_median=float(np.median(theirs)),
        nearer_to_training=nearer,
        marginal=marginal,
        pairwise_mean=float(np.mean(pairs)) if pairs else None,
        pairwise_max=max(pairs, default=None),
        detector_auc=_detector(synthetic, _space(bank.table, _sample(train, len(table), rng), False), seed),
    )
    return figures, sorted(copies)


def _sample(positions: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if len(positions) <= most:
        return positions
    return np.sort(rng.choice(positions, most, replace=False))


def _space(table: Transactions, rows: NDArray[np.int64], moment: bool) -> Matrix:
    """Rows as points, float64[len(rows), d].

    A distance of 1 is one hour, one spread of the amount, one scale of a number, or a different word.
    """
    schema, parts = table.schema, [np.zeros((len(rows), 0))]
    if table.time is not None and _has_calendar(schema):
        parts.append(_clock(table.time[rows], moment))
    if table.amount is not None and schema.amount is not None:
        amount = table.amount[rows]
        parts.append((np.sign(amount) * np.log1p(np.abs(amount)) / schema.amount.spread)[:, None])
    for number in schema.numeric:
        values = np.nan_to_num(table.numeric[number.column][rows])
        if number.transform != "identity":
            values = np.sign(values) * np.log1p(np.abs(values))
        parts.append(((values - number.center) / number.scale)[:, None])
    for category in schema.categorical:
        party = table.categorical[category.column]
        parts.append(_hashed([str(word) for word in party.ids[party.code[rows]]], "word"))
    parts += [_hashed([str(t) for t in table.text[c.column][rows]], "char_wb") for c in schema.text]
    return np.concatenate(parts, axis=1)


def _has_calendar(schema: Schema) -> bool:
    return schema.time is not None and schema.time.measures_days


def _clock(time_us: NDArray[np.int64], moment: bool) -> Matrix:
    hours = time_us / MICROSECONDS["hours"]
    if moment:
        return hours[:, None].astype(np.float64)
    angle = (time_us % DAY_US) / DAY_US * 2 * np.pi
    return DAY_RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _hashed(texts: list[str], analyzer: str) -> Matrix:
    if not texts:  # the vectoriser ends in StopIteration without a first row
        return np.zeros((0, TEXT_WIDTH))
    ngrams = (3, 5) if analyzer == "char_wb" else (1, 1)
    vectorizer = HashingVectorizer(analyzer=analyzer, ngram_range=ngrams, n_features=TEXT_WIDTH, norm="l2")
    hashed: Matrix = vectorizer.transform(texts).toarray()
    return hashed


def _closest(reference: Matrix, points: Matrix) -> Matrix:
    """float64[len(points)]: distance of each point to the nearest of `reference`."""
    distance, _ = NearestNeighbors(n_neighbors=1).fit(reference).kneighbors(points)
    nearest: Matrix = distance[:, 0]
    return nearest


def _divergences(table: Transactions, bank: RealRows, train: NDArray[np.int64]) -> tuple[dict[str, float], list[float]]:
    """Jensen-Shannon divergence (bits) by column and class, and total variation of every pair of columns."""
    assert table.label is not None and bank.table.label is not None
    marginal: dict[str, float] = {}
    pairs: list[float] = []
    for name, fraud in (("genuine", 0), ("fraud", 1)):
        ours = np.flatnonzero(table.label == fraud)
        theirs = train[bank.table.label[train] == fraud]
        if min(len(ours), len(theirs)) < LEAST_PER_CLASS:
            continue
        fine = _binned(table, ours, bank.table, theirs, BINS)
        coarse = _binned(table, ours, bank.table, theirs, BINS // 2)
        marginal |= {f"{column}, {name}": _jensen_shannon(a, b) for column, (a, b) in fine.items()}
        for (_, (a1, b1)), (_, (a2, b2)) in combinations(coarse.items(), 2):
            joint = [x * (max(*a2, *b2) + 1) + y for x, y in ((a1, a2), (b1, b2))]
            pairs.append(_total_variation(*joint))
    return marginal, pairs


Bins = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


def _binned(
    table: Transactions, ours: NDArray[np.int64], real: Transactions, theirs: NDArray[np.int64], bins: int
) -> Bins:
    """Every column as whole numbers, alike on both sides: numbers by quantiles of the real rows, words by code."""
    binned: Bins = {}

    def numbers(name: str, a: Matrix, b: Matrix) -> None:
        edges = np.unique(np.nanquantile(b, np.linspace(0, 1, bins + 1)[1:-1]))
        binned[name] = (np.searchsorted(edges, a), np.searchsorted(edges, b))

    schema = table.schema
    if table.amount is not None and real.amount is not None and schema.amount is not None:
        numbers(schema.amount.column, table.amount[ours], real.amount[theirs])
    if table.time is not None and real.time is not None and _has_calendar(schema):
        clocks = [(t[rows] % DAY_US) / MICROSECONDS["hours"] for t, rows in ((table.time, ours), (real.time, theirs))]
        numbers("hour", *clocks)
    for number in schema.numeric:
        numbers(number.column, table.numeric[number.column][ours], real.numeric[number.column][theirs])
    for category in schema.categorical:
        sides = [(t.categorical[category.column], rows) for t, rows in ((table, ours), (real, theirs))]
        texts = [party.ids[party.code[rows]].astype(str) for party, rows in sides]
        _, code = np.unique(np.concatenate(texts), return_inverse=True)
        binned[category.column] = (code[: len(ours)], code[len(ours) :])
    for text in schema.text:
        column = text.column
        texts = [t.text[column][rows] for t, rows in ((table, ours), (real, theirs))]
        numbers(f"{column} length", *(np.array([len(str(value)) for value in side], np.float64) for side in texts))
    return binned


def _shares(a: NDArray[np.int64], b: NDArray[np.int64]) -> tuple[Matrix, Matrix]:
    size = int(max(a.max(), b.max())) + 1
    return np.bincount(a, minlength=size) / len(a), np.bincount(b, minlength=size) / len(b)


def _jensen_shannon(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """In bits. scipy's own distance is not used: it takes the root of a sum, which rounding may make negative."""
    p, q = _shares(a, b)
    nats = (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum() / 2
    return min(max(float(nats / np.log(2)), 0.0), 1.0)


def _total_variation(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    p, q = _shares(a, b)
    return float(np.abs(p - q).sum() / 2)


def _detector(synthetic: Matrix, real: Matrix, seed: int) -> float | None:
    """Cross-validated AUC of a classifier of real against synthetic rows; None with fewer than 20 of either."""
    if min(len(synthetic), len(real)) < 20:
        return None
    x = np.concatenate([synthetic, real])
    y = np.repeat([1, 0], [len(synthetic), len(real)])
    folds = StratifiedKFold(5, shuffle=True, random_state=seed % 2**32)
    # Not gradient boosting: its threads can block each other for minutes where other work uses the cores.
    model = RandomForestClassifier(50, min_samples_leaf=2, random_state=seed % 2**32)
    score = cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, score))
