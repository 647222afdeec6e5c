"""Measure the value of each component of a run: repeat the run without it, with several seeds, and compare.

What it does: `variants` removes one component at a time from a run's configuration; `play` trains every variant with
every seed, each in its own run folder, so that an ablation that was killed can continue; `summarise` compares each
variant with the whole run, seed by seed, with a 95 % t-interval; the runs at other epsilons make a privacy-utility
curve.

Like the baselines, an ablation is **evaluation only**. Every cell has its own ledger in its folder: an ablation of
a private run spends epsilon on the same rows again and again. Do not run it where the privacy promise must be kept.

A run has no option to leave out masks: they cancel exactly, and a run without them would trust the aggregator. Their
cost is the `mask` stage of the whole run, which is reported with the differences.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from fl.durable import replace_json
from fl.errors import AblationError
from fl.rounds.algorithms.settings import AlgorithmSettings
from fl.runs.asked import configuration
from fl.runs.config import RunConfig, config_to_toml
from fl.runs.experiment import Experiment
from fl.runs.kinds import begun, resumed
from fl.runs.styles import OPEN, PRIVATE

WHOLE = "whole run"
FIGURES = ("average_precision", "roc_auc", "card_precision_at_100")  # compared between variants
CONFIDENCE = 0.95
FORMAT = "ablation 1"


@dataclass(frozen=True)
class Component:
    """A part of a run that can be left out. `without`: the configuration without it; None where the run lacks it."""

    name: str
    what: str  # description of the run without it
    without: Callable[[RunConfig], RunConfig | None]


@dataclass(frozen=True)
class Variant:
    """One configuration of an ablation, for all seeds. `epsilon`: of a point of the trade-off curve, else None."""

    name: str
    what: str
    config: RunConfig
    epsilon: float | None = None


def _without_encryption(config: RunConfig) -> RunConfig | None:
    """None also where the noise is added inside the encrypted sum, which needs encryption."""
    privacy = config.privacy
    if config.aggregation.mode == "plain":
        return None
    in_the_sum = privacy is not None and (privacy.unit == "client" or privacy.noise == "shared")
    if in_the_sum or (privacy is not None and config.model.kind != "mlp"):
        return None
    return replace(config, aggregation=replace(config.aggregation, mode="plain"))


def _without_privacy(config: RunConfig) -> RunConfig | None:
    """Also sets the training for runs without privacy: the large steps of private training diverge without noise."""
    if config.privacy is None:
        return None
    if config.model.kind != "mlp":
        return configuration({"no_dp": True, "model": config.model.kind}, config)
    statistics = None if config.statistics is None else config.statistics.undecided()
    return replace(
        config,
        privacy=None,
        statistics=statistics,
        model=config.baseline_model,
        training=config.baseline_training,
        rounds=_rounds_of_training(config),
    )


def _rounds_of_training(config: RunConfig) -> int:
    """Rounds of a run whose banks train by themselves.

    Under shared noise a round is one step. The same number of rounds of local training would be another experiment.
    """
    shared = config.privacy is not None and config.privacy.noise == "shared"
    return min(config.rounds, OPEN.rounds) if shared else config.rounds


def _without_noisy_or(config: RunConfig) -> RunConfig | None:
    """Also sets what suits the network: its training, clip and share of epsilon for counts."""
    if config.model.kind != "noisy-or":
        return None
    noise = {} if config.privacy is None else {"noise": config.privacy.noise}
    return configuration({"model": "mlp", **noise}, config)


def _without_trees(config: RunConfig) -> RunConfig | None:
    """The network, which keeps no column monotone."""
    if config.trees is None:
        return None
    noise = {} if config.privacy is None else {"noise": config.privacy.noise}
    return configuration({"model": "mlp", "ignore_monotone": True, **noise}, config)


def _without_history(config: RunConfig) -> RunConfig | None:
    return configuration({"history_days": 0}, config) if config.model.history_days else None


def _without_filter(config: RunConfig) -> RunConfig | None:
    """None for the noisy-or model, which is made of the filter's risk."""
    if config.model.kind == "noisy-or" or config.model.inputs != "risk":
        return None
    if config.trees is not None and config.privacy is not None:  # which covers no windows at a terminal
        return None
    if config.trees is not None:  # also sets what suits the windows, which suppress cells of few banks
        return configuration({"inputs": "own", "history_days": 0}, config)
    return replace(config, model=replace(config.model, inputs="own"))


