"""What a run of trees is going to do, known before a bank trains: its sums, and the bytes of each.

`TreeOutline` is of learned trees, `RandomTreeOutline` of random ones under differential privacy.

A sum's integers are as wide as its node's rows need. How the rows divide is not known before, so the plan takes the
most that there can be: of two siblings only the smaller is summed, so the nodes of a level hold at most half of all
rows, and their fields are widest together where each holds an equal part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fl.plural import plural
from fl.runs.plan import RunPlan, learned_rows
from fl.runs.tree_columns import TreeColumns, columns_to_split
from fl.secure.cost import cost_of_integers, require_engine
from fl.trees.gradients import LARGEST
from fl.trees.packing import packed_length
from fl.trees.progress import Progress
from fl.trees.settings import Terms, TreeSettings
from fl.trees.training import cut_for


@dataclass(frozen=True)
class TreeOutline:
    """All of it is public. `sums`: at most. `lanes`: of the largest sum. `bytes_up`: from one bank in all sums, about.

    `largest_bytes`: from one bank in the largest sum; both 0 where nothing is encrypted. `counts`: integers of the
    shared counts that one bank sends; 0 without. `linked`: whether the trees grow inside the noisy-or link.
    """

    banks: int
    rows: int
    settings: TreeSettings
    numbers: int
    categories: int
    sums: int
    lanes: int
    largest_bytes: int
    bytes_up: int
    counts: int
    linked: bool
    with_baselines: bool
    monotone: tuple[tuple[str, str], ...] = ()  # columns that may move the score in one direction alone, and which

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outline in words, one subject each."""
        settings = self.settings
        sent = (
            f"about {self.bytes_up:,} bytes from each bank, {self.largest_bytes:,} in the largest sum "
            f"({self.lanes:,} lanes)"
            if self.bytes_up
            else "nothing is encrypted"
        )
        return (
            f"{self.banks} banks with {self.rows:,} training rows, {plural(settings.trees, 'tree')} of depth "
            f"{settings.depth} at rate {settings.rate:g}, without differential privacy",
            f"{plural(self.numbers, 'column')} of numbers in at most {settings.bins} bins, "
            f"{self.categories} of categories; at most {plural(self.sums, 'sum')}: one for all bin edges, one for each "
            f"level; {sent}",
            *(
                (f"the score may only go {', '.join(f'{way} with {name}' for name, way in self.monotone)}",)
                if self.monotone
                else ()
            ),
            self._about_counts,
            "baselines after the last tree: trees of each bank alone, trees on pooled rows, and a network"
            if self.with_baselines
            else "no baselines: nobody will know whether joining is worth it (leave out --no-baselines to measure it)",
        )

    @property
    def _about_counts(self) -> str:
        if not self.counts:
            return "no shared counts: trees on the columns of each bank's own"
        sent = f"{plural(self.counts, 'count')} from each bank before the first sum"
        if self.linked:
            return (
                f"{sent}; trees inside the noisy-or link, beside the risk of shared parties (--option inputs=own: not)"
            )
        return f"{sent}; their windows are columns of the trees, which have no noisy-or link"


@dataclass(frozen=True)
class RandomTreeOutline:
    """Of a run under differential privacy. `values`: of one tree's sum. `bytes_up`: from one bank in it.

    `split`: names of the columns that are split. `counts`: as in `TreeOutline`.
    """

    banks: int
    rows: int
    settings: TreeSettings
    split: tuple[str, ...]
    values: int
    bytes_up: int
    counts: int
    epsilon: float
    with_baselines: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """The outline in words, one subject each."""
        settings = self.settings
        counts = f"{plural(self.counts, 'count')} from each bank before the first tree" if self.counts else "no counts"
        return (
            f"{self.banks} banks with {self.rows:,} training rows, {plural(settings.trees, 'random tree')} of depth "
            f"{settings.depth} at rate {settings.rate:g} inside the noisy-or link, at epsilon {self.epsilon:g}",
            f"splits are drawn among {', '.join(self.split)}, at {settings.bins - 1} edges between public bounds; one "
            f"noisy sum of {self.values} values for each tree, {self.bytes_up:,} bytes from each bank",
            counts,
            "baselines after the last tree: each bank alone with its own model and with its own trees, and the same "
            "trees without privacy"
            if self.with_baselines
            else "no baselines: nobody will know whether joining is worth it (leave out --no-baselines to measure it)",
        )


