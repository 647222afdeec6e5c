"""`demos curve`: average precision at several epsilons and seeds, on the same data. An interrupted curve continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from demos.console import err, out, print_json, progress, table
from demos.options import JSON, FilePath, ranged
from fl import options
from fl.runs.train_options import TRAIN_OPTIONS

WITHOUT = "none"  # how a folder and a row name the run without differential privacy


@click.command("curve", context_settings={"ignore_unknown_options": True})
@ranged("--epsilons", options.EPSILONS, "Total epsilons, for statistics and training together.", default="1,2,3,4,8")
@ranged("--seeds", options.SEEDS, "Seeds of the runs.", default="0,1,2")
@click.option("--folder", type=FilePath(), required=True, help="Folder of all runs. Finished runs in it are kept.")
@JSON
@click.argument("train_options", nargs=-1, type=click.UNPROCESSED)
def curve(
    epsilons: tuple[float, ...], seeds: tuple[int, ...], folder: Path, as_json: bool, train_options: tuple[str, ...]
) -> None:
    """Train without privacy and at every epsilon, for every seed. TRAIN_OPTIONS are passed to `train`.

    Every run has its own folder under --folder. A finished run is not repeated, and an interrupted one is resumed.
    In runs without privacy, no statistics are suppressed (--min-banks 1).

    \b
    python -m demos curve --folder runs/curve --epsilons 2,8 --seeds 0 --customers 400 --rounds 3
    """
    levels = [WITHOUT, *(f"{level:.12g}" for level in epsilons)]
    plan = [(level, str(seed)) for seed in seeds for level in levels]
    _refuse_wrong_options(plan[-1], train_options)
    by_level: dict[str, list[float]] = {level: [] for level in levels}
    with progress("runs", len(plan)) as advance:
        for done, (level, seed) in enumerate(plan, start=1):
            result = _played(folder / f"epsilon-{level}-seed-{seed}", level, seed, train_options)
            by_level[level].append(float(result["metrics"]["average_precision"]))
            advance(done)
    reference = fmean(by_level[WITHOUT])
    rows = {
        level: {
            "average_precision": fmean(figures),
            "per_seed": figures,
            "share_of_no_privacy": fmean(figures) / reference,
        }
        for level, figures in by_level.items()
    }
    if as_json:
        print_json({"folder": str(folder), "curve": rows})
    else:
        _show(rows)


def _arguments(level: str, seed: str, train_options: tuple[str, ...]) -> list[str]:
    asked = without_budget(train_options) if level == WITHOUT else [*train_options]
    privacy = ["--no-dp", "--min-banks", "1"] if level == WITHOUT else ["--epsilon", level]
    return [*asked, "--seed", seed, "--no-baselines", *privacy]


def _refuse_wrong_options(run: tuple[str, str], train_options: tuple[str, ...]) -> None:
    """Find wrong usage of `train` before the first run starts a process."""
    from demos.train import train

    train.make_context("train", _arguments(*run, train_options))


def _played(run: Path, level: str, seed: str, train_options: tuple[str, ...]) -> dict[str, Any]:
    """The result of one run: read, resumed or made, in a process of its own."""
    finished = run / "result.json"
    if not finished.exists():
        fresh = [*_arguments(level, seed, train_options), "--run-dir", str(run)]
        arguments = ["--resume", str(run)] if (run / "manifest.json").exists() else fresh
        command = [sys.executable, "-m", "demos", "train", *arguments, "--json"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
        if done.returncode != 0:
            err.print(done.stderr)
            raise click.ClickException(
                f"the run at epsilon {level}, seed {seed} ended with exit code {done.returncode}; "
                "run this command again to resume it"
            )
    result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return result


def without_budget(train_options: Sequence[str]) -> list[str]:
    """`train_options` without those of a privacy budget, which `train --no-dp` refuses. All of them take a value."""
    left_out = {name for name, option in TRAIN_OPTIONS.items() if option.only_private}
    kept: list[str] = []
    words = iter(train_options)
    for word in words:
        flag, has_value, value = word.partition("=")
        taken = [word]
        if flag == "--option" and not has_value:
            value = next(words, "")
            taken.append(value)
        name = value.partition("=")[0] if flag == "--option" else flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in left_out:
            kept += taken
        elif flag != "--option" and not has_value:
            next(words, None)
    return kept


def _show(rows: dict[str, dict[str, Any]]) -> None:
    columns = ("epsilon", "AP", "of AP without privacy", "per seed")
    cells = []
    for level, row in rows.items():
        each = ", ".join(f"{figure:.3f}" for figure in row["per_seed"])
        cells.append((level, f"{row['average_precision']:.3f}", f"{100 * row['share_of_no_privacy']:.0f} %", each))
    out.print(table("Average precision against epsilon", *columns, rows=cells, right=(1, 2)))
    out.print(
        "epsilon: total of shared statistics and training, delta as in the runs; units: a transaction in shared "
        "counts, a training row with its features fixed. No claim for a card or a customer.",
        style="dim",
    )
