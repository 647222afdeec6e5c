"""Tables of `demos assist`: what its stories found, for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from demos.console import out, print_json, size, table


def show(result: dict[str, Any] | None, as_json: bool, shown: Callable[[dict[str, Any]], None]) -> None:
    """Print the result of a story and who made it, as JSON or as tables. Prints nothing after a dry run."""
    if result is None:
        return
    if as_json:
        print_json(result)
        return
    shown(result)
    if isinstance(result.get("made_by"), dict):
        out.print(f"made by {result['made_by']['note']}", soft_wrap=True)


def show_pairs(title: str, skip: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], None]:
    """Shows a result whose entries are a name and a value each."""

    def shown(result: dict[str, Any]) -> None:
        rows = [(key.replace("_", " "), _text(key, value)) for key, value in result.items() if key not in skip]
        out.print(table(title, "what", "value", rows=rows))

    return shown


def _text(key: str, value: Any) -> str:
    if key.startswith("bytes"):
        return size(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_synthetic(result: dict[str, Any]) -> None:
    checked = result["validation"]
    counts = {"rows": checked["rows"], "frauds": result["frauds"], "cannot be approved": checked["blocked"]}
    counts |= {f"  found: {kind}": count for kind, count in checked["found"].items()}
    rows = [(what, str(count)) for what, count in counts.items()]
    out.print(table("Synthetic transactions", "what", "value", rows=rows, right=(1,)))
    columns = ("bank", "copies", "nearer to training", "detector AUC")
    likeness = [
        (
            each["bank"],
            str(each["copies"]),
            f"{each['nearer_to_training']:.2f}",
            "-" if each["detector_auc"] is None else f"{each['detector_auc']:.3f}",
        )
        for each in checked["likeness"]
    ]
    out.print(table("Likeness to each bank's own rows", *columns, rows=likeness, right=(1, 2, 3)))
    out.print(f"enter your decisions in: {result['approval_file']}", soft_wrap=True)


def show_comparison(result: dict[str, Any]) -> None:
    compared = result["comparison"]
    rows = [("without", f"{compared['unchanged']:.4f}"), ("with", f"{compared['changed']:.4f}")]
    title = f"Average precision, mean of {compared['windows']} test windows"
    out.print(table(title, "model", "average precision", rows=rows, right=(1,)))
    out.print(
        f"difference {compared['difference']:+.4f}, {100 * compared['confidence']:.0f} % interval "
        f"{compared['low']:+.4f} to {compared['high']:+.4f}: {compared['verdict']}",
    )


def show_features(result: dict[str, Any]) -> None:
    rows = [(name, f"{mean:.4f}") for name, mean in result["shares"].items()]
    title = f"Traits of {result['texts']} different descriptions"
    out.print(table(title, "trait", "mean over rows", rows=rows, right=(1,)))
    for reason, count in result["unanswered"].items():
        out.print(f"unanswered: {count} ({reason})")
    if "comparison" in result:
        show_comparison(result)


def show_review(result: dict[str, Any]) -> None:
    title = f"{result['alerts']} alerts, {result['frauds']} frauds"
    rows = [(verdict, str(each["alerts"]), str(each["frauds"])) for verdict, each in result["verdicts"].items()]
    out.print(table(title, "verdict", "alerts", "frauds", rows=rows, right=(1, 2)))
    columns = ("first", "by score", "by verdict", "difference, 95 % interval")
    depths = []
    for row in result["agreement"]:
        interval = f"{row['by_queue'] - row['by_score']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        depths.append((str(row["depth"]), f"{row['by_score']:.3f}", f"{row['by_queue']:.3f}", interval))
    out.print(table("Share of frauds at the head of the queue", *columns, rows=depths, right=(0, 1, 2, 3)))


def show_proposals(result: dict[str, Any]) -> None:
    rows = [(proposal["folder"], str(proposal["candidates"])) for proposal in result["proposals"]]
    out.print(table("Examples to decide about", "folder", "candidates", rows=rows, right=(1,)))


def show_files(result: dict[str, Any]) -> None:
    columns = ("folder", "examples", "frauds", "tokens, at most", "tokens, a guess")
    keys = ("examples", "frauds", "tokens_at_most", "tokens_guessed")
    rows = [(Path(file["file"]).parent.name, *(str(file[key]) for key in keys)) for file in result["files"]]
    out.print(table("Examples", *columns, rows=rows, right=(1, 2, 3, 4)))
    out.print(result["note"])
