"""Tables of `demos assist`: what its stories found, for people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from demos.console import out, print_json, size, table


def show(result: dict[str, Any] | None, as_json: bool, shown: Callable[[dict[str, Any]], None]) -> None:
    """A story's result as JSON or as tables, and who made it; nothing after a dry run."""
    if result is None:
        return
    if as_json:
        print_json(result)
        return
    shown(result)
    if isinstance(result.get("made_by"), dict):
        out.print(f"made by {result['made_by']['note']}", highlight=False, soft_wrap=True)


def show_pairs(title: str, skip: tuple[str, ...] = ()) -> Callable[[dict[str, Any]], None]:
    """Shows a result whose entries are a name and a value each."""

    def shown(result: dict[str, Any]) -> None:
        made = table(title, "what", "value")
        for key, value in result.items():
            if key in skip:
                continue
            text = (
                size(value) if key.startswith("bytes") else f"{value:.4g}" if isinstance(value, float) else str(value)
            )
            made.add_row(key.replace("_", " "), text)
        out.print(made)

    return shown


def show_synthetic(result: dict[str, Any]) -> None:
    found = result["validation"]
    made = table("Synthetic transactions", "what", "value", right=(1,))
    made.add_row("rows", str(found["rows"]))
    made.add_row("frauds", str(result["frauds"]))
    made.add_row("cannot be approved", str(found["blocked"]))
    for kind, count in found["found"].items():
        made.add_row(f"  found: {kind}", str(count))
    out.print(made)
    like = table(
        "Likeness to each bank's own rows", "bank", "copies", "nearer to training", "detector AUC", right=(1, 2, 3)
    )
    for figures in found["likeness"]:
        auc = figures["detector_auc"]
        like.add_row(
            figures["bank"],
            str(figures["copies"]),
            f"{figures['nearer_to_training']:.2f}",
            "-" if auc is None else f"{auc:.3f}",
        )
    out.print(like)
    out.print(f"enter your decisions in: {result['approval_file']}", highlight=False, soft_wrap=True)


def show_comparison(result: dict[str, Any]) -> None:
    found = result["comparison"]
    made = table(
        f"Average precision, mean of {found['windows']} test windows", "model", "average precision", right=(1,)
    )
    made.add_row("without", f"{found['unchanged']:.4f}")
    made.add_row("with", f"{found['changed']:.4f}")
    out.print(made)
    out.print(
        f"difference {found['difference']:+.4f}, {100 * found['confidence']:.0f} % interval "
        f"{found['low']:+.4f} to {found['high']:+.4f}: {found['verdict']}",
        highlight=False,
    )


def show_features(result: dict[str, Any]) -> None:
    made = table(f"Traits of {result['texts']} different descriptions", "trait", "mean over rows", right=(1,))
    for name, mean in result["shares"].items():
        made.add_row(name, f"{mean:.4f}")
    out.print(made)
    for reason, count in result["unanswered"].items():
        out.print(f"unanswered: {count} ({reason})", highlight=False)
    if "comparison" in result:
        show_comparison(result)


def show_review(result: dict[str, Any]) -> None:
    made = table(f"{result['alerts']} alerts, {result['frauds']} frauds", "verdict", "alerts", "frauds", right=(1, 2))
    for verdict, counts in result["verdicts"].items():
        made.add_row(verdict, str(counts["alerts"]), str(counts["frauds"]))
    out.print(made)
    columns = ("first", "by score", "by verdict", "difference, 95 % interval")
    depth = table("Share of frauds at the head of the queue", *columns, right=(0, 1, 2, 3))
    for row in result["agreement"]:
        interval = f"{row['by_queue'] - row['by_score']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        depth.add_row(str(row["depth"]), f"{row['by_score']:.3f}", f"{row['by_queue']:.3f}", interval)
    out.print(depth)


def show_proposals(result: dict[str, Any]) -> None:
    made = table("Examples to decide about", "folder", "candidates", right=(1,))
    for proposal in result["proposals"]:
        made.add_row(proposal["folder"], str(proposal["candidates"]))
    out.print(made)


def show_files(result: dict[str, Any]) -> None:
    columns = ("folder", "examples", "frauds", "tokens, at most", "tokens, a guess")
    made = table("Examples", *columns, right=(1, 2, 3, 4))
    for file in result["files"]:
        cells = (file["examples"], file["frauds"], file["tokens_at_most"], file["tokens_guessed"])
        made.add_row(Path(file["file"]).parent.name, *map(str, cells))
    out.print(made)
    out.print(result["note"], highlight=False)
