"""What a run of trees tells, in sentences: the same ones in the output of `train`, in a report and on a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl.plural import plural


def grown_sentence(result: Mapping[str, Any]) -> str | None:
    """What was grown, and whether it is the model of pooled rows; None for another model."""
    trees = result.get("trees")
    if trees is None:
        return None
    if trees.get("random"):
        return (
            f"{plural(trees['trees'], 'random tree')} of depth {trees['depth']} inside the noisy-or link, split by "
            f"{', '.join(trees['split'])} where a public seed says; one noisy sum of leaves for each"
        )
    grown = f"{plural(trees['trees'], 'tree')} of depth {trees['depth']} in {plural(result['rounds'], 'sum')}"
    if trees.get("linked"):  # runs of earlier versions say nothing of it
        grown += " inside the noisy-or link, beside the risk of shared parties"
    if monotone := trees.get("monotone"):
        grown += f", whose score may only go {', '.join(f'{way} with {name}' for name, way in monotone.items())}"
    match trees["same_as_pooled"]:
        case None:
            return f"{grown}; they were not grown on pooled rows to compare"
        case True:
            return f"{grown}; trees on all rows in one place are the same, bit for bit: this run grew them to see"
        case _:
            return f"{grown}; trees on all rows in one place are not the same, and must be: report this as a fault"


def histogram_sentences(result: Mapping[str, Any]) -> tuple[str, ...]:
    """What exact histograms give away, with the figures of this run; none for another model, or under privacy."""
    trees = result.get("trees")
    if trees is None or trees.get("random"):
        return ()
    who = (
        f"everyone saw the histograms of each bank: --aggregation plain hides nothing of {result['banks']} banks"
        if result["aggregation"] == "plain"
        else f"every party saw exact histograms, each the sum over {result['banks']} banks, and none of a single bank"
    )
    said = [
        f"no differential privacy: {who}. A cell with one row shows this row's label, and not whose it is; a least "
        "number of rows in a leaf protects no cell"
    ]
    if (told := trees["told"]) is not None:
        root, deepest = told["root"], told["deepest"]
        said.append(
            f"of the cells that hold any row, {share_of(root)} hold a single one at the root, and {share_of(deepest)} "
            f"at level {deepest['level']}, the deepest ({root['cells']:,} and {deepest['cells']:,} cells in all trees)"
        )
    return tuple(said)


def share_of(level: Mapping[str, Any]) -> str:
    """The share of a level's filled cells that hold a single row."""
    return f"{100 * float(level['share']):.1f} %"
