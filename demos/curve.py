"""`demos curve`: average precision at several epsilons and seeds, on the same data. An interrupted curve continues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from demos.console import err, out, print_json, progress, table
from demos.options import JSON, FilePath, ranged
from fl import options
from fl.extras import command
from fl.runs.train_options import TRAIN_OPTIONS

WITHOUT = "none"  # how a folder and a row name the run without differential privacy
PAGE = "curve.html"
ALONE = {"alone": "each bank alone, network", "alone_filter": "each bank alone, filter"}


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
    In runs without privacy, no statistics are suppressed (--min-banks 1), and the first of them also measures what each
    bank reaches alone. The table is also drawn, in curve.html in the folder.

    \b
    python -m demos curve --folder runs/curve --epsilons 2,8 --seeds 0 --customers 400 --rounds 3
    """
    levels = [WITHOUT, *(f"{level:.12g}" for level in epsilons)]
    plan = [(level, str(seed)) for seed in seeds for level in levels]
    _refuse_wrong_options(plan[-1], train_options)
    by_level: dict[str, list[dict[str, Any]]] = {level: [] for level in levels}
    with progress("runs", len(plan)) as advance:
        for done, (level, seed) in enumerate(plan, start=1):
            with_alone = (level, seed) == plan[0]  # staying alone has no noise: measured once
            run = folder / f"epsilon-{level}-seed-{seed}"
            by_level[level].append(_played(run, level, seed, train_options, with_alone))
            advance(done)
    reference = fmean(_precision(result) for result in by_level[WITHOUT])
    rows = {level: _row(results, reference) for level, results in by_level.items()}
    alone = {
        name: float(figures["average_precision"])
        for name, figures in by_level[WITHOUT][0]["baselines"].items()
        if name.startswith("alone")
    }
    found = {"folder": str(folder), "seeds": list(seeds), "curve": rows, "alone": alone}
    if find_spec("plotly") and find_spec("jinja2"):
        from fl.reports.curve_page import write_page

        write_page(found, folder / PAGE)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _precision(result: dict[str, Any]) -> float:
    return float(result["metrics"]["average_precision"])


def _row(results: list[dict[str, Any]], reference: float) -> dict[str, Any]:
    """Means over the seeds of one epsilon."""
    figures = [_precision(result) for result in results]
    evidence = [each for result in results if (each := result["metrics"].get("own_evidence")) is not None]
    protection = results[0]["privacy"]["protection"] or {}
    return {
        "average_precision": fmean(figures),
        "per_seed": figures,
        "share_of_no_privacy": fmean(figures) / reference,
        "own_evidence": fmean(float(each["average_precision"]) for each in evidence) if evidence else None,
        "attack_accuracy": protection.get("attack_accuracy"),
        "highest_posterior": protection.get("highest_posterior"),
    }


def _arguments(level: str, seed: str, train_options: tuple[str, ...], with_baselines: bool = False) -> list[str]:
    """Options of one run. Without privacy it has the model that private runs have by default."""
    if level != WITHOUT:
        return [*train_options, "--seed", seed, "--no-baselines", "--epsilon", level]
    asked = without_budget(train_options)
    models = [] if _asks_for_a_model(train_options) else ["--model", "noisy-or"]
    alone = [] if with_baselines else ["--no-baselines"]
    return [*asked, *models, "--seed", seed, "--no-dp", "--min-banks", "1", *alone]


def _asks_for_a_model(train_options: Sequence[str]) -> bool:
    """Whether the options name the model, or are of the network, which private runs then train as well."""
    from fl.runs.asked import OF_BOTH

    of_network = {name for name, option in TRAIN_OPTIONS.items() if option.only_network}
    return any(
        name == "model" or (name in of_network and value not in OF_BOTH) for _, name, value in _named(train_options)
    )


def _refuse_wrong_options(run: tuple[str, str], train_options: tuple[str, ...]) -> None:
    """Find wrong usage of `train` before the first run starts a process."""
    from demos.train import train

    train.make_context("train", _arguments(*run, train_options))


def _played(run: Path, level: str, seed: str, train_options: tuple[str, ...], with_baselines: bool) -> dict[str, Any]:
    """The result of one run: read, resumed or made, in a process of its own."""
    finished = run / "result.json"
    if not finished.exists():
        fresh = [*_arguments(level, seed, train_options, with_baselines), "--run-dir", str(run)]
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
    return [word for words, name, _ in _named(train_options) if name not in left_out for word in words]


def _named(train_options: Sequence[str]) -> Iterator[tuple[list[str], str, str]]:
    """(the words, the option's name, its value) of each option; a word that is no option has no name."""
    words = iter(train_options)
    for word in words:
        flag, has_value, value = word.partition("=")
        name, taken = flag.removeprefix("--").replace("-", "_"), [word]
        if not flag.startswith("--"):
            yield taken, "", word
            continue
        known = TRAIN_OPTIONS.get(name)
        if not has_value and (name == "option" or (known is not None and not known.is_switch)):
            value = next(words, "")
            taken.append(value)
        if name == "option":
            name, _, value = value.partition("=")
        yield taken, name, value


def _show(found: dict[str, Any]) -> None:
    columns = ("epsilon", "AP", "own", "of no DP", "attack", "poster.", "per seed")
    cells = []
    for level, row in found["curve"].items():
        each = ", ".join(f"{figure:.3f}" for figure in row["per_seed"])
        evidence = "" if row["own_evidence"] is None else f"{row['own_evidence']:.3f}"
        share = f"{100 * row['share_of_no_privacy']:.0f} %"
        gained = [row[name] for name in ("attack_accuracy", "highest_posterior")]
        guessed, sure = ("" if one is None else f"{100 * one:.3g} %" for one in gained)
        cells.append((level, f"{row['average_precision']:.3f}", evidence, share, guessed, sure, each))
    out.print(table("Average precision against epsilon", *columns, rows=cells, right=(1, 2, 3, 4, 5)))
    for name, level in found["alone"].items():
        out.print(f"{ALONE[name]}, without privacy: {level:.3f}")
    out.print(
        "AP: from released parts only. own: each bank adds its own labels when it scores; such scores have no epsilon. "
        "of no DP: AP beside that without privacy. attack: how often an observer of all releases guesses at most "
        "whether one transaction was there (a coin: 50 %). poster.: how sure it becomes at most, from 0.1 %. epsilon: "
        "total of shared counts and training, for a transaction in shared counts and a training row with its features "
        "fixed. No claim for a card or a customer. Banks alone: from private labels, outside every epsilon.",
        style="dim",
    )
    page = Path(found["folder"]) / PAGE
    if page.exists():
        out.print(f"plot: {page}", soft_wrap=True)
    else:
        out.print(f"no plot: it needs plotly and jinja2: {command('examine')}", style="dim")