def _without_statistics(config: RunConfig) -> RunConfig | None:
    return None if config.statistics is None else replace(config, statistics=None)


def _without_algorithm(config: RunConfig) -> RunConfig | None:
    return None if config.algorithm.name == "fedavg" else replace(config, algorithm=AlgorithmSettings())


def _without_accidents(config: RunConfig) -> RunConfig | None:
    return None if config.participation is None else replace(config, participation=None)


def _without_shared_noise(config: RunConfig) -> RunConfig | None:
    """Also sets the network's training for each bank's own noise: a step under shared noise uses all banks' rows."""
    if config.privacy is None or config.privacy.noise != "shared":
        return None
    if config.model.kind != "mlp":  # their sums use all banks' rows under either noise
        return replace(config, privacy=replace(config.privacy, noise="own"))
    asked = config.training
    return replace(
        config,
        privacy=replace(config.privacy, noise="own"),
        model=PRIVATE.model,
        training=replace(PRIVATE.training, epochs=asked.epochs, batch_size=asked.batch_size),
        rounds=_rounds_of_training(config),
    )


def _without_compression(config: RunConfig) -> RunConfig | None:
    aggregation = config.aggregation
    fine = aggregation.mode == "plain" or aggregation.value_bits >= OPEN.value_bits
    if fine and config.compression is None:
        return None
    bits = max(aggregation.value_bits, OPEN.value_bits)
    return replace(config, aggregation=replace(aggregation, value_bits=bits), compression=None)


def _without_limits(config: RunConfig) -> RunConfig | None:
    return None if config.resources is None else replace(config, resources=None)


def _without_rule(config: RunConfig) -> RunConfig | None:
    return None if config.robust is None else replace(config, robust=None)


def _without_weight(config: RunConfig) -> RunConfig | None:
    if config.trees is not None:
        plain = replace(config, trees=replace(config.trees, class_weight=1))
        return None if plain == config else plain
    if config.training.pos_weight == 1.0:
        return None
    return replace(config, training=replace(config.training, pos_weight=1.0))


def _without_dropout(config: RunConfig) -> RunConfig | None:
    if config.trees is not None:  # these are settings of the network that trees are compared with
        return None
    return None if config.model.dropout == 0.0 else replace(config, model=replace(config.model, dropout=0.0))


def _without_momentum(config: RunConfig) -> RunConfig | None:
    training = config.training
    if config.trees is not None:
        return None
    if training.optimiser != "sgd" or training.momentum == 0.0:
        return None
    return replace(config, training=replace(training, momentum=0.0))


COMPONENTS = {
    component.name: component
    for component in (
        Component("encryption", "averages in plain sight, without masks or quantisation", _without_encryption),
        Component("privacy", "no differential privacy, with the training that suits that", _without_privacy),
        Component("shared noise", "noise of every bank's own, each alone enough", _without_shared_noise),
        Component("noisy-or model", "the network, with the training that suits it", _without_noisy_or),
        Component("trees", "the network, with the training that suits it", _without_trees),
        Component("history", "rows of the training period alone, and as many fewer declared", _without_history),
        Component("filter", "own windows and sums of counts in place of the risk of parties", _without_filter),
        Component("statistics", "no shared counts of parties", _without_statistics),
        Component("algorithm", "FedAvg in place of the run's algorithm", _without_algorithm),
        Component("participation", "every bank in every round, no accidents", _without_accidents),
        Component("compression", f"all layers at {OPEN.value_bits} bits a value", _without_compression),
        Component("limits", "no limits of any bank's memory, time or bytes", _without_limits),
        Component("robust rule", "every update enters the average, whatever it is like", _without_rule),
        Component("fraud weight", "frauds weigh like other rows in the loss", _without_weight),
        Component("dropout", "no dropout", _without_dropout),
        Component("momentum", "no momentum in local steps", _without_momentum),
    )
}


