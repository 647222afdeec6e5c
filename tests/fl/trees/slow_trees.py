"""The trees of docs/adr/0032-trees.md once more, slowly: Python integers, one row at a time, on pooled rows.

Written from the decisions, not from `fl.trees`, of which it imports nothing. It has no numpy, no histograms, no
subtraction of siblings and no packing: every node looks at its rows again. `exact=False` is the control: gradients,
steps and scores are floats that are not rounded, and each bank's part of a sum is added up before the parts are.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Any

Value = float | None  # None: missing
Sums = tuple[Any, Any, int]  # gradient, hessian, rows


@dataclass(frozen=True)
class Row:
    values: tuple[Value, ...]
    fraud: bool
    id: int
    bank: int
    offset: int | None = None  # -log q in multiples of 2^-16
    unexplained: int = 1024  # 1 - q in multiples of 2^-10


@dataclass(frozen=True)
class Asked:
    """Names as in `fl.trees.settings`."""

    categories: tuple[int, ...]
    monotone: tuple[int, ...]
    trees: int
    depth: int
    rate: float
    penalty: float
    bins: int
    class_weight: int
    least_hessian: float
    least_rows: int
    least_gain: float
    row_share: float
    column_share: float
    patience: int
    category_penalty: float
    category_smoothing: float
    most_categories: int
    seed: int
    exact: bool = True


@dataclass
class Leaf:
    rows: list[int]
    sums: Sums
    low: float = -math.inf
    high: float = math.inf
    place: int = 0
    said: tuple[Any, ...] | None = None  # (column, edge or categories that go right, missing goes left)
    children: tuple[Leaf, ...] = field(default=())
    value: Any = 0


def train(rows: Sequence[Row], validation: Sequence[Row], asked: Asked) -> tuple[Any, list[list[tuple[Any, ...]]]]:
    """(base, trees), a tree as its nodes by level: (column, edge or categories on the right, missing left, left child)
    or (leaf value,)."""
    rows = [_as_float32(row, asked) for row in rows]
    validation = [_as_float32(row, asked) for row in validation]
    edges = [
        () if k else bin_edges([row.values[i] for row in rows], asked.bins) for i, k in enumerate(asked.categories)
    ]
    frauds = Decimal(sum(row.unexplained for row in rows if row.fraud)) / 1024
    with localcontext(prec=60):
        odds = frauds * asked.class_weight / (len(rows) - frauds)
        base: Any = int((odds.ln() * 65536).to_integral_value())
    base = max(-14 * 65536, min(14 * 65536, base))
    scores, held_out = [base] * len(rows), [base] * len(validation)
    trees: list[Leaf] = []
    losses = [_loss(validation, held_out, asked)]
    for number in range(asked.trees):
        if asked.patience and len(losses) - 1 - losses.index(min(losses)) >= asked.patience:
            break
        tree = _tree(rows, scores, edges, number, asked)
        trees.append(tree)
        scores = [score + _end(tree, row.values).value for row, score in zip(rows, scores, strict=True)]
        held_out = [score + _end(tree, row.values).value for row, score in zip(validation, held_out, strict=True)]
        losses.append(_loss(validation, held_out, asked))
    kept = losses.index(min(losses)) if asked.patience else len(trees)
    return base, [_by_level(tree) for tree in trees[:kept]]


def score(model: tuple[Any, list[list[tuple[Any, ...]]]], values: Sequence[Value], categories: Sequence[int]) -> Any:
    """What a model of `train` adds up to for one row."""
    total = model[0]
    for tree in model[1]:
        node = tree[0]
        while len(node) > 1:
            column, split, missing_left, left = node
            node = tree[left + (not _goes_left(values[column], split, missing_left))]
        total += node[0]
    return total


# --- bins -----------------------------------------------------------------------------------------------------------


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def cells_of_a_power(most: int) -> int:
    """Cells between a power of two and the next, where at most so many bins are asked for."""
    return 8 if most <= 128 else 32


def cell_of(value: float, parts: int) -> int:
    """0: near zero; otherwise the sign times 1 to 40 `parts`."""
    if abs(value) < 2.0**-16:
        return 0
    mantissa, exponent = math.frexp(abs(value))
    place = (exponent - 1 + 16) * parts + int((mantissa * 2 - 1) * parts)
    return int(math.copysign(min(place, 40 * parts - 1) + 1, value))


def end_of(cell: int, parts: int) -> float:
    """The largest float32 in a cell."""
    size = abs(cell) - 1 if cell < 0 else cell
    bound = math.ldexp(1 + size % parts / parts, size // parts - 16)  # where the next larger size begins
    if cell < 0:
        return -bound
    return float(struct.unpack("<f", struct.pack("<I", struct.unpack("<I", struct.pack("<f", bound))[0] - 1))[0])


def bin_edges(values: Iterable[Value], most: int) -> tuple[float, ...]:
    counts: dict[int, int] = {}
    parts = cells_of_a_power(most)
    for value in values:
        if value is not None:
            cell = cell_of(value, parts)
            counts[cell] = counts.get(cell, 0) + 1
    rest = sorted(counts)
    weight = {cell: math.isqrt(math.isqrt(counts[cell] * 2**32)) for cell in rest}
    edges = []
    for bins in range(most, 1, -1):
        if not rest:
            break
        share = Fraction(sum(weight[cell] for cell in rest), bins)
        taken = 1
        while (
            len(rest) - taken >= bins
            and sum(weight[c] for c in rest[:taken]) + Fraction(weight[rest[taken]], 2) < share
        ):
            taken += 1
        edges.append(end_of(rest[taken - 1], parts))
        rest = rest[taken:]
    if edges and not rest:
        edges.pop()  # the last bin has no end
    return tuple(edges)


def _as_float32(row: Row, asked: Asked) -> Row:
    values = tuple(
        None if v is None else v if k else float32(v) for v, k in zip(row.values, asked.categories, strict=True)
    )
    return Row(values, row.fraud, row.id, row.bank, row.offset, row.unexplained)


# --- gradients ------------------------------------------------------------------------------------------------------


@cache
def sigmoid_at(step: int) -> int:
    """Of step / 1024, in units of 2^-30."""
    if abs(step) >= 16384:
        return 2**30 if step > 0 else 0
    with localcontext(prec=40):
        return int((Decimal(2**30) / (1 + (Decimal(-step) / 1024).exp())).to_integral_value())


@cache
def softplus_at(step: int) -> int:
    """log(1 + e^x) of x = step / 1024, in units of 2^-12."""
    if abs(step) >= 16384:
        return 16 * 4096 if step > 0 else 0
    with localcontext(prec=40):
        return int((4096 * (1 + (Decimal(step) / 1024).exp()).ln()).to_integral_value())


def _step(score: int) -> int:
    return max(-16384, min(16384, (score + 32) // 64))


def _gradient(score: Any, row: Row, asked: Asked) -> tuple[Any, Any]:
    weight = asked.class_weight if row.fraud else 1
    if not asked.exact:
        p = 1 / (1 + math.exp(-score / 65536))
        explained = 1.0 if row.offset is None else 1 / (1 + math.exp(-(score + row.offset) / 65536))
        return weight * (p - (explained if row.fraud else 0.0)), weight * p * (1 - p)
    p = sigmoid_at(_step(score))
    explained = (2**30 if row.offset is None else sigmoid_at(_step(score + row.offset))) if row.fraud else 0
    share = asked.class_weight // weight  # of the unit
    return _nearest(p - explained, 2**19 * share), _nearest(p * (2**30 - p), 2**46 * share)


def _nearest(value: int, unit: int) -> int:
    return (2 * value + unit) // (2 * unit)


def _loss(rows: Sequence[Row], scores: Sequence[Any], asked: Asked) -> int:
    total = 0
    for row, value in zip(rows, scores, strict=True):
        if not row.fraud:
            total += softplus_at(_step(value))
        else:
            other = 0 if row.offset is None else softplus_at(_step(-value - row.offset))
            total += asked.class_weight * max(0, min(16 * 4096, softplus_at(_step(-value)) - other))
    return total


# --- drawing --------------------------------------------------------------------------------------------------------


def _seed(*labels: object) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, labels)).encode()).digest()[:8], "little") >> 1


def _hash(number: int, salt: int) -> int:
    x = (number * 0x9E3779B97F4A7C15 + salt) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) >> 11


# --- a tree ---------------------------------------------------------------------------------------------------------


def _tree(
    rows: Sequence[Row], scores: Sequence[Any], edges: Sequence[tuple[float, ...]], number: int, asked: Asked
) -> Leaf:
    salt = _seed(asked.seed, "rows", number)
    drawn = [
        i for i, row in enumerate(rows) if asked.row_share == 1 or _hash(row.id, salt) < int(asked.row_share * 2**53)
    ]
    count = len(asked.categories)
    salt = _seed(asked.seed, "columns", number)
    wanted = max(1, math.ceil(asked.column_share * count))
    columns = sorted(sorted(range(count), key=lambda column: (_hash(column, salt), column))[:wanted])
    slopes = [_gradient(score, row, asked) for row, score in zip(rows, scores, strict=True)]

    def sums(of: Iterable[int]) -> Sums:
        parts: dict[int, list[Any]] = {}
        for i in of:
            part = parts.setdefault(rows[i].bank, [0, 0, 0])
            part[0], part[1], part[2] = part[0] + slopes[i][0], part[1] + slopes[i][1], part[2] + 1
        total: list[Any] = [0, 0, 0]
        for bank in sorted(parts):
            total = [a + b for a, b in zip(total, parts[bank], strict=True)]
        return total[0], total[1], total[2]

    root = Leaf(drawn, sums(drawn))
    level = [root]
    for _ in range(asked.depth):
        level = [child for leaf in level for child in _divide(leaf, rows, edges, columns, sums, asked)]
    _value(root, asked)
    return root


def _divide(
    leaf: Leaf, rows: Sequence[Row], edges: Any, columns: Sequence[int], sums: Any, asked: Asked
) -> tuple[Leaf, ...]:
    best, found = asked.least_gain, None
    for column in columns:
        for split, missing_left, left, right, penalty in _candidates(leaf, rows, edges, column, sums, asked):
            gain = _gain(leaf, left, right, penalty, asked.monotone[column], asked)
            if gain is not None and gain > best:
                best, found = gain, (column, split, missing_left, left, right)
    if found is None:
        return ()
    column, split, missing_left, left, right = found
    sides = [
        Leaf(
            [i for i in leaf.rows if _goes_left(rows[i].values[column], split, missing_left) is side],
            sums_,
            leaf.low,
            leaf.high,
        )
        for side, sums_ in ((True, left), (False, right))
    ]
    if sign := asked.monotone[column]:
        middle = (_free(left, leaf, asked.penalty, asked) + _free(right, leaf, asked.penalty, asked)) / 2
        below, above = (sides[0], sides[1]) if sign > 0 else (sides[1], sides[0])
        below.high, above.low = middle, middle
    leaf.said, leaf.children = (column, split, missing_left), tuple(sides)
    return leaf.children


def _candidates(leaf: Leaf, rows: Sequence[Row], edges: Any, column: int, sums: Any, asked: Asked) -> Iterable[Any]:
    of_value: dict[Value, list[int]] = {}
    for i in leaf.rows:
        of_value.setdefault(rows[i].values[column], []).append(i)
    missing = of_value.get(None, [])
    if not asked.categories[column]:
        for edge in (*edges[column], math.inf):
            low = [i for i in leaf.rows if (value := rows[i].values[column]) is not None and value <= edge]
            high = [i for i in leaf.rows if (value := rows[i].values[column]) is not None and value > edge]
            if not missing:
                yield edge, len(low) >= len(high), sums(low), sums(high), asked.penalty
            else:
                yield edge, False, sums(low), sums(sorted(high + missing)), asked.penalty
                yield edge, True, sums(sorted(low + missing)), sums(high), asked.penalty
        return
    last = asked.categories[column]  # the missing value is ordered as the last category

    def ratio(value: Value) -> tuple[float, float]:
        g, h, _ = sums(of_value[value])
        return (g * _g(asked)) / (h * _h(asked) + asked.category_smoothing), last if value is None else value

    order = sorted(of_value, key=ratio)
    for direction in (order, order[::-1]):
        for k in range(1, min(len(order) - 1, asked.most_categories) + 1):
            sides = [direction[:k], direction[k:]]
            counts = [sum(len(of_value[value]) for value in side) for side in sides]
            right = sides[0] if counts[0] <= counts[1] else sides[1]
            if right == [None]:
                right = sides[0] if right is sides[1] else sides[1]
            categories = frozenset(int(value) for value in right if value is not None)
            of = [
                sorted(i for value in side for i in of_value[value])
                for side in (right, [v for v in order if v not in right])
            ]
            yield categories, None not in right, sums(of[1]), sums(of[0]), asked.penalty + asked.category_penalty


def _goes_left(value: Value, split: Any, missing_left: bool) -> bool:
    if value is None:
        return missing_left
    return value not in split if isinstance(split, frozenset) else value <= split


def _g(asked: Asked) -> float:
    return asked.class_weight / 2048 if asked.exact else 1.0


def _h(asked: Asked) -> float:
    return asked.class_weight / 16384 if asked.exact else 1.0


def _free(sums: Sums, leaf: Leaf, penalty: float, asked: Asked) -> float:
    """The step within the bounds of `leaf`."""
    return min(max(-(sums[0] * _g(asked)) / (sums[1] * _h(asked) + penalty), leaf.low), leaf.high)


def _gain(leaf: Leaf, left: Sums, right: Sums, penalty: float, sign: int, asked: Asked) -> float | None:
    if (
        min(left[2], right[2]) < asked.least_rows
        or min(left[1] * _h(asked), right[1] * _h(asked)) < asked.least_hessian
    ):
        return None
    if sign and sign * (_free(right, leaf, penalty, asked) - _free(left, leaf, penalty, asked)) < 0:
        return None

    def worth(sums: Sums, penalty: float) -> float:
        g, curvature = sums[0] * _g(asked), sums[1] * _h(asked) + penalty
        step = min(max(-g / curvature, leaf.low), leaf.high)
        return g * g / curvature if step == -g / curvature else -(2 * g * step + curvature * step * step)

    return worth(left, penalty) + worth(right, penalty) - worth(leaf.sums, asked.penalty)


def _value(leaf: Leaf, asked: Asked) -> None:
    if leaf.children:
        for child in leaf.children:
            _value(child, asked)
        return
    scaled = _free(leaf.sums, leaf, asked.penalty, asked) * asked.rate * 65536
    leaf.value = max(-(2**19), min(2**19, round(scaled))) if asked.exact else scaled


def _end(leaf: Leaf, values: Sequence[Value]) -> Leaf:
    while leaf.said is not None:
        column, split, missing_left = leaf.said
        leaf = leaf.children[0 if _goes_left(values[column], split, missing_left) else 1]
    return leaf


def _by_level(root: Leaf) -> list[tuple[Any, ...]]:
    order = [root]
    for leaf in order:
        leaf.place = len(order)  # of its left child
        order += leaf.children
    return [(leaf.value,) if leaf.said is None else (*leaf.said, leaf.place) for leaf in order]