def random_tree_outline(plan: RunPlan) -> RandomTreeOutline:
    """The outline of the run of random trees that `plan` describes, with its noise. Raises as `tree_outline`."""
    config, joint, banks, counts = plan.config, plan.joint_noise, len(plan.banks), 0
    assert config.trees is not None and config.privacy is not None and joint is not None
    columns = TreeColumns.of(plan.source.table.schema, plan.feature_names, linked=True)
    require_engine(config.aggregation.engine)
    if plan.sharing is not None:
        counts = plan.sharing.length
        cost_of_integers(counts, plan.sharing.largest, banks)
    return RandomTreeOutline(
        banks=banks,
        rows=learned_rows(plan),
        settings=config.trees,
        split=tuple(columns.names[place] for place in columns_to_split(plan.source.table.schema, columns)),
        values=joint.dimension,
        bytes_up=cost_of_integers(joint.dimension, joint.largest, banks).bytes_up,
        counts=counts,
        epsilon=config.privacy.epsilon,
        with_baselines=config.with_baselines,
    )


def tree_outline(plan: RunPlan) -> TreeOutline:
    """The outline of the run of trees that `plan` describes.

    Raises `AggregationError` for a sum that cannot be made, and `secagg.errors.EngineUnavailable` for an engine that
    this machine does not have.
    """
    config, banks = plan.config, len(plan.banks)
    settings = config.trees
    assert settings is not None
    linked = config.model.inputs == "risk"
    columns = TreeColumns.of(plan.source.table.schema, plan.feature_names, linked=linked).columns
    rows = learned_rows(plan)
    numbers = sum(column.categories == 0 for column in columns)
    cells = sum((column.categories or settings.bins) + 1 for column in columns)
    encrypted, counts = config.aggregation.mode == "encrypted", 0
    if encrypted or plan.sharing is not None:
        require_engine(config.aggregation.engine)
    if plan.sharing is not None:
        counts = plan.sharing.length
        cost_of_integers(counts, plan.sharing.largest, banks)
    opening = int(Progress.of(Terms(columns, settings, banks)).request.widths.sum())
    levels = [_level_bits(depth, rows, cells) for depth in range(settings.depth)]
    planned = [_planned(bits, banks) if encrypted else (0, 0) for bits in (opening, *levels)]
    lanes, each = zip(*planned, strict=True)
    return TreeOutline(
        banks=banks,
        rows=rows,
        settings=settings,
        numbers=numbers,
        categories=len(columns) - numbers,
        sums=1 + settings.trees * settings.depth + (settings.patience > 0),
        lanes=max(lanes),
        largest_bytes=max(each),
        bytes_up=each[0] + settings.trees * sum(each[1:]),
        counts=counts,
        linked=linked,
        with_baselines=config.with_baselines,
        monotone=tuple(plan.source.table.schema.monotone.items()),
    )


def _planned(bits: int, banks: int) -> tuple[int, int]:
    """(lanes, bytes from one bank) of a sum of so many bits. Raises `AggregationError`."""
    widths = np.array([bits], np.int64)
    cut = cut_for(widths, banks)
    lanes = packed_length(widths, cut)
    return lanes, cost_of_integers(lanes, (1 << cut) - 1, banks).bytes_up


def _level_bits(depth: int, rows: int, cells: int) -> int:
    """Most bits of the histograms that are summed at a level: gradients, hessians and rows of each cell."""
    nodes = 1 if depth == 0 else 1 << (depth - 1)
    held = max(rows if depth == 0 else rows // (2 * nodes), 1)
    return nodes * cells * (2 * (held * LARGEST).bit_length() + held.bit_length())