def variants(
    config: RunConfig, components: Sequence[str] | None = None, epsilons: Sequence[float] = ()
) -> list[Variant]:
    """The whole run, the run without each component, and the run at each of `epsilons`.

    `components`: by name; all that `config` has when None. Raises `AblationError` for an unknown name, for a
    component that the run does not have, and for epsilons of a run without privacy.
    """
    whole = _apart(config)
    planned = [Variant(WHOLE, "all components", whole)]
    for name in COMPONENTS if components is None else components:
        if name not in COMPONENTS:
            raise AblationError(f"expected components among {', '.join(COMPONENTS)}, got {name!r}")
        without = COMPONENTS[name].without(whole)
        if without is not None:
            planned.append(Variant(f"without {name}", COMPONENTS[name].what, without))
        elif components is not None:
            raise AblationError(f"this run has no {name} to leave out; name components that it has")
    if len(planned) == 1:
        raise AblationError("this run has no component to leave out")
    for epsilon in epsilons:
        if whole.privacy is None:
            raise AblationError("a run without differential privacy has no epsilon to vary; leave --epsilons out")
        at = configuration({"epsilon": epsilon}, whole)
        planned.append(Variant(f"epsilon {epsilon:g}", f"a budget of {epsilon:g}", at, epsilon))
    return planned


def _apart(config: RunConfig) -> RunConfig:
    """`config` without the values of its own run: ledgers, calibrated noise, baselines."""
    privacy, statistics = config.privacy, config.statistics
    if privacy is not None:
        privacy = replace(privacy, budget_dir=None, noise_multiplier=None, share_variance=None, share_pieces=None)
        privacy = replace(privacy, learning_rate=None)
    if statistics is not None:
        statistics = statistics.undecided()
    return replace(config, privacy=privacy, statistics=statistics, with_baselines=False)


def prepare(folder: Path, config: RunConfig, plan: Sequence[Variant], seeds: int, *, resume: bool) -> None:
    """Create the ablation's folder, or check that it holds this ablation.

    Raises `AblationError` when `folder` is not empty and `resume` is False, and when it holds another ablation.
    """
    asked = {"config": config_to_toml(_apart(config)), "variants": [v.name for v in plan], "seeds": seeds}
    path = folder / "plan.json"
    if path.exists():
        if not resume:
            raise AblationError(f"{folder} holds an ablation already: continue it with --resume, or name another --out")
        if json.loads(path.read_text(encoding="utf-8")) != asked:
            raise AblationError(f"{folder}: expected the options and seeds of its ablation, got other options or seeds")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AblationError(f"{folder} holds something else than an ablation: name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(path, asked)


def play(folder: Path, plan: Sequence[Variant], seeds: int) -> Iterator[tuple[Variant, int, dict[str, Any]]]:
    """Train what is not finished; yields (variant, seed, result) of every cell, in order."""
    for seed in range(seeds):
        for variant in plan:
            number = variant.config.seed + seed
            path = folder / "cells" / f"{variant.name.replace(' ', '-')}-seed-{number}"
            yield variant, number, cell(replace(variant.config, seed=number), path)


def cell(config: RunConfig, path: Path) -> dict[str, Any]:
    """The result of one run, which is read, continued or started.

    An interrupted run without privacy continues to the same bytes. A run with privacy would lose the interrupted round
    and differ from the other runs, so it is started anew.
    """
    finished = path / "result.json"
    if not finished.exists():
        experiment = _begun(config, path)
        for _ in experiment.rounds():
            pass
        experiment.result()
    result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
    return result


def _begun(config: RunConfig, path: Path) -> Experiment:
    if config.privacy is None and (path / "manifest.json").exists():
        return resumed(path)
    if path.exists():
        shutil.rmtree(path)
    return begun(config, path)


def summarise(cells: Sequence[tuple[Variant, int, Mapping[str, Any]]]) -> dict[str, Any]:
    """Differences of each variant to the whole run of the same seed, costs, and the privacy-utility curve."""
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for variant, _, result in cells:
        by_variant.setdefault(variant.name, []).append(result)
    chosen = {variant.name: variant for variant, _, _ in cells}
    whole = by_variant[WHOLE]
    return {
        "format": FORMAT,
        "seeds": sorted({seed for _, seed, _ in cells}),
        "confidence": CONFIDENCE,
        "config": asdict(chosen[WHOLE].config),
        "comparisons": len(by_variant) - 1,
        "variants": [_row(chosen[name], results, whole, len(by_variant) - 1) for name, results in by_variant.items()],
        "curve": _curve(chosen, by_variant),
        "mask_seconds": fmean(result["overhead"]["seconds"].get("mask", 0.0) for result in whole),
    }


def _row(
    variant: Variant, results: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]], comparisons: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"name": variant.name, "what": variant.what, "n": len(results)}
    for figure in FIGURES:
        values = [float(result["metrics"][figure]) for result in results]
        others = [float(result["metrics"][figure]) for result in whole]
        # The value of the component: with it minus without it.
        gained = [other - value for other, value in zip(others, values, strict=True)]
        row[figure] = {"mean": fmean(values), "per_seed": values, "worth": None}
        if variant.name != WHOLE:
            row[figure]["worth"] = paired(gained, comparisons)
    row["epsilon"] = results[0]["privacy"]["epsilon"]
    row["largest_average_error"] = max(result["overhead"]["max_abs_error"] for result in results)
    row["bytes_up_per_bank"] = fmean(result["overhead"]["bytes_up"] / result["banks"] for result in results)
    row["train_seconds"] = fmean(result["overhead"]["seconds"]["training"] for result in results)
    row["aggregate_seconds"] = fmean(result["overhead"]["seconds"]["aggregation"] for result in results)
    return row


def paired(differences: Sequence[float], comparisons: int = 1) -> dict[str, Any]:
    """Mean of paired differences with its t-interval; no interval for a single pair.

    `certain`: whether zero is outside an interval that is widened for the number of `comparisons` (Bonferroni): of
    twenty intervals at 95 %, one excludes zero by chance.
    """
    n, mean = len(differences), fmean(differences)
    figures: dict[str, Any] = {"mean": mean, "per_seed": list(differences), "n": n, "low": None, "high": None}
    if n < 2:
        return {**figures, "certain": False}
    error = stdev(differences) / n**0.5
    half, wide = (float(student.ppf(1 - (1 - CONFIDENCE) / (2 * times), n - 1)) * error for times in (1, comparisons))
    return {**figures, "low": mean - half, "high": mean + half, "certain": abs(mean) > wide}


def _curve(
    chosen: Mapping[str, Variant], by_variant: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Average precision by budget, including the run's own; the run without privacy is last, with budget None."""
    privacy = chosen[WHOLE].config.privacy
    if privacy is None:
        return []
    budgets: list[tuple[float | None, str]] = [(v.epsilon, name) for name, v in chosen.items() if v.epsilon is not None]
    budgets.append((privacy.epsilon, WHOLE))
    points = sorted(budgets, key=lambda point: point[0] or 0.0)
    if "without privacy" in by_variant:
        points.append((None, "without privacy"))
    curve = []
    for budget, name in points:
        values = [float(result["metrics"]["average_precision"]) for result in by_variant[name]]
        curve.append({"epsilon": budget, "average_precision": fmean(values), "per_seed": values, "n": len(values)})
    return curve
